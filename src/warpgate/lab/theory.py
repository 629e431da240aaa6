"""What can be crossed at all, said from the routers' specifications and without running anything.

The yardstick for the matrix: it knows nothing of strategies, only what the routers of both sites do (RFC 4787, RFC
5382) and how many guesses the house rules allow. What it calls crossable and what then runs over a relay is a fault of
the program; what it rules out and gets through is a fault of the theory.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from warpgate.config import Budgets
from warpgate.lab.kinds import Kind
from warpgate.lab.spec import NatSpec, Pooling
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Family, Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, PortAssignment

# What one attempt can guess: as many seconds as a user waits, less a few for everything else.
GUESSING_SECONDS: Final = 15.0
MOST_GUESSES: Final = int(GUESSING_SECONDS * Budgets().random_probes_per_second)
MOST_SOCKETS: Final = 256
ALL_PORTS: Final = 64512  # 1024..65535
WORTH_IT: Final = 0.5  # a guess that fails more often than not is no way through

_STRICTNESS: Final = (Filtering.EIF, Filtering.ADF, Filtering.APDF)


class Crossing(enum.Enum):
    """The best that a direct link between two sites can rest on."""

    DIRECT = "direct"  # one side's endpoint is known to the other before the first packet
    GUESS = "guess"  # a port has to be predicted or guessed: most connects are direct, not every one
    RELAY = "relay"  # nothing but a relay, or less likely direct than not


@dataclass(frozen=True, slots=True)
class Outlook:
    """A site as the other side of one transport sees it: all its routers taken together.

    `passes`: whether it may send to ports of the peer's choosing. `assignment` is what decides the port that the next
    destination sees; None where the port is known beforehand, because it was measured or is the local one.
    """

    passes: bool
    mapping: Mapping
    filtering: Filtering
    assignment: PortAssignment | None
    block_size: int
    addresses: int = 1
    others: int = 0  # mappings of other hosts between two of ours, at most

    @property
    def known(self) -> bool:
        return self.assignment is None

    @property
    def counts(self) -> bool:
        """Ports follow one another, so that the next one can be told."""
        return self.assignment is not None and self.assignment.kind is Assignment.SEQUENTIAL

    @property
    def ports(self) -> int:
        """How many endpoints the next mapping may get: ports, of each of several addresses."""
        return self.addresses * self._ports_of_one

    @property
    def _ports_of_one(self) -> int:
        if self.assignment is not None and self.assignment.kind is Assignment.BLOCK:
            low, high, fixed = self.assignment.low, self.assignment.high, self.assignment.fixed
            if fixed:  # the first of the runs is nobody's
                return (1 << 16 - fixed.bit_count()) - (1 << (fixed & -fixed).bit_length() - 1)
            return high - low + 1 if high else self.block_size
        return ALL_PORTS

    @property
    def holds_still(self) -> bool:
        """An ADM mapping with a filter that goes by address only: found once, it answers from where it was found."""
        return self.mapping is Mapping.ADM and self.filtering is not Filtering.APDF


def outlook(kind: Kind, transport: Transport, family: Family) -> Outlook:
    """The routers of a kind, composed from the inside out."""
    specs = [
        spec for layer in kind.layers if (spec := layer.nat if family is Family.V4 else layer.firewall) is not None
    ]
    dependent = [spec for spec in specs if not _predictable(spec)]
    return Outlook(
        passes=all(_passes(spec, transport) for spec in specs),
        mapping=max((_mapping(spec) for spec in dependent), key=_by_dependence, default=Mapping.EIM),
        filtering=max((spec.filtering for spec in specs), key=_STRICTNESS.index, default=Filtering.EIF),
        assignment=_deciding(specs, dependent[0]) if dependent else None,
        block_size=max((spec.block_size for spec in dependent), default=0),
        addresses=max((_addresses(spec) for spec in dependent), default=1),
        others=max((spec.others for spec in dependent), default=0),
    )


def crossing(one: Outlook, other: Outlook, transport: Transport) -> Crossing:
    """What a direct link over `transport` between two sites can rest on. The same both ways."""
    if not (one.passes and other.passes):
        return Crossing.RELAY
    if one.known and other.known:
        return Crossing.DIRECT
    for known, hidden in ((one, other), (other, one)):
        if known.known:
            # The hidden side's packets come from wherever they come from; only a filter by port minds.
            if known.filtering is not Filtering.APDF:
                return Crossing.DIRECT
            guessed = transport is Transport.UDP and _found(hidden.ports) >= WORTH_IT
            return Crossing.GUESS if hidden.counts or guessed else Crossing.RELAY
    return _both_hidden(one, other, transport)


def expected(initiator: Kind, responder: Kind, transport: Transport, family: Family) -> Crossing:
    """The class of a pair of kinds."""
    return crossing(outlook(initiator, transport, family), outlook(responder, transport, family), transport)


def _both_hidden(one: Outlook, other: Outlook, transport: Transport) -> Crossing:
    if one.counts and other.counts:
        return Crossing.GUESS if _named(one) * _named(other) >= WORTH_IT else Crossing.RELAY
    # A SYN each to hundreds of ports is what port scanners send: over TCP ports are predicted, never guessed.
    if transport is Transport.TCP:
        return Crossing.RELAY
    return Crossing.GUESS if _chance(one, other) >= WORTH_IT else Crossing.RELAY


def _chance(one: Outlook, other: Outlook) -> float:
    """That two sites meet when neither knows its own next port, or only one does.

    Sockets towards one endpoint get different ports, so as many as a site has surely get the one that was named.
    """
    if one.holds_still or other.holds_still:  # many sockets here, one searching there: as with a known endpoint
        still = min(side.ports for side in (one, other) if side.holds_still)
        return _found(still)
    return _named(one) * _named(other)


def _named(side: Outlook) -> float:
    """That a mapping of this side has the one port that it has named."""
    if side.counts:
        return 1.0 / (1.0 + side.others / 2)  # of the ports that follow, ours are so many
    return min(1.0, MOST_SOCKETS / side.ports)


def _found(ports: int) -> float:
    """That one of the searching side's guesses hits one of many sockets."""
    return -math.expm1(-MOST_SOCKETS * MOST_GUESSES / ports)


def _addresses(spec: NatSpec) -> int:
    return 1 if spec.pooling is Pooling.PAIRED else spec.pool_size


def _mapping(spec: NatSpec) -> Mapping:
    """Each uplink has a NAT of its own."""
    several = spec.pooling is Pooling.BY_DESTINATION
    return Mapping.ADM if several and spec.mapping is Mapping.EIM else spec.mapping


def _passes(spec: NatSpec, transport: Transport) -> bool:
    return not spec.udp_blocked if transport is Transport.UDP else spec.tcp_ports is None


def _predictable(spec: NatSpec) -> bool:
    """Whether what a server saw, or the local port itself, tells what any peer will see."""
    return not _mapping(spec).endpoint_dependent or spec.assignment.kind is Assignment.PRESERVING


def _deciding(specs: list[NatSpec], hidden: NatSpec) -> PortAssignment:
    """Of the innermost router that hides ports and those outside it, the outermost that chooses its own."""
    outwards = specs[specs.index(hidden) :]
    choosing = [spec.assignment for spec in outwards if spec.assignment.kind is not Assignment.PRESERVING]
    return choosing[-1]


def _by_dependence(mapping: Mapping) -> int:
    return (Mapping.EIM, Mapping.ADM, Mapping.APDM).index(mapping)
