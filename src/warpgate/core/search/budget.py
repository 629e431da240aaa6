"""Random punches of a node, whoever asks for them, within their budgets.

One at a time; at most `random_probes_per_second`; and no more new mappings for a peer in `new_mappings_window`
seconds than `new_mappings_per_peer`, on our own router as on the peer's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from warpgate.config import Budgets
from warpgate.errors import AttemptFailed, NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.model.recent import Recent

# Peers whose spending is remembered; whoever has more identities than these gets one punch at a time all the same.
PEERS_REMEMBERED = 1024
# Seconds after which one peer's punch gives way to another peer's: by then 97 % have met in a block of 1024 (in one
# second) and 86 % in all ports. Who only holds the place does so no longer than this.
TURN = 5.0
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
    def patience(self, least: float, signals: float) -> float: ...


@dataclass(slots=True)
class _Spent:
    """New mappings of one punch; `at` is when the last one was made."""

    at: float
    mappings: int = 0


class RandomPunches:
    """The node's books."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._current: RandomPunch | None = None
        self._next_probe = 0.0
        self._spent: Recent[bytes, list[_Spent]] = Recent(PEERS_REMEMBERED)

    def begin(self, session: Punching, plugin: str, now: float) -> RandomPunch:
        """AttemptFailed when another one is going on, or this peer has had its share.

        What our own user asks for ends what a peer has asked for, or any stranger could keep us from it. One peer's
        ends another's that has had its turn, and that of an earlier search of the same seeker, which has given it up
        by that: its network has changed.
        """
        if self._current is not None and not self._gives_way(self._current, session, now):
            raise AttemptFailed("another random punch is going on here; one at a time, for the router's sake")
        limit, window = self._budgets.new_mappings_per_peer, self._budgets.new_mappings_window
        recent = [entry for entry in self._spent.get(session.peer_key, ()) if now - entry.at < window]
        left = limit - sum(entry.mappings for entry in recent)
        if left <= 0:
            raise AttemptFailed(f"this peer has cost {limit} new mappings within {window:g} s")
        replaced = self._current
        if replaced is not None:
            replaced.close()
        entry = _Spent(now)
        self._spent[session.peer_key] = [*recent, entry]
        punch = self._current = RandomPunch(self, session, plugin, entry, left)
        if replaced is not None and replaced.peer_key == session.peer_key:
            punch.began = replaced.began  # no longer turn for that
        return punch

    def _gives_way(self, current: RandomPunch, session: Punching, now: float) -> bool:
        had_its_turn = now - current.began >= TURN and current.peer_key != session.peer_key
        given_up = current.is_earlier_than(session)
        return not current.own and (session.invited or had_its_turn or given_up)

    def end(self, punch: RandomPunch) -> None:
        if self._current is punch:
            self._current = None

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

    def __init__(self, punches: RandomPunches, session: Punching, plugin: str, spent: _Spent, mappings: int) -> None:
        self.mappings_left = mappings
        self.own = session.invited
        self.peer_key = session.peer_key
        self.began = spent.at
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
            if self._open:
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
        now = self._session.context.now()
        await asyncio.sleep(self._punches.next_slot(now, self._share) - now)

    def _spend(self) -> None:
        if not self._open:
            raise AttemptFailed("this random punch is over")
        if self.mappings_left <= 0:
            raise AttemptFailed("the budget of new mappings for this peer is used up")
        self.mappings_left -= 1
        self._spent.mappings += 1
        self._spent.at = self._session.context.now()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._punches.end(self)
