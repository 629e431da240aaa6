"""What the routing tables of macOS and FreeBSD are in bytes (route(4), sysctl(3): NET_RT_FLAGS), without asking them.

The structures are those of net/route.h, netinet/in.h and netinet6/in6.h: of xnu, and of FreeBSD on 64-bit machines.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress
from warpgate.platform.interfaces import DefaultRoute

RTF_UP, RTF_GATEWAY = 0x1, 0x2
_DESTINATION, _GATEWAY, _NETMASK = 0, 1, 2  # the bits of rtm_addrs; sockaddrs follow in the order of the bits
_AF_INET = 2
# rtm_msglen, rtm_version, rtm_type, rtm_index, padding, rtm_flags, rtm_addrs
_HEAD = struct.Struct("=HBBH2xii")


@dataclass(frozen=True, slots=True)
class Layout:
    """`head`: the size of struct rt_msghdr; `align`: what sockaddrs are rounded up to; `scoped`: the flag of routes
    that only sockets of their interface use.
    """

    head: int
    align: int
    af_inet6: int
    scoped: int = 0


DARWIN = Layout(head=92, align=4, af_inet6=30, scoped=0x1000000)  # RTF_IFSCOPE
FREEBSD = Layout(head=152, align=8, af_inet6=28)


def default_routes(table: bytes, layout: Layout, name_of: Callable[[int], str]) -> tuple[DefaultRoute, ...]:
    """Those in a table, IPv4 first, and those for all sockets before those of an interface's own. `name_of` an
    interface index; OSError for one that is gone. What is cut short or of another kind is left out.
    """
    found: list[tuple[int, bool, DefaultRoute]] = []
    at = 0
    while at + layout.head <= len(table):
        size, _, _, index, flags, present = _HEAD.unpack_from(table, at)
        if size < layout.head:
            break
        route = _route(table[at + layout.head : at + size], layout, flags, present)
        at += size
        if route is None:
            continue
        try:
            name = name_of(index)
        except OSError:
            continue
        ip = IPv6Address(f"{route}%{name}") if route.version == 6 and route.is_link_local else route
        found.append((ip.version, bool(flags & layout.scoped), DefaultRoute(name, ip)))
    found.sort(key=lambda each: each[:2])
    return tuple(dict.fromkeys(route for _, _, route in found))


def _route(addresses: bytes, layout: Layout, flags: int, present: int) -> IPAddress | None:
    """The router of a default route; None for another."""
    if flags & (RTF_UP | RTF_GATEWAY) != RTF_UP | RTF_GATEWAY:
        return None
    by_bit: dict[int, bytes] = {}
    at = 0
    for bit in range(8):
        if present & 1 << bit:
            size = addresses[at] if at < len(addresses) else 0
            by_bit[bit] = addresses[at : at + size]
            at += -(-size // layout.align) * layout.align or layout.align  # one without a length takes a unit
    destination = _ip_of(by_bit.get(_DESTINATION, b""), layout)
    # A netmask ends with its last byte that is not zero, so that of the default route has no bytes of an address.
    if destination is None or not destination.is_unspecified or any(by_bit.get(_NETMASK, b"")[4:]):
        return None
    return _ip_of(by_bit.get(_GATEWAY, b""), layout)


def _ip_of(sockaddr: bytes, layout: Layout) -> IPAddress | None:
    if len(sockaddr) >= 8 and sockaddr[1] == _AF_INET:
        return IPv4Address(sockaddr[4:8])
    if len(sockaddr) >= 24 and sockaddr[1] == layout.af_inet6:
        raw = bytearray(sockaddr[8:24])
        if raw[0] == 0xFE and raw[1] & 0xC0 == 0x80:
            raw[2:4] = b"\0\0"  # the kernel keeps the scope of link-local addresses there (KAME)
        return IPv6Address(bytes(raw))
    return None
