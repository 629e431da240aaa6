"""What relays are for, between two addresses: when nothing else can work, and who must be let in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.model.nat import Assignment, Filtering
from warpgate.plan.targets import IPNetwork, is_private, pairs, refusal

# Assignments for which a fresh port must be found by guessing or counting. Two of them at once are out of reach unless
# both leave few ports to guess (references: EDM x EDM full range needs 170,000 probes).
_GUESSED = {Assignment.RANDOM, Assignment.SEQUENTIAL, Assignment.BLOCK}
# An address has at most eight attachments; a relay is told of no more endpoints than these.
MAX_TARGETS = 8


def direct_ruled_out(
    own: NodeAddress,
    peer: NodeAddress,
    transports: Iterable[Transport],
    networks: Sequence[IPNetwork] | None = None,
) -> str | None:
    """Why no direct link over any of these transports can come about, as far as was *measured*; None when one may.

    UNKNOWN rules nothing out.
    """
    reason = "no transport is left"
    for transport in transports:
        found = _ruled_out(own, peer, transport, networks)
        if found is None:
            return None
        reason = found
    return reason


def _ruled_out(
    own: NodeAddress, peer: NodeAddress, transport: Transport, networks: Sequence[IPNetwork] | None
) -> str | None:
    forth, back = pairs(own, peer, transport, networks), pairs(peer, own, transport)
    if any(pair.nearby or pair.open for pair in forth) or any(pair.open for pair in back):
        return None
    routes = [
        (mine, theirs)
        for mine in _facing_outside(own)
        for theirs in _facing_outside(peer)
        if mine.family is theirs.family
    ]
    # Without a common family something may still translate between them (NAT64): then there are pairs.
    reasons = [_obstacle(mine, theirs, transport) for mine, theirs in routes]
    if not routes:
        both_known = own.attachments and peer.attachments
        return "the two have no address family in common" if both_known and not forth else None
    return None if None in reasons else reasons[0]


def _facing_outside(address: NodeAddress) -> list[Attachment]:
    """Attachments by which the internet is reached: bridges and idle interfaces have no reflexive address."""
    usable = [at for at in address.attachments if at.reflexive is not None or not is_private(at.host)]
    return usable or list(address.attachments)


def _obstacle(mine: Attachment, theirs: Attachment, transport: Transport) -> str | None:
    if transport is Transport.UDP and (_no_udp(mine) or _no_udp(theirs)):
        return "UDP does not get through"
    kinds = {mine.nat.assignment.kind, theirs.nat.assignment.kind}
    dependent = mine.nat.mapping.endpoint_dependent and theirs.nat.mapping.endpoint_dependent
    if dependent and Assignment.RANDOM in kinds and kinds <= _GUESSED:
        return "both NATs map each destination to another port, one of them at random"
    if transport is Transport.TCP and (_out_of_aim(mine, theirs) or _out_of_aim(theirs, mine)):
        return "a NAT maps each destination to another TCP port at random, and the other side's filter goes by ports"
    return None


def _no_udp(at: Attachment) -> bool:
    """Measured as blocked, or on the way there: the verdict takes 4 s, but TCP has been answered and UDP has not."""
    silent = at.nat.udp_blocked is None and at.udp.mapped is None and at.tcp.mapped is not None
    return at.nat.udp_blocked is True or silent


def _out_of_aim(one: Attachment, other: Attachment) -> bool:
    """Nobody guesses TCP ports. A filter that was not measured is taken for the usual one: should it be laxer, the
    punch is through before any relay is.
    """
    at_random = one.nat.mapping.endpoint_dependent and one.nat.assignment.kind is Assignment.RANDOM
    return at_random and other.nat.filtering not in (Filtering.EIF, Filtering.ADF)


def relay_families(peer: NodeAddress) -> frozenset[Family]:
    """Address families in which the peer can call a relay; IPv4 when nothing is known of it."""
    return frozenset(at.family for at in peer.attachments) or frozenset({Family.V4})


def relay_targets(
    own: NodeAddress, peer: NodeAddress, family: Family, transport: Transport
) -> tuple[Endpoint, ...]:
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
        endpoint = Endpoint(outside, listening.mapped or listening.local or 1)
        if refusal(endpoint, own, peer) is None:
            found.setdefault(endpoint)
    return tuple(found)[:MAX_TARGETS]


def reaches_relays(own: NodeAddress, transport: Transport) -> bool:
    """Whether it was measured that this transport gets out of here to servers on the internet."""
    if transport is Transport.UDP:
        return any(at.nat.udp_blocked is False for at in own.attachments)
    return any(at.tcp.mapped is not None for at in own.attachments)
