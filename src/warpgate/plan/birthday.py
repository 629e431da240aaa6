"""Guessing ports: when it is worth it, who does what, and with how many sockets and probes. Pure.

One side (*spread*) opens many sockets behind its endpoint-dependent NAT, all towards one endpoint of the peer's; the
other side (*search*) sends from that endpoint to many ports. Like the birthdays of two groups, some two soon meet.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile
from warpgate.plan.predict import PortRange, ports_to_guess

# References, "Birthday arithmetic": 256 sockets x 1024 probes over all ports meet with 98 %, 32 x 128 in a block of
# 1024 (59 of 60 measured).
MANY_SOCKETS = 256
FEW_SOCKETS = 32
SMALL_RANGE = 1024
# What one attempt sends at most: 15 s (`responder_patience`) at 100 probes a second.
MOST_PROBES = 1500


class Part(enum.Enum):
    SPREAD = "spread"
    SEARCH = "search"


@dataclass(frozen=True, slots=True)
class Guessing:
    """Our part between these two attachments. `certain`: it was measured that nothing simpler can work."""

    part: Part
    mine: Attachment
    theirs: Attachment
    certain: bool

    @property
    def spreading(self) -> Attachment:
        """The attachment behind the endpoint-dependent NAT."""
        return self.mine if self.part is Part.SPREAD else self.theirs


def hit_probability(ports: int, sockets: int, probes: int) -> float:
    """That `probes` different ones of `ports` ports contain one of `sockets` mappings:
    1 - prod (ports - sockets - i) / (ports - i), i < probes.
    """
    if sockets + probes > ports:
        return 1.0
    missed = sum(math.log1p(-sockets / (ports - i)) for i in range(probes))
    return 1.0 - math.exp(missed)


def mutual_probability(ports: int, other_ports: int) -> float:
    """That two endpoint-dependent NATs meet when both sides guess, as long as their budgets last.

    Each probe makes a mapping of its own: of n x m pairs of mappings, each fits both ways with 1 / (ports x
    other_ports). A subscriber's ports are all it has, so guessing takes half of them at most: two blocks meet with
    22 %, whatever their size, and that is no way through.
    """
    probes, other_probes = (min(MOST_PROBES, of // 2) for of in (ports, other_ports))
    return -math.expm1(-probes * other_probes / (ports * other_ports))


def holds_still(nat: NatProfile) -> bool:
    """Whether a mapping, once found, serves the peer's whole address (ADM) and lets in whatever comes from it: then
    the other side may send from anywhere.
    """
    return nat.mapping is Mapping.ADM and nat.filtering in (Filtering.EIF, Filtering.ADF)


def sockets_for(ports: PortRange) -> int:
    """How many sockets the spreading side opens for this range: as many as a thirty-second of it, within reason."""
    return min(MANY_SOCKETS, max(FEW_SOCKETS, ports.size * FEW_SOCKETS // SMALL_RANGE))


def guessing(local: NodeAddress, remote: NodeAddress) -> Guessing | None:
    """The part that is ours where one side is known to need guessing and the other is not, the most certain one."""
    found = []
    for mine in _outside(local):
        for theirs in _outside(remote):
            if mine.family is not theirs.family or _obstacle(mine, theirs) is not None:
                continue
            for part, edm, other in ((Part.SPREAD, mine, theirs), (Part.SEARCH, theirs, mine)):
                if _can_be_found(edm.nat, other.nat):
                    found.append(Guessing(part, mine, theirs, _hopeless_otherwise(edm, other)))
    return max(found, key=lambda each: each.certain, default=None)


def why_not(local: NodeAddress, remote: NodeAddress) -> str | None:
    """Why guessing is out of place between these two, None when it may not be. UNKNOWN rules nothing out."""
    pairs = [
        (mine, theirs)
        for mine in _outside(local)
        for theirs in _outside(remote)
        if mine.family is theirs.family
    ]
    reasons = [_obstacle(mine, theirs) for mine, theirs in pairs]
    if not pairs or None in reasons:
        return None
    return reasons[0]


def _outside(address: NodeAddress) -> list[Attachment]:
    """Attachments with a UDP endpoint that peers on the internet could see."""
    return [
        at
        for at in address.attachments
        if not at.host.is_loopback and at.reflexive_endpoint(Transport.UDP) is not None
    ]


def _obstacle(mine: Attachment, theirs: Attachment) -> str | None:
    if mine.nat.udp_blocked or theirs.nat.udp_blocked:
        return "UDP is blocked"
    for edm, other in ((mine, theirs), (theirs, mine)):
        if _can_be_found(edm.nat, other.nat):
            preserving = edm.nat.assignment.kind is Assignment.PRESERVING
            return (
                "the NAT that maps each destination anew preserves ports: nothing to guess"
                if preserving
                else None
            )
    if Mapping.UNKNOWN in (mine.nat.mapping, theirs.nat.mapping):
        return None
    if mine.nat.mapping.endpoint_dependent:
        ports, other_ports = ports_to_guess(mine.nat).size, ports_to_guess(theirs.nat).size
        chance = mutual_probability(ports, other_ports)
        return f"both NATs map each destination to another port, among {ports} and {other_ports}: {chance:.2%} at best"
    return "neither NAT maps each destination to another port, so there is nothing to guess"


def _can_be_found(edm: NatProfile, other: NatProfile) -> bool:
    """Whether many sockets behind `edm` and one searching behind `other` can meet."""
    reachable = not other.mapping.endpoint_dependent or holds_still(edm)
    return edm.mapping.endpoint_dependent and reachable


def _hopeless_otherwise(edm: Attachment, other: Attachment) -> bool:
    """Whether an ordinary punch is known to fail: no guessable next port on one side, strict filtering on the other (or
    no known port there either).
    """
    guessed = edm.nat.assignment.kind in (Assignment.RANDOM, Assignment.BLOCK)
    return guessed and (other.nat.filtering is Filtering.APDF or other.nat.mapping.endpoint_dependent)
