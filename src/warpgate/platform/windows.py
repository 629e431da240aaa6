"""Windows' sockets and interfaces.

The facts: learn.microsoft.com/windows/win32, "Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE", IPPROTO_IP and IPPROTO_IPV6
socket options, SIO_TCP_INFO, GetAdaptersAddresses, NotifyIpInterfaceChange; constants are from ws2ipdef.h, iptypes.h
and nldef.h. The tests run it on CPython for Windows under Wine, which answers some of it in its own way: see
docs/platforms.md.
"""

from __future__ import annotations

import sys

assert sys.platform == "win32"

import asyncio
import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from ctypes import POINTER, Structure, byref, c_int, c_ubyte, c_ulong, c_ulonglong, c_void_p, c_wchar_p
from ipaddress import IPv4Address, IPv6Address

from warpgate.model.endpoint import Family, IPAddress, SockAddr
from warpgate.platform.interfaces import AssignedAddress, DefaultRoute, Interfaces
from warpgate.platform.sockets import Flight, Sockets
from warpgate.platform.windows_wire import SIO_TCP_INFO, TCP_INFO, WINSOCK_TEXTS, flight_of

# ws2ipdef.h: the number is the same in both families. IPv4 takes the index in network byte order, IPv6 in the host's.
_UNICAST_IF = 31
_LEVEL = {Family.V4: socket.IPPROTO_IP, Family.V6: socket.IPPROTO_IPV6}

_winsock = ctypes.WinDLL("ws2_32", use_last_error=True)
_iphlpapi = ctypes.WinDLL("iphlpapi")


class WindowsSockets(Sockets):
    connecting = (errno.EWOULDBLOCK, errno.EINPROGRESS)  # WSAEWOULDBLOCK is what connect() answers

    def reason(self, error: OSError) -> str:
        known = WINSOCK_TEXTS.get(error.winerror or error.errno or 0)
        return known or (error.strerror or str(error)).rstrip(".")

    def failure(self, code: int) -> OSError:
        return OSError(code, WINSOCK_TEXTS.get(code) or ctypes.FormatError(code).strip(), None, code)

    def own_udp_port(self, sock: socket.socket) -> None:
        """Without it another program may bind the port by SO_REUSEADDR, and take what comes."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)

    def send_by(self, sock: socket.socket, family: Family, device: str) -> None:
        self.keep_to(sock, family, device)

    def send_alike(self, sock: socket.socket, family: Family, other: socket.socket) -> None:
        with suppress(OSError):
            sock.setsockopt(_LEVEL[family], _UNICAST_IF, other.getsockopt(_LEVEL[family], _UNICAST_IF, 4))

    def keep_to(self, sock: socket.socket, family: Family, device: str) -> bool:
        index = _index_of(device)
        if not index:
            return False
        order = ">I" if family is Family.V4 else "=I"
        with suppress(OSError):
            sock.setsockopt(_LEVEL[family], _UNICAST_IF, struct.pack(order, index))
            return True
        return False

    def listen_alone(self, sock: socket.socket, local: SockAddr, backlog: int) -> None:
        """A port can be dialled from only where both sockets have SO_REUSEADDR, with which a second listener of the
        same user would be let in, too. So it is asked for alone first: OSError when anybody has it.
        """
        with socket.socket(sock.family, sock.type) as probe:
            if sock.family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            probe.bind(local)
            local = probe.getsockname()
        self.share_port(sock)
        super().listen_alone(sock, local, backlog)

    def keep_alive(self, sock: socket.socket, idle: int, interval: int, probes: int) -> None:
        """The number of probes can be set since Windows 10 1703; before, there are ten."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with suppress(OSError):
            sock.ioctl(socket.SIO_KEEPALIVE_VALS, (1, idle * 1000, interval * 1000))
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)

    def flight(self, sock: socket.socket, now: float) -> Flight | None:
        """Since Windows 10 1703."""
        version, told, size = c_ulong(0), ctypes.create_string_buffer(TCP_INFO.size), c_ulong(0)
        failed = _winsock.WSAIoctl(
            c_void_p(sock.fileno()),
            c_ulong(SIO_TCP_INFO),
            byref(version),
            c_ulong(ctypes.sizeof(version)),
            told,
            c_ulong(TCP_INFO.size),
            byref(size),
            None,
            None,
        )
        return None if failed or size.value < TCP_INFO.size else flight_of(told.raw)

    def unacknowledged(self, sock: socket.socket) -> int:
        found = self.flight(sock, 0.0)
        return 0 if found is None else found.unacked

    def reset_on_close(self, sock: socket.socket) -> None:
        """Windows' struct linger has two shorts."""
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("HH", 1, 0))


def _index_of(device: str) -> int:
    """Of an interface by the name that users see; 0 when there is none."""
    luid, index = c_ulonglong(0), c_ulong(0)
    if _iphlpapi.ConvertInterfaceAliasToLuid(c_wchar_p(device), byref(luid)):
        return 0
    return 0 if _iphlpapi.ConvertInterfaceLuidToIndex(byref(luid), byref(index)) else index.value


# -- iptypes.h, as far as it is read here


class _SocketAddress(Structure):
    _fields_ = (("sockaddr", c_void_p), ("length", c_int))


class _Unicast(Structure):
    pass


_Unicast._fields_ = (
    ("length", c_ulong),
    ("flags", c_ulong),
    ("next", POINTER(_Unicast)),
    ("address", _SocketAddress),
    ("prefix_origin", c_int),
    ("suffix_origin", c_int),
    ("dad_state", c_int),
    ("valid_lifetime", c_ulong),
    ("preferred_lifetime", c_ulong),
    ("lease_lifetime", c_ulong),
    ("prefix_length", c_ubyte),
)


class _Server(Structure):
    """IP_ADAPTER_GATEWAY_ADDRESS and IP_ADAPTER_DNS_SERVER_ADDRESS."""


_Server._fields_ = (
    ("length", c_ulong),
    ("reserved", c_ulong),
    ("next", POINTER(_Server)),
    ("address", _SocketAddress),
)


class _Adapter(Structure):
    pass


_Adapter._fields_ = (
    ("length", c_ulong),
    ("index", c_ulong),
    ("next", POINTER(_Adapter)),
    ("name", c_void_p),
    ("unicast", POINTER(_Unicast)),
    ("anycast", c_void_p),
    ("multicast", c_void_p),
    ("dns", POINTER(_Server)),
    ("dns_suffix", c_wchar_p),
    ("description", c_wchar_p),
    ("friendly_name", c_wchar_p),
    ("physical_address", c_ubyte * 8),
    ("physical_address_length", c_ulong),
    ("flags", c_ulong),
    ("mtu", c_ulong),
    ("type", c_ulong),
    ("oper_status", c_int),
    ("ipv6_index", c_ulong),
    ("zone_indices", c_ulong * 16),
    ("prefixes", c_void_p),
    ("transmit_speed", c_ulonglong),
    ("receive_speed", c_ulonglong),
    ("wins", c_void_p),
    ("gateways", POINTER(_Server)),
    ("ipv4_metric", c_ulong),
    ("ipv6_metric", c_ulong),
)

_SKIP = 0x2 | 0x4  # GAA_FLAG_SKIP_ANYCAST, _MULTICAST
_INCLUDE_GATEWAYS = 0x80
_BUFFER_OVERFLOW = 111
_FIRST_BUFFER = 16 * 1024  # what the documentation recommends
_UP = 1  # IfOperStatusUp
# NL_DAD_STATE: IpDadStateInvalid, Tentative, Duplicate, Deprecated, Preferred. NL_PREFIX_ORIGIN, NL_SUFFIX_ORIGIN.
_DEPRECATED, _PREFERRED = 3, 4
_ADVERTISED, _RANDOM = 4, 5


def _adapters() -> Iterator[_Adapter]:
    size = c_ulong(_FIRST_BUFFER)
    while True:
        buffer = ctypes.create_string_buffer(size.value)
        code = _iphlpapi.GetAdaptersAddresses(
            c_ulong(socket.AF_UNSPEC), c_ulong(_SKIP | _INCLUDE_GATEWAYS), None, buffer, byref(size)
        )
        if code != _BUFFER_OVERFLOW:
            break
    if code:  # ERROR_NO_DATA, for one: there are none
        return
    here = ctypes.cast(buffer, POINTER(_Adapter))
    while here:
        yield here.contents
        here = here.contents.next


def _ip_of(address: _SocketAddress, scope: str = "") -> IPAddress | None:
    """Out of a sockaddr_in or sockaddr_in6."""
    if not address.sockaddr or address.length < 16:
        return None
    raw = ctypes.string_at(address.sockaddr, address.length)
    family = int.from_bytes(raw[:2], "little")
    if family == socket.AF_INET:
        return IPv4Address(raw[4:8])
    if family == socket.AF_INET6 and len(raw) >= 24:
        ip = IPv6Address(raw[8:24])
        return IPv6Address(f"{ip}%{scope}") if scope and ip.is_link_local else ip
    return None


class WindowsInterfaces(Interfaces):
    may_set_proxy = True
    signs_are_sure = False  # an address without a change of its interface, Wine

    def assigned(self) -> tuple[AssignedAddress, ...]:
        return tuple(
            AssignedAddress(
                name=adapter.friendly_name,
                ip=ip,
                prefix=each.prefix_length,
                running=adapter.oper_status == _UP,
                temporary=each.prefix_origin == _ADVERTISED and each.suffix_origin == _RANDOM,
                deprecated=each.dad_state == _DEPRECATED,
                tentative=each.dad_state not in (_DEPRECATED, _PREFERRED),
                index=adapter.index or adapter.ipv6_index,
            )
            for adapter in _adapters()
            for each in _chain(adapter.unicast)
            if (ip := _ip_of(each.address)) is not None
        )

    def default_routes(self) -> tuple[DefaultRoute, ...]:
        found: list[tuple[int, int, DefaultRoute]] = []
        for adapter, ip in self._servers("gateways"):
            if not ip.is_unspecified:
                found.append((ip.version, _metric(adapter, ip), DefaultRoute(adapter.friendly_name, ip)))
        found.sort(key=lambda route: route[:2])
        return tuple(dict.fromkeys(route for _, _, route in found))

    def resolvers(self) -> tuple[IPAddress, ...]:
        """Those of the adapter with the lowest metric first, as Windows itself asks them."""
        found = [
            (_metric(adapter, ip), ip)
            for adapter, ip in self._servers("dns")
            # Site-local ones (fec0:0:0:ffff::1 to 3) are what an adapter has that was told of none.
            if not (ip.is_link_local or (isinstance(ip, IPv6Address) and ip.is_site_local))
        ]
        found.sort(key=lambda each: each[0])
        return tuple(dict.fromkeys(ip for _, ip in found))

    def _servers(self, kind: str) -> Iterator[tuple[_Adapter, IPAddress]]:
        """What is in this list of each adapter that is up."""
        for adapter in _adapters():
            for each in _chain(getattr(adapter, kind)) if adapter.oper_status == _UP else ():
                ip = _ip_of(each.address, str(adapter.ipv6_index))
                if ip is not None:
                    yield adapter, ip

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        loop = asyncio.get_running_loop()
        handle = c_void_p()

        def told(_context: object, _row: object, _kind: object) -> None:
            """In a thread of the system's."""
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(notify)

        callback = ctypes.WINFUNCTYPE(None, c_void_p, c_void_p, c_int)(told)
        kept = [callback]
        if _iphlpapi.NotifyIpInterfaceChange(c_int(socket.AF_UNSPEC), callback, None, c_ubyte(0), byref(handle)):
            return None

        def close() -> None:
            _iphlpapi.CancelMibChangeNotify2(handle)
            kept.clear()  # until here the system may call it

        return close

    def blind_spots(self) -> tuple[str, ...]:
        return ()


def _chain(first: object) -> Iterator[ctypes.Structure]:
    """A list of structures that point to the next one."""
    here = first
    while here:
        yield here.contents  # type: ignore[attr-defined]
        here = here.contents.next  # type: ignore[attr-defined]


def _metric(adapter: _Adapter, ip: IPAddress) -> int:
    found: int = adapter.ipv4_metric if ip.version == 4 else adapter.ipv6_metric
    return found
