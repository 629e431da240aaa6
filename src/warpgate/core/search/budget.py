"""Random punches of a node, whoever asks for them, within their budgets (design section 6).

One at a time; at most `random_probes_per_second`; and no more new mappings for a peer in `new_mappings_window`
seconds than `new_mappings_per_peer`, on our own router as on the peer's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from warpgate.config import Budgets
from warpgate.errors import AttemptFailed
from warpgate.model.endpoint import Endpoint

# Peers whose spending is remembered; whoever has more identities than these gets one punch at a time all the same.
PEERS_REMEMBERED = 1024
# Seconds after which one peer's punch gives way to another peer's: by then 97 % have met in a block of 1024 (in one
# second) and 86 % in all ports. Who only holds the place does so no longer than this.
TURN = 5.0


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


class Punching(Protocol):
    """What a punch needs of its session."""

    @property
    def peer_key(self) -> bytes: ...
    @property
    def initiator(self) -> bool: ...
    @property
    def context(self) -> Clock: ...
    @property
    def checks(self) -> Probing: ...
    def open_port(self, near: Endpoint) -> Endpoint: ...


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
        self._spent: OrderedDict[bytes, list[_Spent]] = OrderedDict()

    def begin(self, session: Punching, plugin: str, now: float) -> RandomPunch:
        """AttemptFailed when another one is going on, or this peer has had its share.

        What our own user asks for ends what a peer has asked for, or any stranger could keep us from it. One peer's
        ends another's that has had its turn.
        """
        if self._current is not None and not self._gives_way(self._current, session, now):
            raise AttemptFailed("another random punch is going on here; one at a time, for the router's sake")
        limit, window = self._budgets.new_mappings_per_peer, self._budgets.new_mappings_window
        recent = [entry for entry in self._spent.get(session.peer_key, ()) if now - entry.at < window]
        left = limit - sum(entry.mappings for entry in recent)
        if left <= 0:
            raise AttemptFailed(f"this peer has cost {limit} new mappings within {window:g} s")
        if self._current is not None:
            self._current.close()
        entry = _Spent(now)
        self._spent[session.peer_key] = [*recent, entry]
        self._spent.move_to_end(session.peer_key)
        if len(self._spent) > PEERS_REMEMBERED:
            self._spent.popitem(last=False)
        self._current = RandomPunch(self, session, plugin, entry, left)
        return self._current

    def _gives_way(self, current: RandomPunch, session: Punching, now: float) -> bool:
        had_its_turn = now - current.began >= TURN and current.peer_key != session.peer_key
        return not current.own and (session.initiator or had_its_turn)

    def end(self, punch: RandomPunch) -> None:
        if self._current is punch:
            self._current = None

    def next_slot(self, now: float) -> float:
        """When the next probe may leave: slots are handed out at the node's rate, and unused ones are lost.

        Who comes late for a slot by less than half the interval still has it: timers are always a little late, and
        that must not add up.
        """
        interval = 1.0 / self._budgets.random_probes_per_second
        slot = self._next_probe if self._next_probe >= now - interval / 2 else now
        self._next_probe = slot + interval
        return slot


class RandomPunch:
    """One punch: the implementation of `plugins.base.RandomPunch`. Idempotent `close`."""

    def __init__(
        self, punches: RandomPunches, session: Punching, plugin: str, spent: _Spent, mappings: int
    ) -> None:
        self.mappings_left = mappings
        self.own = session.initiator
        self.peer_key = session.peer_key
        self.began = spent.at
        self._punches = punches
        self._session = session
        self._plugin = plugin
        self._spent = spent
        self._open = True

    def open_towards(
        self, near: Endpoint, target: Endpoint, schedule: Sequence[tuple[float, int | None]]
    ) -> None:
        self._spend()
        base = self._session.open_port(near)
        for after, ttl in schedule:
            self._session.checks.probe(base, target, self._plugin, (after,), ttl)

    async def probe(self, base: Endpoint, remote: Endpoint) -> None:
        now = self._session.context.now()
        await asyncio.sleep(self._punches.next_slot(now) - now)
        self._spend()
        self._session.checks.probe(base, remote, self._plugin, (0.0,), None)

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
