"""Which addresses of this machine to serve on, which two make a pair for RFC 5780, and which one to announce. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Interface

# Where a packet from the internet cannot come to: RFC 1918, RFC 6598 (carriers' NATs), loopback and link-local, RFC
# 4193. Not `ip.is_private`, which holds the addresses of documentation too.
_NOT_PUBLIC = tuple(
    map(
        IPv4Network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    )
)
_NOT_PUBLIC_V6 = tuple(map(IPv6Network, ("fc00::/7", "fe80::/10", "::1/128")))


def is_public(ip: IPAddress) -> bool:
    """Whether packets from the internet can be addressed to it."""
    if ip.is_multicast or ip.is_unspecified:
        return False
    if ip.version == 4:
        return not any(ip in network for network in _NOT_PUBLIC)
    return not any(ip in network for network in _NOT_PUBLIC_V6)


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
