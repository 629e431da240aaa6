"""The signal channel: carries sealed envelopes between nodes over public brokers. It cannot read them.

A node listens on the fastest few of its brokers (its homes, listed in its address). An envelope goes out on
every broker the caller names; those we have no link to get one for a while (as guests). The receiver sees
duplicates.

Homes are chosen once: a broker that is in an address somebody may hold is not given up for a faster one. When
a home dies another broker takes its place, and hands it back when the old one has returned.

The list that homes are chosen from can become another one (`follow`). A live home stays then, listed or not; one that
is not listed any more is let go when it is dead and others have taken its place.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

from warpgate.config import Timing
from warpgate.errors import ConfigError
from warpgate.events import BrokerConnected, Observer, ServerFailed
from warpgate.model.broker import BrokerRef
from warpgate.model.servers import BrokerUrl
from warpgate.services.broker import BrokerConnector, Judge
from warpgate.services.keeper import Keeper, Role

# How many of our brokers are tried at once; the first of the list, so that neighbours meet on the same ones.
CONTACTED = 4
# When some have answered, how long the others may take to prove faster: half as long again, within limits.
SETTLE_FACTOR = 0.5
SETTLE_LOW = 0.1
SETTLE_HIGH = 0.3
# Dead homes are kept on being tried for the sake of old addresses, up to what an address may list.
HOMES_REMEMBERED = 4
GUESTS = 8
# An envelope has at most 4 KiB (`proto/envelope.py`).
LARGEST_ENVELOPE = 4096


def _nobody() -> None:
    """For who does not care about changes."""


class SignalChannel:
    """Life: made, `start`ed once, `close`d once. Owns its brokers' links and tasks."""

    def __init__(
        self,
        connector: BrokerConnector,
        topic: str,
        urls: Sequence[str],
        *,
        home: int,
        timing: Timing,
        on_envelope: Callable[[bytes], None],
        emit: Observer,
        rng: random.Random,
        on_change: Callable[[], None] = _nobody,
        judge: Judge | None = None,
    ) -> None:
        """`urls` in order of preference (else ConfigError); `on_change` is called when `brokers` has changed.

        `judge` says to which addresses brokers may lead that are not among `urls`; None: to any.
        """
        self._connector = connector
        self._topic = topic
        self._urls = tuple(dict.fromkeys(str(BrokerUrl.parse(url)) for url in urls))
        self._wanted = home
        self._timing = timing
        self._on_envelope = on_envelope
        self._emit = emit
        self._rng = rng
        self._on_change = on_change
        self._judge = judge
        self._keepers: dict[str, Keeper] = {}  # by URL, homes in the order in which they were chosen
        self._listed: tuple[BrokerRef, ...] = ()
        self._settled = False
        self._settle_timer: asyncio.TimerHandle | None = None
        self._decided = asyncio.Event()
        self._started = 0.0
        self._ending: set[asyncio.Task[None]] = set()

    # The owner's side.

    def start(self, order: Sequence[str] = ()) -> None:
        """Begin to connect; returns at once. `order`: the same URLs as they are to be tried now."""
        self._urls = tuple(order) or self._urls
        self._started = asyncio.get_running_loop().time()
        self._recruit(CONTACTED)
        if not self._home:
            self._decided.set()

    def follow(self, urls: Sequence[str]) -> None:
        """Another list holds from now on, canonical URLs in order of preference. Links of peers and live homes stay."""
        self._urls = tuple(dict.fromkeys(urls))
        for keeper in self._with_role(Role.CANDIDATE):
            if keeper.url not in self._urls:
                keeper.become(Role.GUEST)  # an offer may be waiting there; it goes when it fails or idles
        if self._vacancies:
            self._recruit(CONTACTED)
        self._rebalance()

    async def first_home(self, patience: float) -> bool:
        """True as soon as a home is up; False when all brokers have failed once or `patience` (s) is over."""
        try:
            async with asyncio.timeout(patience):
                await self._decided.wait()
        except TimeoutError:
            pass
        return any(home.live for home in self._with_role(Role.HOME))

    def retry(self) -> None:
        """There may be a way now that there was not: dial the brokers that are not up, at once."""
        for keeper in self._keepers.values():
            if not keeper.live:
                keeper.redial()

    def hurry(self) -> None:
        """Peers need to reach us now: those that are dialled again after a while are dialled at once."""
        for keeper in self._keepers.values():
            keeper.hurry()

    def reconnect(self, young: float = 0.0) -> None:
        """After a change of networks: dial all brokers anew, at once, but those dialled less than `young` s ago."""
        for keeper in self._keepers.values():
            keeper.redial(young)

    async def close(self) -> None:
        """Ends all links, in less than 0.1 s whatever the brokers do."""
        if self._settle_timer is not None:
            self._settle_timer.cancel()
        for keeper in list(self._keepers.values()):
            self._dismiss(keeper)
        self._listed = ()
        while self._ending:
            await asyncio.wait(self._ending)

    # What the rest of the node asks.

    @property
    def brokers(self) -> tuple[BrokerRef, ...]:
        """The live homes with their measured round trips."""
        return self._listed

    @property
    def for_address(self) -> tuple[BrokerRef, ...]:
        """The live homes, and as long as they are too few, brokers that are being reached; where nothing is live, those
        that have failed as well: they are tried again.

        A peer repeats what is not answered, so such a broker is good enough for it, and an address that is given away
        early (a slow start, a lossy line, a broker that is started last) does not lack it.
        """
        absent = [keeper for keeper in self._keepers.values() if keeper.role is not Role.GUEST and not keeper.live]
        awaited = [keeper for keeper in absent if not keeper.failures]
        if not self._listed:
            awaited += [keeper for keeper in absent if keeper.failures]
        return (*self._listed, *(keeper.ref for keeper in awaited))[: max(self._home, len(self._listed))]

    def publish(self, urls: Sequence[str], topic: str, data: bytes) -> int:
        """Send on each of these brokers; the number on which it went out at once.

        The others are connected to first, and reported as ServerFailed when that fails.
        """
        reached = 0
        for url in dict.fromkeys(urls):
            keeper = self._keepers.get(url) or self._invite(url)
            if keeper is not None and keeper.publish(topic, data):
                reached += 1
        return reached

    def opening(self, urls: Sequence[str]) -> bool:
        """Whether one of these brokers is there, and has been spoken to, but has not let us in yet."""
        return any((keeper := self._keepers.get(url)) is not None and keeper.opening for url in urls)

    def one_way(self, peer_brokers: Sequence[BrokerRef]) -> float | None:
        """Estimated seconds to the peer over the fastest common broker; None without one.

        Half of our round trip and half of the peer's; who has not measured is taken to be as far as we.
        """
        estimates = [
            (keeper.ref.rtt + (keeper.ref.rtt if theirs.rtt is None else theirs.rtt)) / 2
            for theirs in peer_brokers
            if (keeper := self._keepers.get(theirs.url)) is not None and keeper.ref.rtt is not None
        ]
        return min(estimates, default=None)

    # Choosing homes.

    def _recruit(self, count: int) -> None:
        """Contact the next brokers of our list that are not contacted yet."""
        free = (url for url in self._urls if self._role(url) in (None, Role.GUEST))
        for url in list(itertools.islice(free, count)):
            if url in self._keepers:
                self._keepers[url].become(Role.CANDIDATE)
            else:
                self._hire(url, Role.CANDIDATE)

    def _changed(self, keeper: Keeper) -> None:
        """A keeper's link came up, went down or could not be opened."""
        if keeper.live:
            self._emit(BrokerConnected(keeper.url, keeper.ref.rtt or 0.0))
        else:
            self._emit(ServerFailed("broker", keeper.url, keeper.reason))
            if self._vacancies and keeper.role is not Role.GUEST:
                self._recruit(1)
        if not self._settled:
            self._settle_soon()
        self._rebalance()

    def _settle_soon(self) -> None:
        """Choose now when there is nothing to choose or wait for, else when the slower had their chance."""
        candidates = self._with_role(Role.CANDIDATE)
        if len(self._urls) <= self._home or all(k.live or k.failures for k in candidates):
            self._settle()
        elif self._settle_timer is None and any(keeper.live for keeper in candidates):
            loop = asyncio.get_running_loop()
            grace = min(SETTLE_HIGH, max(SETTLE_LOW, SETTLE_FACTOR * (loop.time() - self._started)))
            self._settle_timer = loop.call_later(grace, self._settle_late)

    def _settle_late(self) -> None:
        self._settle()
        self._rebalance()

    def _settle(self) -> None:
        self._settled = True
        if self._settle_timer is not None:
            self._settle_timer.cancel()

    def _rebalance(self) -> None:
        """Fill the homes from live candidates, let go of what is not needed, publish the list."""
        if self._settled:
            self._promote()
            self._demote()
        self._list()
        candidates = self._with_role(Role.CANDIDATE)
        if any(home.live for home in self._with_role(Role.HOME)) or all(k.failures for k in candidates):
            self._decided.set()

    def _promote(self) -> None:
        live = [keeper for keeper in self._with_role(Role.CANDIDATE) if keeper.live]
        for keeper in sorted(live, key=lambda keeper: keeper.ref.rtt or 0.0)[: self._vacancies]:
            self._keepers[keeper.url] = self._keepers.pop(keeper.url)  # to the end: homes in order of choice
            keeper.become(Role.HOME)

    def _demote(self) -> None:
        if self._vacancies:
            return
        homes = self._with_role(Role.HOME)
        live = [home for home in homes if home.live]
        for stand_in in live[self._home :]:
            stand_in.become(Role.GUEST)
        for candidate in self._with_role(Role.CANDIDATE):
            self._dismiss(candidate)
        dead = sorted((home for home in homes if not home.live), key=lambda home: home.failures)
        kept = [home for home in dead if home.url in self._urls][: HOMES_REMEMBERED - self._home]
        for home in dead:
            if home not in kept:
                self._dismiss(home)

    def _list(self) -> None:
        listed = tuple(keeper.ref for keeper in self._with_role(Role.HOME) if keeper.live)
        if listed != self._listed:
            self._listed = listed
            self._on_change()

    @property
    def _home(self) -> int:
        """How many homes there are to be: a shorter list than that of before gives up none that is live."""
        live = {keeper.url for keeper in self._with_role(Role.HOME) if keeper.live}
        return min(self._wanted, len(live.union(self._urls)))

    @property
    def _vacancies(self) -> int:
        return max(0, self._home - sum(keeper.live for keeper in self._with_role(Role.HOME)))

    # Keepers.

    def _role(self, url: str) -> Role | None:
        keeper = self._keepers.get(url)
        return None if keeper is None else keeper.role

    def _with_role(self, role: Role) -> list[Keeper]:
        return [keeper for keeper in self._keepers.values() if keeper.role is role]

    def _invite(self, url: str) -> Keeper | None:
        """A guest for this URL; None, and an event, when there can be none."""
        try:
            url = str(BrokerUrl.parse(url))
        except ConfigError as error:
            self._emit(ServerFailed("broker", url, str(error)))
            return None
        if url in self._keepers:
            return self._keepers[url]
        guests = self._with_role(Role.GUEST)
        if len(guests) >= GUESTS:
            spare = [guest for guest in guests if guest.spare]
            if not spare:
                self._emit(ServerFailed("broker", url, f"already {GUESTS} brokers of peers are in use"))
                return None
            self._dismiss(min(spare, key=lambda guest: guest.used))
        return self._hire(url, Role.GUEST)

    def _hire(self, url: str, role: Role) -> Keeper:
        keeper = Keeper(
            url,
            role,
            connector=self._connector,
            topic=self._topic,
            patience=self._timing.broker_timeout,
            rng=self._rng,
            on_message=self._receive,
            on_change=self._changed,
            judge=None if url in self._urls else self._judge,
        )
        self._keepers[url] = keeper
        keeper.start()
        return keeper

    def _dismiss(self, keeper: Keeper) -> None:
        del self._keepers[keeper.url]
        ending = keeper.stop()
        if ending is not None and not ending.done():
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _receive(self, data: bytes) -> None:
        if len(data) <= LARGEST_ENVELOPE:
            self._on_envelope(data)
