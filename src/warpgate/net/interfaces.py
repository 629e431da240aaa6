"""Which addresses this machine has, who its gateways are, and when that changes.

Everything is read afresh on each call: addresses are few, calls are rare, and a cache would have to be told.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from itertools import groupby
from pathlib import Path

import ifaddr

from warpgate.model.endpoint import IPAddress
from warpgate.net.network import Gateway, Interface

# thread-self, not self: a thread may have entered a network namespace of its own.
_PROC_NET = Path("/proc/thread-self/net")

# linux/if.h, linux/sockios.h
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
_IFF_RUNNING = (
    0x40  # has a carrier: an unplugged interface keeps its addresses, and nobody can be reached there
)

# linux/if_addr.h
_TEMPORARY = 0x01
_DAD_FAILED = 0x08
_DEPRECATED = 0x20
_TENTATIVE = 0x40

# linux/route.h
_RTF_UP = 0x1
_RTF_GATEWAY = 0x2

# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_CHANGE_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

# One stable and one more: addresses travel in the node's address, and a host with privacy extensions easily
# has eight, all behind the same link.
GLOBAL_V6_PER_INTERFACE = 2

_UNIQUE_LOCAL = IPv6Network("fc00::/7")  # RFC 4193

DEBOUNCE = 0.25  # changes come in bursts (DHCP, IPv6 autoconfiguration)
POLL = 5.0


@dataclass(frozen=True, slots=True)
class AssignedAddress:
    """What the system says about one address of one interface."""

    name: str
    ip: IPAddress
    prefix: int
    running: bool = True
    temporary: bool = False  # RFC 8981: changes daily
    deprecated: bool = False  # RFC 4862 section 5.5.4: not for new connections
    tentative: bool = False  # not checked for duplicates yet, or found to be one
    index: int = 0


def enumerate_interfaces() -> tuple[Interface, ...]:
    """See `Network.interfaces`."""
    return usable(assigned_addresses())


def usable(addresses: Iterable[AssignedAddress]) -> tuple[Interface, ...]:
    """The addresses others can be given: IPv4 as it is, of IPv6 the best `GLOBAL_V6_PER_INTERFACE`, per
    interface.
    """
    fit = [
        address
        for address in addresses
        if address.running
        and not address.tentative
        and not (address.ip.is_link_local or address.ip.is_multicast or address.ip.is_unspecified)
    ]
    chosen: list[AssignedAddress] = []
    for _, group in groupby(fit, key=lambda address: address.name):
        own = list(group)
        chosen += [address for address in own if address.ip.version == 4]
        chosen += _best_v6([address for address in own if address.ip.version == 6])
    return tuple(Interface(address.name, address.ip, address.prefix, address.index) for address in chosen)


def _best_v6(addresses: list[AssignedAddress]) -> list[AssignedAddress]:
    """Stable before temporary, because the address is published; one global and one local (ULA) where both
    are.
    """
    ranked = sorted(addresses, key=lambda address: (address.deprecated, address.temporary))
    first_of_kind = {address.ip in _UNIQUE_LOCAL: address for address in reversed(ranked)}
    kinds = [first_of_kind[kind] for kind in (False, True) if kind in first_of_kind]
    best = sorted(kinds, key=lambda address: address.deprecated)
    best += [address for address in ranked if address not in best]
    return best[:GLOBAL_V6_PER_INTERFACE]


def assigned_addresses() -> tuple[AssignedAddress, ...]:
    """All addresses of all interfaces, in the system's order."""
    v6_flags = {(name, ip): bits for name, ip, bits in _linux_v6_flags()}
    found = []
    for adapter in ifaddr.get_adapters():
        running = _is_running(adapter.name)
        for assigned in adapter.ips:
            text = assigned.ip if isinstance(assigned.ip, str) else assigned.ip[0]
            ip = ip_address(text.partition("%")[0])
            flags = v6_flags.get((adapter.nice_name, ip), 0)
            found.append(
                AssignedAddress(
                    name=adapter.nice_name,
                    ip=ip,
                    prefix=assigned.network_prefix,
                    running=running,
                    temporary=bool(flags & _TEMPORARY),
                    deprecated=bool(flags & _DEPRECATED),
                    tentative=bool(flags & (_TENTATIVE | _DAD_FAILED)),
                    index=adapter.index or 0,
                )
            )
    return tuple(found)


def _is_running(name: str) -> bool:
    if sys.platform != "linux":
        return True  # getifaddrs names those that are configured; that must do
    from fcntl import ioctl  # noqa: PLC0415 - no such module on Windows

    request = struct.pack("16sh14x", name.encode()[:15], 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            flags: int = struct.unpack("16xH14x", ioctl(sock, _SIOCGIFFLAGS, request))[0]
    except OSError:  # gone since it was listed
        return False
    return flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING


def _linux_v6_flags() -> list[tuple[str, IPAddress, int]]:
    return [
        (name, IPv6Address(bytes.fromhex(address)), int(bits, 16))
        for address, _, _, _, bits, name in _proc_table("if_inet6")
    ]


def default_gateways() -> tuple[Gateway, ...]:
    """Default routes with a gateway, IPv4 first, each family by metric. Empty where there is no /proc/net
    (not Linux).
    """
    found: list[tuple[int, int, Gateway]] = []
    for name, destination, hop, flags, _, _, metric, mask, *_ in _proc_table("route")[1:]:
        if _leads_out(flags, destination + mask):
            gateway = Gateway(name, IPv4Address(struct.pack("=I", int(hop, 16))))
            found.append((4, int(metric), gateway))
    for destination, length, _, _, hop, metric, _, _, flags, name in _proc_table("ipv6_route"):
        if _leads_out(flags, destination + length):
            ip = IPv6Address(bytes.fromhex(hop))
            gateway = Gateway(name, IPv6Address(f"{ip}%{name}") if ip.is_link_local else ip)
            found.append((6, int(metric, 16), gateway))
    found.sort(key=lambda route: route[:2])
    return tuple(dict.fromkeys(gateway for _, _, gateway in found))


def _leads_out(flags: str, destination: str) -> bool:
    """A route that is up, has a gateway, and is for the empty prefix; all fields are hexadecimal."""
    needed = _RTF_UP | _RTF_GATEWAY
    return int(flags, 16) & needed == needed and int(destination, 16) == 0


def _proc_table(name: str) -> list[list[str]]:
    try:
        return [line.split() for line in (_PROC_NET / name).read_text().splitlines()]
    except OSError:  # no IPv6, or not Linux
        return []


def _current() -> object:
    found = enumerate_interfaces()
    return found, [interface.index for interface in found], default_gateways()


class InterfaceWatcher:
    """Calls `on_change()` when addresses or gateways have changed, `debounce` seconds after the first sign of
    it.

    Netlink tells on Linux; elsewhere (and where netlink is forbidden) the state is compared every `poll`
    seconds. Signs that change nothing (a lifetime was renewed, a wireless event) are not passed on. Watches
    from construction to `close`.
    """

    def __init__(
        self,
        on_change: Callable[[], object],
        debounce: float = DEBOUNCE,
        poll: float = POLL,
        current: Callable[[], object] = _current,
    ) -> None:
        """`current` is what is compared."""
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._debounce = debounce
        self._poll = poll
        self._current = current
        self._known = current()
        self._timer: asyncio.TimerHandle | None = None
        self._netlink = _change_socket()
        if self._netlink is not None:
            self._loop.add_reader(self._netlink.fileno(), self._notified)
        else:
            self._timer = self._loop.call_later(poll, self._compare)

    def _notified(self) -> None:
        assert self._netlink is not None
        with suppress(
            OSError
        ):  # empty now, or ENOBUFS: messages were lost, which is a sign of change as well
            while self._netlink.recv(65536):
                pass
        if self._timer is None:
            self._timer = self._loop.call_later(self._debounce, self._compare)

    def _compare(self) -> None:
        self._timer = None
        if self._netlink is None:
            self._timer = self._loop.call_later(self._poll, self._compare)
        current = self._current()
        if current != self._known:
            self._known = current
            self._on_change()

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._netlink is not None:
            self._loop.remove_reader(self._netlink.fileno())
            self._netlink.close()
            self._netlink = None


def _change_socket() -> socket.socket | None:
    if sys.platform != "linux":
        return None
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        sock.setblocking(False)
        sock.bind((0, _CHANGE_GROUPS))
    except OSError:
        sock.close()
        return None
    return sock
