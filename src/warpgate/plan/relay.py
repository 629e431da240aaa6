"""What relays are for, between two addresses: what hope there is of a direct link, and who must be let in. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.model.nat import Filtering
from warpgate.model.scope import is_private
from warpgate.plan.birthday import can_meet, holds_still
from warpgate.plan.counting import hidden, may_count
from warpgate.plan.targets import Pair, Surroundings, facing_outside, pairs, refusal

# An address has at most eight attachments; a relay is told of no more endpoints than these.
MAX_TARGETS = 8


class Hope(enum.IntEnum):
    """Of a direct link: what decides how long a relayed one is held back."""

    NONE = 0  # ruled out by what was measured
    FAINT = 1  # one side has not been seen from outside, which may be the servers' fault
    FAIR = 2


@dataclass(frozen=True, slots=True)
class Outlook:
    hope: Hope
    reason: str


FAIR = Outlook(Hope.FAIR, "")


def direct_hope(
    own: NodeAddress,
    peer: NodeAddress,
    transports: Iterable[Transport],
    around: Surroundings | None = None,
) -> Outlook:
    """What may become of direct links over these transports, as far as was *measured*: UNKNOWN rules nothing out."""
    found = [_over(own, peer, transport, around) for transport in sorted(transports, key=_by_name)]
    return max(
        found,
        key=lambda outlook: outlook.hope,
        default=Outlook(Hope.NONE, "no direct strategy is at work any more"),
    )


def _by_name(transport: Transport) -> str:
    return transport.value


def _over(own: NodeAddress, peer: NodeAddress, transport: Transport, around: Surroundings | None) -> Outlook:
    forth, back = pairs(own, peer, transport, around), pairs(peer, own, transport)
    if not (own.attachments and peer.attachments) or any(pair.nearby for pair in forth):
        return FAIR
    mine, theirs = facing_outside(own), facing_outside(peer)
    if transport is Transport.UDP and any(all(map(_no_udp, side)) for side in (mine, theirs)):
        return Outlook(Hope.NONE, "UDP does not get through")
    unseen = [side for side in (mine, theirs) if all(map(_unseen, side))]
    if unseen:
        hope = Hope.NONE if len(unseen) == 2 else Hope.FAINT
        return Outlook(hope, "no server outside has seen anything of one side" + " or the other" * (not hope))
    if any(pair.open for pair in (*forth, *back)):
        return FAIR
    return _between(mine, theirs, transport, forth)


def _between(
    mine: list[Attachment], theirs: list[Attachment], transport: Transport, forth: tuple[Pair, ...]
) -> Outlook:
    routes = [(near, far) for near in mine for far in theirs if near.family is far.family]
    if not routes:
        # Without a common family something may still translate between them (NAT64): then there are pairs.
        return FAIR if forth else Outlook(Hope.NONE, "the two have no address family in common")
    obstacles = [_obstacle(near, far, transport) for near, far in routes]
    if None in obstacles:
        return FAIR
    return Outlook(Hope.NONE, obstacles[0] or "")


def _obstacle(mine: Attachment, theirs: Attachment, transport: Transport) -> str | None:
    if transport is Transport.UDP and (_no_udp(mine) or _no_udp(theirs)):
        return "UDP does not get through"
    if hidden(mine) and hidden(theirs):
        still = transport is Transport.UDP and (holds_still(mine.nat) or holds_still(theirs.nat))
        meet = transport is Transport.UDP and can_meet(mine.nat, theirs.nat)
        if still or meet or (may_count(mine) and may_count(theirs)):
            return None
        return "both NATs map each destination to another port, and not both count them"
    if transport is Transport.TCP and (_out_of_aim(mine, theirs) or _out_of_aim(theirs, mine)):
        return "a NAT maps each destination to a TCP port nobody can tell, and the other side's filter goes by ports"
    return None


def _no_udp(at: Attachment) -> bool:
    """Measured as blocked, or on the way there: the verdict takes 4 s, but TCP has been answered and UDP has not."""
    silent = at.nat.udp_blocked is None and at.udp.mapped is None and at.tcp.mapped is not None
    return at.nat.udp_blocked is True or silent


def _unseen(at: Attachment) -> bool:
    """A private endpoint that nobody outside has answered over UDP or TCP. A node gives servers 1.5 s before anybody
    can have its address.
    """
    return at.reflexive is None and is_private(at.host)


def _out_of_aim(one: Attachment, other: Attachment) -> bool:
    """TCP ports are counted, never guessed. A filter that was not measured is taken for the usual one: should it be
    laxer, the punch is through before any relay is.
    """
    at_random = hidden(one) and not may_count(one)
    return at_random and other.nat.filtering not in (Filtering.EIF, Filtering.ADF)


def relay_families(peer: NodeAddress) -> frozenset[Family]:
    """Address families in which the peer can call a relay; IPv4 when nothing is known of it."""
    return frozenset(at.family for at in peer.attachments) or frozenset({Family.V4})


def relay_targets(own: NodeAddress, peer: NodeAddress, family: Family, transport: Transport) -> tuple[Endpoint, ...]:
    """Where the peer's packets to a relay should come from: its outside endpoints (of an EDM NAT only the address
    will be right, and that is what a relay's permissions go by).

    Private addresses are left out: behind the relay they would be its own network's.
    """
    found: dict[Endpoint, None] = {}
    for at in peer.attachments:
        if at.family is not family:
            continue
        outside = at.reflexive or at.host
        if is_private(outside) and at.reflexive is None:
            continue
        listening = at.listening(transport)
        for ip in (outside, *at.pool):
            endpoint = Endpoint(ip, listening.mapped or listening.local or 1)
            if refusal(endpoint, own, peer) is None:
                found.setdefault(endpoint)
    return tuple(found)[:MAX_TARGETS]


def reaches_relays(own: NodeAddress, transport: Transport) -> bool:
    """Whether it was measured that this transport gets out of here to servers on the internet."""
    if transport is Transport.UDP:
        return any(at.nat.udp_blocked is False for at in own.attachments)
    return any(at.tcp.mapped is not None for at in own.attachments)
