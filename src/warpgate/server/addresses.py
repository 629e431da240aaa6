"""Which addresses of this machine to serve on, which two make a pair for RFC 5780, and which one to announce. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.scope import Scope, scope_of
from warpgate.net.network import Interface


def is_public(ip: IPAddress) -> bool:
    """Whether packets from the internet can be addressed to it."""
    return scope_of(ip) is Scope.GLOBAL


def stun_places(interfaces: Sequence[Interface], port: int, other_port: int) -> Mapping[Endpoint, Endpoint | None]:
    """Both ports on every address, each with the endpoint that differs in both, if there is one.

    Two addresses make a pair when clients can be assumed to reach both alike: of one interface and family, and public
    either both or neither.
    """
    partners: dict[IPAddress, IPAddress] = {}
    kinds = sorted({(each.name, each.ip.version, is_public(each.ip)) for each in interfaces})
    for kind in kinds:
        alike = [e.ip for e in interfaces if (e.name, e.ip.version, is_public(e.ip)) == kind and not e.ip.is_loopback]
        if len(alike) > 1:
            partners[alike[0]], partners[alike[1]] = alike[1], alike[0]
    places: dict[Endpoint, Endpoint | None] = {}
    for interface in interfaces:
        partner = partners.get(interface.ip)
        for mine, differing in ((port, other_port), (other_port, port)):
            place = Endpoint(interface.ip, mine)
            places[place] = None if partner is None else Endpoint(partner, differing)
    return places


def announced_address(interfaces: Iterable[Interface]) -> IPAddress | None:
    """What clients are told when nobody said a name: public before private, IPv4 before IPv6; never loopback if another
    is there.
    """
    ranked = sorted((each.ip for each in interfaces), key=lambda ip: (not is_public(ip), ip.is_loopback, ip.version))
    return ranked[0] if ranked else None
