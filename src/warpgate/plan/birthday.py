"""Guessing ports: when it is worth it, who does what, and with how many sockets and probes. Pure.

One side (*spread*) opens many sockets behind its endpoint-dependent NAT, all towards one endpoint of the peer's; the
other side (*search*) sends from that endpoint to many ports. Like the birthdays of two groups, some two soon meet.

Where both NATs are endpoint-dependent and each has few ports, both sides *meet*: they agree on one port of each side,
and each opens sockets towards the other's until its own is among them. Once it is on both sides, that pair fits.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import replace

from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile
from warpgate.plan.predict import FULL_RANGE, Draw, ports_to_guess

# Birthday arithmetic: 256 sockets x 1024 probes over all ports meet with 98 %, 32 x 128 in a block of
# 1024 (59 of 60 measured).
MANY_SOCKETS = 256
# Among the ports of up to four external addresses 256 would meet 1,500 probes with 77 %, twice as many with 95 %.
POOLED_SOCKETS = 512
FEWEST_SOCKETS = 16  # 240 ports: 99 % within 64 probes
PORTS_A_SOCKET = 32
# Of a NAT that counts for each destination address: 504 ports, so far apart, contain one of so many in a row.
SOCKETS_IN_A_ROW = 128


class Part(enum.Enum):
    SPREAD = "spread"
    SEARCH = "search"
    MEET = "meet"


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


def own_port_to_meet(nat: NatProfile, taken: Collection[int], draw: Draw) -> int:
    """One of our ports for the peer to aim at: surely in the set, and none that a socket of ours was seen to have.

    A NAT that does not share ports between destinations has only the others to give.
    """
    low, high = nat.assignment.low, nat.assignment.high
    sure = [port for port in ports_to_guess(nat).ports if low < port < high and port not in taken]
    return draw(sure or [low], 1)[0]


def mutual_probability(ports: int, other_ports: int) -> float:
    """That two endpoint-dependent NATs with so many ports meet (`meet`), with as many sockets as a spread has.

    Sockets towards one endpoint get ports of their own, so as many as there are ports surely get the right one. Two
    blocks of 1024 meet with 6 %: that is no way through, and more sockets would take a household's ports.
    """
    return min(1.0, MANY_SOCKETS / ports) * min(1.0, MANY_SOCKETS / other_ports)


def holds_still(nat: NatProfile) -> bool:
    """Whether a mapping, once found, serves the peer's whole address (ADM) and lets in whatever comes from it: then
    the other side may send from anywhere.
    """
    return nat.mapping is Mapping.ADM and nat.filtering in (Filtering.EIF, Filtering.ADF)


def sockets_for(nat: NatProfile) -> int:
    """How many sockets the spreading side opens: as many as a thirty-second of the ports, within reason."""
    if nat.assignment.kind is Assignment.PER_ADDRESS:
        return SOCKETS_IN_A_ROW
    ports = ports_to_guess(nat).size
    return min(POOLED_SOCKETS if nat.pooled else MANY_SOCKETS, max(FEWEST_SOCKETS, ports // PORTS_A_SOCKET))


def sockets_to_meet(nat: NatProfile) -> int:
    """How many sockets surely have the port that was named among theirs: as many as the NAT has ports.

    The outermost runs of a port set, and the ends of a block, are easily missing among the samples; all that there can
    be are few more.
    """
    ports, assignment = ports_to_guess(nat), nat.assignment
    if ports.fixed:
        possible = replace(FULL_RANGE, fixed=ports.fixed, bits=ports.bits).size
    else:
        possible = 1 << (assignment.low ^ assignment.high).bit_length()  # of a block aligned to its size
    return possible if ports.size <= possible <= MANY_SOCKETS else ports.size


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
            if can_meet(mine.nat, theirs.nat):
                found.append(Guessing(Part.MEET, mine, theirs, certain=True))
    return max(found, key=lambda each: each.certain, default=None)


def why_not(local: NodeAddress, remote: NodeAddress) -> str | None:
    """Why guessing is out of place between these two, None when it may not be. UNKNOWN rules nothing out."""
    pairs = [(mine, theirs) for mine in _outside(local) for theirs in _outside(remote) if mine.family is theirs.family]
    reasons = [_obstacle(mine, theirs) for mine, theirs in pairs]
    if not pairs or None in reasons:
        return None
    return reasons[0]


def _outside(address: NodeAddress) -> list[Attachment]:
    """Attachments with a UDP endpoint that peers on the internet could see."""
    return [
        at for at in address.attachments if not at.host.is_loopback and at.reflexive_endpoint(Transport.UDP) is not None
    ]


def _obstacle(mine: Attachment, theirs: Attachment) -> str | None:
    if mine.nat.udp_blocked or theirs.nat.udp_blocked:
        return "UDP is blocked"
    for edm, other in ((mine, theirs), (theirs, mine)):
        if _can_be_found(edm.nat, other.nat):
            preserving = edm.nat.assignment.kind is Assignment.PRESERVING
            return "the NAT that maps each destination anew preserves ports: nothing to guess" if preserving else None
    both = (mine.nat, theirs.nat)
    if any(nat.mapping is Mapping.UNKNOWN for nat in both) or can_meet(*both):
        return None
    if all(nat.mapping.endpoint_dependent for nat in both) and any(
        nat.assignment.kind is Assignment.UNKNOWN for nat in both
    ):
        return None  # they may have few ports
    if mine.nat.mapping.endpoint_dependent:
        ports, other_ports = ports_to_guess(mine.nat).size, ports_to_guess(theirs.nat).size
        chance = mutual_probability(ports, other_ports)
        return f"both NATs map each destination to another port, among {ports} and {other_ports}: {chance:.2%} at best"
    return "neither NAT maps each destination to another port, so there is nothing to guess"


def can_meet(nat: NatProfile, other: NatProfile) -> bool:
    """Whether both map each destination anew, one to so few ports that sockets can be had for all of them, and the
    other as well or by a count, so that it can name its next port.
    """
    both = (nat, other)
    if not all(each.mapping.endpoint_dependent and not each.pooled for each in both):
        return False
    few = [ports_to_guess(each).size <= MANY_SOCKETS for each in both]
    return any(few) and all(
        small or each.assignment.kind is Assignment.SEQUENTIAL for small, each in zip(few, both, strict=True)
    )


def _can_be_found(edm: NatProfile, other: NatProfile) -> bool:
    """Whether many sockets behind `edm` and one searching behind `other` can meet."""
    reachable = not other.mapping.endpoint_dependent or holds_still(edm)
    return edm.mapping.endpoint_dependent and reachable


def _hopeless_otherwise(edm: Attachment, other: Attachment) -> bool:
    """Whether an ordinary punch is known to fail: no guessable next port on one side, strict filtering on the other (or
    no known port there either).
    """
    guessed = edm.nat.assignment.kind in (Assignment.RANDOM, Assignment.BLOCK, Assignment.PER_ADDRESS)
    return guessed and (other.nat.filtering is Filtering.APDF or other.nat.mapping.endpoint_dependent)
