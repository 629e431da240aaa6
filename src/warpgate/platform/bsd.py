"""macOS and the BSDs.

The facts: their manual pages setsockopt(2), ip(4), ip6(4), tcp(4), route(4), sysctl(3), netintro(4), and the headers
named at the constants. Read, not run: docs/platforms.md.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import ctypes
import socket
import struct
from contextlib import suppress
from dataclasses import replace
from fcntl import ioctl

from warpgate.model.endpoint import Family, SockAddr
from warpgate.platform.bsd_wire import DARWIN, FREEBSD, RTF_GATEWAY, Layout, default_routes
from warpgate.platform.interfaces import AssignedAddress, DefaultRoute, Interfaces
from warpgate.platform.posix import PosixSockets, is_running

# sys/sysctl.h, sys/socket.h: CTL_NET, PF_ROUTE, any protocol and family, NET_RT_FLAGS.
_ROUTES = (4, 17, 0, 0, 2, RTF_GATEWAY)

# sys/sockio.h: _IOWR('i', 17, struct ifreq).
_SIOCGIFFLAGS = 0xC0206911
# netinet6/in6_var.h: _IOWR('i', 73, struct in6_ifreq) of 288 bytes, sockaddr_in6 or flags at 16.
_SIOCGIFAFLAG_IN6 = 0xC1206949
_IN6_IFREQ = 288
_TENTATIVE, _DUPLICATED, _DEPRECATED, _TEMPORARY = 0x2, 0x4, 0x10, 0x80

# xnu's netinet/in.h, netinet6/in6.h: IP_BOUND_IF, IPV6_BOUND_IF.
_BOUND_IF = {Family.V4: (socket.IPPROTO_IP, 25), Family.V6: (socket.IPPROTO_IPV6, 125)}


class BsdSockets(PosixSockets):
    def bind_twin(self, original: socket.socket, twin: socket.socket, local: SockAddr) -> None:
        """The BSDs ask for SO_REUSEPORT, with which a connected socket is still preferred for its peer."""
        self._bind_with(original, twin, local, socket.SO_REUSEADDR, socket.SO_REUSEPORT)


class AppleSockets(BsdSockets):
    def send_by(self, sock: socket.socket, family: Family, device: str) -> None:
        self.keep_to(sock, family, device)

    def send_alike(self, sock: socket.socket, family: Family, other: socket.socket) -> None:
        level, option = _BOUND_IF[family]
        with suppress(OSError):
            sock.setsockopt(level, option, other.getsockopt(level, option))

    def keep_to(self, sock: socket.socket, family: Family, device: str) -> bool:
        level, option = _BOUND_IF[family]
        with suppress(OSError):
            sock.setsockopt(level, option, socket.if_nametoindex(device))
            return True
        return False


class BsdInterfaces(Interfaces):
    """Of a BSD whose tables are not known here: addresses and flags alone."""

    layout: Layout | None = None

    def assigned(self) -> tuple[AssignedAddress, ...]:
        return tuple(self._with_flags(each) for each in super().assigned())

    def _with_flags(self, each: AssignedAddress) -> AssignedAddress:
        flags = _flags_of_v6(each, self.layout) if each.ip.version == 6 and self.layout else 0
        return replace(
            each,
            running=is_running(each.name, _SIOCGIFFLAGS) is not False,  # else getifaddrs' word must do
            temporary=bool(flags & _TEMPORARY),
            deprecated=bool(flags & _DEPRECATED),
            tentative=bool(flags & (_TENTATIVE | _DUPLICATED)),
        )

    def default_routes(self) -> tuple[DefaultRoute, ...]:
        return () if self.layout is None else default_routes(_table(), self.layout, socket.if_indextoname)

    def blind_spots(self) -> tuple[str, ...]:
        return super().blind_spots() if self.layout is None else ()


class FreeBsdInterfaces(BsdInterfaces):
    layout = FREEBSD


class AppleInterfaces(BsdInterfaces):
    layout = DARWIN
    may_set_proxy = True


def _flags_of_v6(each: AssignedAddress, layout: Layout) -> int:
    sockaddr = struct.pack("=BBHI16sI", 28, layout.af_inet6, 0, 0, each.ip.packed, 0)
    request = (each.name.encode()[:15].ljust(16, b"\0") + sockaddr).ljust(_IN6_IFREQ, b"\0")
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            flags: int = struct.unpack_from("=i", ioctl(sock, _SIOCGIFAFLAG_IN6, request), 16)[0]
    except OSError:
        return 0
    return flags


def _table() -> bytes:
    """The routing table, b"" where it is refused. It may grow between the two calls: then once more."""
    sysctl = ctypes.CDLL(None).sysctl
    mib = (ctypes.c_int * len(_ROUTES))(*_ROUTES)
    for _ in range(3):
        size = ctypes.c_size_t(0)
        if sysctl(mib, len(_ROUTES), None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
            return b""
        table = ctypes.create_string_buffer(size.value + 4096)
        size.value += 4096
        if sysctl(mib, len(_ROUTES), table, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            return table.raw[: size.value]
    return b""
