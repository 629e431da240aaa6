"""What an address is, whoever named it: how far it means one host (RFC 4007 section 4), also one inside another.

Peers, STUN and TURN servers, gateways, resolvers: each may name any address, and a packet is sent to some of them. So
every such word is judged here, by one table. The special networks are those of RFC 6890 and its registries; networks
for documentation count as the internet, as laboratories are made of them.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.translation import WELL_KNOWN_PREFIX, Nat64Prefix

IPNetwork = IPv4Network | IPv6Network


class Scope(enum.Enum):
    """The value completes "it is ..."."""

    NOBODY = "no unicast address"
    LOOPBACK = "a loopback address"
    LINK = "link-local"
    TRANSLATOR = "an address that a translator gives its own host"
    SITE = "private"
    GLOBAL = "public"


_V4: tuple[tuple[IPv4Network, Scope], ...] = tuple(
    (IPv4Network(network), scope)
    for network, scope in (
        ("0.0.0.0/8", Scope.NOBODY),  # RFC 791: "this network"; Linux takes 0.0.0.0 for the host itself
        ("127.0.0.0/8", Scope.LOOPBACK),
        ("169.254.0.0/16", Scope.LINK),
        ("192.0.0.0/24", Scope.TRANSLATOR),  # RFC 6890; RFC 7335: a host's own translator
        ("10.0.0.0/8", Scope.SITE),  # RFC 1918
        ("172.16.0.0/12", Scope.SITE),
        ("192.168.0.0/16", Scope.SITE),
        ("100.64.0.0/10", Scope.SITE),  # RFC 6598: between a carrier's NAT and its customers
        ("198.18.0.0/15", Scope.SITE),  # RFC 2544; proxies use it for addresses that they make up
        ("224.0.0.0/3", Scope.NOBODY),  # multicast, class E, broadcast
    )
)
# The same by the first address of each stretch, for `bisect`: this is asked of each packet and each answer.
_V4_STRETCHES = sorted(
    [(0, Scope.GLOBAL)]
    + [(int(network.broadcast_address) + 1, Scope.GLOBAL) for network, _ in _V4]
    + [(int(network.network_address), scope) for network, scope in _V4],
    key=lambda stretch: stretch[0],
)
_V4_STARTS = [start for start, _ in _V4_STRETCHES]
_LOCAL_TRANSLATORS = IPv6Network("64:ff9b:1::/48")  # RFC 8215
UNIQUE_LOCAL = IPv6Network("fc00::/7")  # RFC 4193
# RFC 4291 section 2.4, in this order: what is none of these is not assigned, and nobody's.
_V6: tuple[tuple[IPv6Network, Scope], ...] = tuple(
    (IPv6Network(network), scope)
    for network, scope in (
        ("::1/128", Scope.LOOPBACK),
        ("fe80::/10", Scope.LINK),
        (str(UNIQUE_LOCAL), Scope.SITE),
        ("fec0::/10", Scope.SITE),  # RFC 3879: its forerunner, still routed within sites
        (str(_LOCAL_TRANSLATORS), Scope.TRANSLATOR),
        ("2000::/3", Scope.GLOBAL),
    )
)
# IPv4 written as IPv6: no host has such an address, and what the kernel or a tunnel makes of it is the IPv4 one.
_V4_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291 section 2.5.5.2
_V4_COMPATIBLE = IPv6Network("::/96")  # section 2.5.5.1
_V4_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_SIX_TO_FOUR = IPv6Network("2002::/16")  # RFC 3056
_TEREDO = IPv6Network("2001::/32")  # RFC 4380
_LAST_32_BITS = (_V4_MAPPED, _V4_COMPATIBLE, _V4_TRANSLATED)
_OWN_NAMES = (IPv6Address("::"), IPv6Address("::1"))


def scope_of(ip: IPAddress, nat64: Nat64Prefix | None = None) -> Scope:
    """What `ip` is. One that carries IPv4 addresses is at most what the narrowest of these is.

    `nat64`: the prefix under which this network's translator takes IPv4 addresses, besides the well-known one.
    """
    if isinstance(ip, IPv4Address):
        return _V4_STRETCHES[bisect_right(_V4_STARTS, int(ip)) - 1][1]
    inside = [scope for scope in map(scope_of, carried_by(ip, nat64)) if scope is not Scope.GLOBAL]
    if inside:
        return inside[0]
    if ip in WELL_KNOWN_PREFIX:
        return Scope.GLOBAL
    return next((scope for network, scope in _V6 if ip in network), Scope.NOBODY)


def carried_by(ip: IPAddress, nat64: Nat64Prefix | None = None) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses to which packets for this IPv6 address go in the end: by a translator, or in a tunnel."""
    if not isinstance(ip, IPv6Address) or ip in _OWN_NAMES:
        return ()
    packed = ip.packed
    for prefix in (Nat64Prefix(WELL_KNOWN_PREFIX), nat64):
        if prefix is not None and (inside := prefix.extract(ip)) is not None:
            return (inside,)
    if any(ip in network for network in _LAST_32_BITS):
        return (IPv4Address(packed[12:]),)
    if ip in _SIX_TO_FOUR:
        return (IPv4Address(packed[2:6]),)
    if ip in _TEREDO:  # section 4: the server, and the client's outside address with all bits inverted
        return IPv4Address(packed[4:8]), IPv4Address(bytes(255 - octet for octet in packed[12:]))
    return ()


def carries(prefix: Nat64Prefix, ip: IPv4Address) -> bool:
    """Whether a packet to this address may be sent through the translator that has this prefix.

    RFC 6052 section 3.1: "The Well-Known Prefix MUST NOT be used to represent non-global IPv4 addresses".
    """
    scope = scope_of(ip)
    return scope is Scope.GLOBAL or (scope is Scope.SITE and prefix.network != WELL_KNOWN_PREFIX)


def is_translators(prefix: Nat64Prefix) -> bool:
    """Whether a translator can be there: a resolver must not lead packets for the internet to this host or link."""
    network = prefix.network
    if network == WELL_KNOWN_PREFIX or network.subnet_of(_LOCAL_TRANSLATORS):
        return True
    ip = network.network_address
    return scope_of(ip) in (Scope.GLOBAL, Scope.SITE) and not carried_by(ip)


def is_private(ip: IPAddress) -> bool:
    """Whether `ip` means something only inside one site (or one host's own translator)."""
    return scope_of(ip) in (Scope.SITE, Scope.TRANSLATOR)


def site_of(ip: IPAddress) -> IPNetwork | None:
    """The private network that `ip` is numbered from, None for all else: two sites can use the same one."""
    networks: tuple[tuple[IPNetwork, Scope], ...] = _V4 if ip.version == 4 else _V6
    return next((network for network, scope in networks if scope is Scope.SITE and ip in network), None)


def misnamed(named: Endpoint, by: IPAddress) -> str | None:
    """Why the server at `by` cannot mean a host of the internet or of its own surroundings by `named`; None if it can.

    Nobody on the internet knows what is on our links or in our site; a server that is there itself may.
    """
    if scope_of(named.ip) is Scope.SITE and scope_of(by) not in (Scope.SITE, Scope.LOOPBACK):
        return f"{named} is {Scope.SITE.value}"
    return unreachable(named, by)


def unreachable(named: Endpoint, by: IPAddress) -> str | None:
    """The same where `named` is in the server's own surroundings for sure: a relayed endpoint, which other clients of
    the server reach even when it is private.
    """
    if not named.port:
        return f"{named} has port 0"
    scope = scope_of(named.ip)
    if scope is Scope.GLOBAL or (scope is Scope.SITE and not carried_by(named.ip)):
        return None
    if scope is Scope.LOOPBACK and named.ip.is_loopback and scope_of(by) is Scope.LOOPBACK:
        return None
    return f"{named} is {scope.value}"
