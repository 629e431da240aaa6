"""The ports of one volley: ours, the peer's, who connects to whom, and how far what goes ahead gets."""

from __future__ import annotations

from collections.abc import Sequence

from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.alternating import alternating
from warpgate.model.endpoint import Endpoint
from warpgate.plan.counting import hidden
from warpgate.plan.targets import facing_outside

# In one message; what a prediction names.
ENDPOINTS = 8
# Passes the own router, dies at the provider's first hop: 20/20 punches against accepting routers, 0/20 without. It is
# more where more hops were measured to filter on our side (`proto/opening.py`). See docs/decisions/priming-ttl-2.md.
PRIMING_TTL = 2
# The volley of UDP that is primed by this whatever a server told of our filters: it may have lied.
DOUBTING = 3
# Volleys of TCP in which one side connects first, with a SYN that goes so far.
RESPONDER_PRIMES = 2
INITIATOR_PRIMES = 3
AFTER_PRIMING = 0.025  # the initiator's loop may be late, and the estimate of the answer's way too short

Route = tuple[Endpoint, Endpoint]  # our local port and where to connect from it


@dataclass(frozen=True, slots=True)
class Face:
    """A fresh port of ours, and where the peer will see it: one endpoint, or several that were foretold."""

    local: Endpoint
    seen: tuple[Endpoint, ...]


def as_text(faces: Sequence[Face]) -> tuple[str, ...]:
    """What the peer is told of them: where one of them alone foretells as many as fit, the others are not cut off."""
    return tuple(map(str, alternating([face.seen for face in faces])))[:ENDPOINTS]


def parse_endpoints(texts: Sequence[str]) -> list[Endpoint]:
    """What the peer told, as far as it is listened to; AddressError."""
    return [Endpoint.parse(text) for text in texts[:ENDPOINTS]]


def with_pool(named: Sequence[Endpoint], peer: NodeAddress) -> list[Endpoint]:
    """The endpoints of one message, and the other addresses that the peer's packets may come from instead, which a
    filter of ours by address must know; the port is any.
    """
    known = {endpoint.ip for endpoint in named}
    pools = [at.outside for at in peer.attachments if at.pool and at.nat.mapping.endpoint_dependent]
    further = dict.fromkeys(ip for pool in pools for ip in pool if ip not in known)
    return [*named, *(Endpoint(ip, named[0].port) for ip in further)][:ENDPOINTS] if named else []


def routes_between(faces: Sequence[Face], peers: Sequence[Endpoint]) -> list[Route]:
    return [(face.local, peer) for face in faces for peer in peers if peer.family is face.local.family]


def routes_again(routes: Sequence[Route], own: NodeAddress) -> list[Route]:
    """Those worth a second try from other ports (0: the system chooses) a moment later.

    Behind a NAT that gives each destination a port of its own, our local port means nothing to the peer. So when our
    SYN was there before the peer's router was open, there is no need to wait a second for its repetition.
    """
    hosts = {at.host for at in own.attachments if hidden(at)}
    return [(Endpoint(base.ip, 0), remote) for base, remote in routes if base.ip in hosts]


def primes(volley: int, *, initiator: bool) -> bool:
    """Whether the first SYN of this side dies on its way in a volley."""
    return volley == (INITIATOR_PRIMES if initiator else RESPONDER_PRIMES)


def lag_behind_priming(volley: int) -> float:
    """Seconds by which the responder fires after the time that its answer needs."""
    return AFTER_PRIMING if volley == INITIATOR_PRIMES else 0.0


def tcp_is_elsewhere(address: NodeAddress) -> bool:
    """Whether a NAT of several addresses has given the TCP listening port another one than the UDP port: there is room
    for one in what a node tells of an interface, so nobody knows where to connect to.
    """
    outside = facing_outside(address)
    return bool(outside) and all(
        at.pool
        and not at.nat.mapping.endpoint_dependent  # or else none is the port that a peer would meet
        and at.reflexive is not None
        and at.tcp.local
        and at.tcp.mapped is None
        for at in outside
    )
