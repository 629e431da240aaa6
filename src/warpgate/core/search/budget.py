"""Random punches of a node, whoever asks for them, within their budgets.

All that go on share `random_probes_per_second`, peer by peer; and they make no more new mappings for a peer in
`new_mappings_window` seconds than `new_mappings_per_peer`, on our own router as on the peer's.

Those towards the same endpoint of the same peer share their sockets: a socket understands the checks of any session.
So each finds its peer as soon as if it had all of them, and those that join open few more; who is done leaves its own
to the others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from warpgate.config import Budgets
from warpgate.errors import AttemptFailed, NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.recent import Recent

# Peers whose spending is remembered; whoever has more identities than these gets one punch at a time all the same.
PEERS_REMEMBERED = 1024
# For so many peers at once, besides what our own user asks for.
PEERS_AT_ONCE = 4
# Seconds after which one peer's punches give way to another peer's, and for which that one waits: by then 97 % have met
# in a block of 1024 (in one second) and 86 % in all ports. Who only holds a place does so no longer than this.
TURN = 5.0
# Who joins a spread adds so much of what it had alone, up to SHARED sockets: four in all ports share 448, and need 144
# probes each.
JOINING, SHARED = 1 / 4, 512
# Spreads that go elsewhere have all their sockets while there are AMPLE together, and FEWER then: 500 probes find one.
AMPLE, FEWER, MOST_SOCKETS = 768, 128, 1024
# Sockets given back when the system has no more: for brokers, accepted connections, and files of the program.
SPARED = 8
PARITY_DRAWS = 32
# Of the rate, however much our router loses, and by which it grows again.
LEAST_SHARE = 1 / 8
# What the report says.
NO_MAPPINGS = "our router had no mappings left for it"
# A server's answer, and that to a second request should the first be lost: seconds, and signals where those are slow.
MAPPED_WITHIN = 1.5, 3.0


class Probing(Protocol):
    """Checks that can be sent."""

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        plugin: str,
        offsets: tuple[float, ...] | None,
        ttl: int | None,
    ) -> None: ...


class Clock(Protocol):
    def now(self) -> float: ...


class Ports(Protocol):
    """As `SessionPorts`."""

    def open(self, near: Endpoint) -> Endpoint: ...
    def drop(self, base: Endpoint) -> None: ...
    def give(self, base: Endpoint, heir: Any) -> None: ...
    def can_be_mapped(self, near: Endpoint) -> bool: ...
    async def map(self, base: Endpoint) -> Endpoint: ...


class Punching(Protocol):
    """What a punch needs of its session."""

    setbacks: dict[str, list[str]]

    @property
    def peer_key(self) -> bytes: ...
    @property
    def invited(self) -> bool: ...
    @property
    def seeker(self) -> bytes: ...
    @property
    def context(self) -> Clock: ...
    @property
    def checks(self) -> Probing: ...
    @property
    def ports(self) -> Ports: ...
    def knows(self, base: Endpoint, remote: Endpoint) -> bool: ...
    def patience(self, least: float, signals: float) -> float: ...


@dataclass(slots=True)
class _Spent:
    """New mappings of one punch; `at` is when the last one was made."""

    at: float
    mappings: int = 0


class _Account:
    """One peer's: what it has cost, when its turn began, and the queue of its punches for the next probe."""

    def __init__(self, budgets: Budgets) -> None:
        self._limit, self._window = budgets.new_mappings_per_peer, budgets.new_mappings_window
        self._spent: list[_Spent] = []
        self.began = 0.0
        self.queue = asyncio.Lock()

    def left(self, now: float) -> int:
        return self._limit - sum(entry.mappings for entry in self._spent if now - entry.at < self._window)

    def begin(self, now: float) -> _Spent:
        """AttemptFailed when nothing is left."""
        if self.left(now) <= 0:
            raise AttemptFailed(f"this peer has cost {self._limit} new mappings within {self._window:g} s")
        self._spent = [entry for entry in self._spent if now - entry.at < self._window]
        self._spent.append(_Spent(now))
        return self._spent[-1]


class RandomPunches:
    """The node's books."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._open: list[RandomPunch] = []
        self._next_probe = 0.0
        self._accounts: Recent[bytes, _Account] = Recent(PEERS_REMEMBERED)
        self._ended = asyncio.Event()

    async def begin(self, session: Punching, plugin: str, *, alone: bool = False) -> RandomPunch:
        """As soon as there is a place. `alone`: two such punches never go on at once. AttemptFailed when this peer has
        had its share, or what others have asked for is in the way for too long.
        """
        await self.until_clear(session, lambda: self._in_the_way(session, alone))
        now = session.context.now()
        account = self._accounts.get(session.peer_key) or _Account(self._budgets)
        self._accounts[session.peer_key] = account
        if all(punch.account is not account for punch in self._open):
            account.began = now
        punch = RandomPunch(self, session, plugin, account, account.begin(now), alone=alone)
        self._open.append(punch)
        return punch

    def _in_the_way(self, session: Punching, alone: bool) -> list[RandomPunch]:
        """What our own user asks for ends what peers have asked for, or any stranger could keep us from it; and a
        search ends an earlier one of the same seeker, which has given that up: its network has changed.
        """
        for punch in tuple(self._open):
            if not punch.own and (session.invited or punch.is_earlier_than(session)):
                punch.close()
        in_the_way = [punch for punch in self._open if alone and punch.alone]
        if not session.invited:
            others = [punch for punch in self._open if punch.peer_key != session.peer_key]
            full = len({punch.peer_key for punch in others}) >= PEERS_AT_ONCE
            in_the_way += [punch for punch in others if full or punch.own]
        return in_the_way

    async def until_clear(self, session: Punching, in_the_way: Callable[[], list[RandomPunch]]) -> None:
        """Wait for these to end: another peer's do when they have had their turn. AttemptFailed when others' stay."""
        now = session.context.now
        deadline = math.inf if session.invited else now() + TURN
        while punches := in_the_way():
            others = [punch for punch in punches if punch.peer_key != session.peer_key]
            asked = {punch.account.began + TURN: punch.account for punch in others if not punch.own}
            if asked and min(asked) <= now():
                for punch in [punch for punch in self._open if punch.account is asked[min(asked)]]:
                    punch.close()
            elif others and deadline <= now():
                raise AttemptFailed("other random punches are going on here, and only a few may, for the router's sake")
            else:
                self._ended.clear()
                wake = min(at for at in (math.inf, deadline, *asked) if at > now())
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wake == math.inf else wake - now()):
                        await self._ended.wait()

    def end(self, punch: RandomPunch) -> None:
        self._open.remove(punch)
        self._ended.set()

    def beside(self, punch: RandomPunch) -> list[RandomPunch]:
        return [other for other in self._open if other is not punch]

    @property
    def planned(self) -> int:
        """Sockets of all."""
        return sum(punch.planned for punch in self._open)

    def sharing(self, punch: RandomPunch) -> list[RandomPunch]:
        """The others that go where it goes."""
        return [other for other in self.beside(punch) if other.aim == punch.aim is not None]

    def take(self, base: Endpoint, session: Any) -> None:
        """The peer has found this socket for this session, whose it is from now on, whoever had opened it."""
        for punch in self._open:
            punch.give(base, session)

    @property
    def rate(self) -> float:
        return self._budgets.random_probes_per_second

    def next_slot(self, now: float, share: float = 1.0) -> float:
        """When the next probe may leave: slots are handed out at a share of the node's rate, and unused ones are lost.

        Who comes late for a slot by less than half the interval still has it: timers are always a little late, and
        that must not add up.
        """
        interval = 1.0 / (self.rate * share)
        slot = self._next_probe if self._next_probe >= now - interval / 2 else now
        self._next_probe = slot + interval
        return slot


class RandomPunch:
    """One punch: the implementation of `plugins.base.RandomPunch`. Idempotent `close`."""

    def __init__(
        self, punches: RandomPunches, session: Punching, plugin: str, account: _Account, spent: _Spent, *, alone: bool
    ) -> None:
        self.own = session.invited
        self.peer_key = session.peer_key
        self.account = account
        self.alone = alone
        self.aim: tuple[bytes, IPAddress, Endpoint] | None = None
        self.planned = 0  # of its sockets, and those it was left
        self._punches = punches
        self._session = session
        self._plugin = plugin
        self._spent = spent
        self._open = True
        self._opened: list[Endpoint] = []
        self._clear = asyncio.Event()  # unset while our router has no mappings left
        self._clear.set()
        self._share = 1.0  # of the node's rate: less while our router loses what is sent
        self.shortage = ""
        self.times_held = 0

    def is_earlier_than(self, session: Punching) -> bool:
        """Whether the other one takes its place."""
        own = self._session
        same = own.peer_key == session.peer_key and own.seeker == session.seeker != b""
        return same and own is not session

    @property
    def sockets(self) -> int:
        return len(self._opened)

    @property
    def rate(self) -> float:
        return self._punches.rate * self._share

    def slow_down(self) -> None:
        self._share = max(LEAST_SHARE, self._share / 2)

    def speed_up(self) -> None:
        self._share = min(1.0, self._share + LEAST_SHARE)

    @property
    def mappings_left(self) -> int:
        return self.account.left(self._session.context.now())

    async def plan(self, near: Endpoint, target: Endpoint, wanted: int) -> int:
        self._opened = []
        self.planned = 0
        self.aim = (self.peer_key, near.ip, target)
        await self._punches.until_clear(self._session, self._no_room)
        if sharing := self._punches.sharing(self):
            wanted = min(math.ceil(wanted * JOINING), SHARED - sum(punch.planned for punch in sharing))
        elif not self.alone and self._punches.planned + wanted > AMPLE:
            wanted = min(wanted, FEWER)
        self.planned = max(0, min(wanted, MOST_SOCKETS - self._punches.planned, self.mappings_left))
        return self.planned

    def _no_room(self) -> list[RandomPunch]:
        """Who takes it, unless we share with somebody."""
        if self._punches.sharing(self) or self._punches.planned + FEWER <= MOST_SOCKETS:
            return []
        return [punch for punch in self._punches.beside(self) if punch.planned]

    def open_towards(
        self,
        near: Endpoint,
        target: Endpoint,
        schedule: Sequence[tuple[float, int | None]],
        parity: int | None = None,
    ) -> bool:
        self._spend()
        try:
            base = self._open_port(near, parity)
        except NetworkError as error:
            self.shortage = str(error)
            self._opened, given_back = self._opened[:-SPARED], self._opened[-SPARED:]
            for spared in given_back:
                self._session.ports.drop(spared)
            return False
        self._opened.append(base)
        for after, ttl in schedule:
            self._session.checks.probe(base, target, self._plugin, (after,), ttl)
        return True

    def _open_port(self, near: Endpoint, parity: int | None) -> Endpoint:
        """The system draws ports; each second one has the parity that is wanted."""
        for _ in range(PARITY_DRAWS):
            base = self._session.ports.open(near)
            if parity is None or base.port & 1 == parity:
                return base
            self._session.ports.drop(base)
        raise NetworkError(f"the system gives no port whose number is {'odd' if parity else 'even'}")

    async def probe(self, base: Endpoint, remote: Endpoint) -> None:
        await self._clear.wait()
        await self._slot()
        self._session.checks.probe(base, remote, self._plugin, (0.0,), None)

    async def repeat(self, remote: Endpoint, ttl: int | None) -> None:
        for base in tuple(self._opened):
            await self._turn()
            if self._open and base in self._opened:
                self._session.checks.probe(base, remote, self._plugin, (0.0,), ttl)

    async def maps_anew(self, near: Endpoint) -> float | None:
        if self.mappings_left <= 0 or not self._session.ports.can_be_mapped(near):
            return 0.0
        try:
            base = self._session.ports.open(near)
        except NetworkError:
            return 0.0  # that is our own shortage, not the router's
        try:
            await self._slot()
            asked = self._session.context.now()
            async with asyncio.timeout(self._session.patience(*MAPPED_WITHIN)):
                await self._session.ports.map(base)
        except (ServiceError, TimeoutError):
            return None
        except AttemptFailed:
            return 0.0  # the budget is used up
        finally:
            self._session.ports.drop(base)
        return self._session.context.now() - asked

    def hold_back(self) -> None:
        if self._clear.is_set():
            self._clear.clear()
            self.times_held += 1
            told = self._session.setbacks.setdefault(self._plugin, [])
            if NO_MAPPINGS not in told:
                told.append(NO_MAPPINGS)

    def go_on(self) -> None:
        self._clear.set()

    async def _slot(self) -> None:
        await self._turn()
        self._spend()

    async def _turn(self) -> None:
        async with self.account.queue:  # peers take turns, however many searches each has asked for
            now = self._session.context.now()
            await asyncio.sleep(self._punches.next_slot(now, self._share) - now)

    def _spend(self) -> None:
        if not self._open:
            raise AttemptFailed("this random punch is over")
        if self.mappings_left <= 0:
            raise AttemptFailed("the budget of new mappings for this peer is used up")
        self._spent.mappings += 1
        self._spent.at = self._session.context.now()

    def give(self, base: Endpoint, session: Any) -> None:
        """Idempotent."""
        if base in self._opened:
            self._opened.remove(base)
            if session is not self._session:
                self._session.ports.give(base, session.ports)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._punches.end(self)
            for heir in self._punches.sharing(self)[:1]:
                heir.inherit(self)

    def inherit(self, other: RandomPunch) -> None:
        """The sockets of one that is over, but for those where its peer was heard."""
        for base in tuple(other._opened):
            if self.aim is not None and not other._session.knows(base, self.aim[2]):
                other.give(base, self._session)
                self._opened.append(base)
                self.planned += 1
