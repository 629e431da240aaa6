"""The pair matrix as values: what was asked, what each pair of kinds came to, and what is wrong with it.

`matrix_run` measures one, `matrix_picture` draws it, `theory` says what each cell should be.
"""

from __future__ import annotations

import enum
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from warpgate.config import Budgets
from warpgate.errors import DecodeError
from warpgate.lab.kinds import kind_of
from warpgate.lab.steered import Connected
from warpgate.lab.theory import Crossing, expected
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Family, Mode, Transport

MOST_ENTRIES: Final = Budgets().new_mappings_per_peer


class Ask(enum.Enum):
    """What connect is asked for."""

    DATAGRAM = "datagram"  # over UDP
    TCP = "tcp"  # a stream over TCP
    STREAM = "stream"  # a stream over whatever comes first

    @property
    def mode(self) -> Mode:
        return Mode.DATAGRAM if self is Ask.DATAGRAM else Mode.STREAM

    @property
    def transport(self) -> Transport | None:
        """What the caller insists on."""
        return Transport.TCP if self is Ask.TCP else None

    @property
    def carriers(self) -> tuple[Transport, ...]:
        """What a link may run over."""
        return {Ask.DATAGRAM: (Transport.UDP,), Ask.TCP: (Transport.TCP,), Ask.STREAM: tuple(Transport)}[self]


@dataclass(frozen=True, slots=True)
class Place:
    """One cell's place: who connects to whom, in which family, asking for what."""

    family: Family
    ask: Ask
    initiator: str
    responder: str

    @property
    def expected(self) -> Crossing:
        """The best that theory has for any transport that was asked for."""
        kinds = kind_of(self.initiator), kind_of(self.responder)
        found = {expected(*kinds, transport, self.family) for transport in self.ask.carriers}
        return next(crossing for crossing in Crossing if crossing in found)


@dataclass(frozen=True, slots=True)
class Spent:
    """What one site had spent by an instant: IP packets sent by its host; rows made in its routers' tables."""

    packets: int
    mappings: int
    flows: int

    def since(self, earlier: Spent) -> Spent:
        return Spent(self.packets - earlier.packets, self.mappings - earlier.mappings, self.flows - earlier.flows)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connect: what the initiator saw, and what both sites spent on it until the pipe was closed again."""

    seen: Connected
    initiator: Spent
    responder: Spent


@dataclass(frozen=True, slots=True)
class Cell:
    """What `count` connects from one kind to another came to.

    `winner`, `transport` and `relayed` are those of most connects that succeeded ("" and False when none did), `direct`
    is how many were not relayed, `seconds` their median time until `connect` returned and `worst` the longest.
    `packets` (IP packets that both hosts sent, signals and one echo included), `mappings` and `flows` (created in all
    routers of both sites) are medians of all connects; `most_entries` is the most flows that any connect made in the
    routers of one site. `failures` has a reason for each connect that failed.
    """

    family: Family
    ask: Ask
    initiator: str
    responder: str
    expected: Crossing
    count: int
    connected: int
    direct: int
    winner: str
    transport: str
    relayed: bool
    seconds: float | None
    worst: float | None
    packets: int
    mappings: int
    flows: int
    most_entries: int
    failures: tuple[str, ...]

    @classmethod
    def of(cls, place: Place, attempts: Sequence[Attempt]) -> Cell:
        """`attempts`: one or more."""
        good = [attempt.seen for attempt in attempts if attempt.seen.ok]
        ways = Counter((seen.plugin, seen.transport, seen.relayed) for seen in good)
        winner, transport, relayed = ways.most_common(1)[0][0] if ways else ("", "", False)
        sites = [(attempt.initiator, attempt.responder) for attempt in attempts]
        return cls(
            family=place.family,
            ask=place.ask,
            initiator=place.initiator,
            responder=place.responder,
            expected=place.expected,
            count=len(attempts),
            connected=len(good),
            direct=sum(not seen.relayed for seen in good),
            winner=winner,
            transport=transport,
            relayed=relayed,
            seconds=statistics.median(seen.seconds for seen in good) if good else None,
            worst=max((seen.seconds for seen in good), default=None),
            packets=_median(one.packets + other.packets for one, other in sites),
            mappings=_median(one.mappings + other.mappings for one, other in sites),
            flows=_median(one.flows + other.flows for one, other in sites),
            most_entries=max(site.flows for both in sites for site in both),
            failures=tuple(
                attempt.seen.error or "connected, but no echo came back" for attempt in attempts if not attempt.seen.ok
            ),
        )

    @property
    def place(self) -> Place:
        return Place(self.family, self.ask, self.initiator, self.responder)

    @property
    def entries(self) -> int:
        """Rows in the tables of all routers together: mappings and flows."""
        return self.mappings + self.flows

    def problems(self, *, relay: bool = True) -> tuple[str, ...]:
        """What should not be so, one sentence each; without a `relay` nobody expects what only that can give."""
        return tuple(self._problems(relay))

    def _problems(self, relay: bool) -> Iterator[str]:
        required = {
            Crossing.DIRECT: self.count,
            Crossing.GUESS: self.count // 2 + 1,  # most of them
            Crossing.RELAY: 0,
        }[self.expected]
        if self.connected < (self.count if relay else required):
            yield f"{self.connected} of {self.count} connected"
        elif self.direct < required:
            relayed = self.connected - self.direct
            yield f"{relayed} of {self.count} relayed, though theory crosses it ({self.expected.value})"
        if self.direct == self.count and self.expected is Crossing.RELAY:  # luck is not against the theory
            yield f"{self.direct} of {self.count} direct, which theory rules out"
        routers = max(1, *(len(kind_of(kind).layers) for kind in (self.initiator, self.responder)))
        if self.most_entries > MOST_ENTRIES * routers:  # each router has an entry for the same packet
            budget = f"{MOST_ENTRIES} for each of {routers} routers" if routers > 1 else f"{MOST_ENTRIES}"
            yield f"a connect made {self.most_entries} NAT entries at one site; the budget is {budget}"


@dataclass(frozen=True, slots=True)
class Panel:
    """The square of one family and ask."""

    family: Family
    ask: Ask
    kinds: tuple[str, ...]

    def places(self) -> tuple[Place, ...]:
        """Row by row: rows are initiators."""
        return tuple(Place(self.family, self.ask, a, b) for a in self.kinds for b in self.kinds)


@dataclass(frozen=True, slots=True)
class Design:
    """What a matrix measures. `relay_patience` (s): how long a relay waits where a port has to be guessed."""

    kinds: tuple[str, ...]
    kinds6: tuple[str, ...]
    asks: tuple[Ask, ...]
    count: int
    relay: bool
    relay_patience: float

    @property
    def panels(self) -> tuple[Panel, ...]:
        families = ((Family.V4, self.kinds), (Family.V6, self.kinds6))
        return tuple(Panel(family, ask, kinds) for family, kinds in families if kinds for ask in self.asks)

    def places(self) -> tuple[Place, ...]:
        return tuple(place for panel in self.panels for place in panel.places())


@dataclass(frozen=True, slots=True)
class Matrix:
    """The cells measured so far, in the order of the design. `round_trip` (s) is that of any two hosts."""

    design: Design
    round_trip: float
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, design: Design, round_trip: float, cells: Iterable[Cell]) -> Matrix:
        """Puts the cells in order; those of other places are left out."""
        found = {cell.place: cell for cell in cells}
        return cls(design, round_trip, tuple(found[place] for place in design.places() if place in found))

    def problems(self) -> tuple[tuple[Cell, tuple[str, ...]], ...]:
        """The cells that are not as they should be, and why."""
        found = ((cell, cell.problems(relay=self.design.relay)) for cell in self.cells)
        return tuple((cell, problems) for cell, problems in found if problems)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Matrix:
        """Raises DecodeError."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError(f"no matrix: {error}") from error


def _median(values: Iterable[int]) -> int:
    return round(statistics.median(values))
