"""Linux, and Android, whose kernel it is.

The facts: the manual pages ip(7), ipv6(7), tcp(7), udp(7), socket(7), netlink(7), rtnetlink(7), proc_net(5), and where
they are silent the kernel's own headers, named at the constants. Everything here runs in the tests.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux" or sys.platform == "android"

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fcntl import ioctl
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from termios import TIOCOUTQ

from warpgate.model.endpoint import Family, SockAddr
from warpgate.platform.interfaces import AssignedAddress, DefaultRoute, Interfaces
from warpgate.platform.posix import PosixSockets, is_running
from warpgate.platform.readiness import watch_of
from warpgate.platform.sockets import Beside, Flight, ReceiveSegments

# Level, hop limit, least hop limit (ip(7), ipv6(7) and linux/in.h, in6.h: the last ones have no name in Python).
_HOP_OPTIONS = {
    Family.V4: (socket.IPPROTO_IP, socket.IP_TTL, 21),
    Family.V6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 73),
}
_TTL_ANCILLARY = {
    Family.V4: (socket.IPPROTO_IP, socket.IP_TTL),
    Family.V6: (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
}

# linux/in.h. By default Linux forbids routers to fragment (DF) and waits for their word; where ICMP is filtered, what
# is larger than a link in the middle then vanishes, while still larger datagrams, fragmented at once, arrive.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 10, 0

# linux/in.h, linux/in6.h: the interface for what a UDP socket sends, without a say in what it receives (a socket that
# is bound to a device does not hear the machine's own other programs: that traffic comes in by the loopback).
_UNICAST_IF = {Family.V4: (socket.IPPROTO_IP, 50), Family.V6: (socket.IPPROTO_IPV6, 76)}

# linux/udp.h, since Linux 4.18 and 5.0: the size of the datagrams that the data of one call is cut into, and a wish to
# get what has come of one sender as it was before it was cut, with that size (an int) beside it.
_UDP_SEGMENT, _UDP_GRO = 103, 104
_GRO_ROOM = socket.CMSG_SPACE(4)
_MOST_SEGMENTS = 64  # UDP_MAX_SEGMENTS, before it became 128

# struct tcp_info of linux/tcp.h, in its first 60 bytes: u32 at 24 `unacked` (segments), at 56 `last_ack_recv` (ms).
_TCP_INFO_SIZE = 60

# thread-self, not self: a thread may have entered a network namespace of its own.
PROC_NET = Path("/proc/thread-self/net")

# linux/sockios.h
_SIOCGIFFLAGS = 0x8913

# linux/netlink.h, linux/rtnetlink.h
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_NLMSGHDR = struct.Struct("=IH10x")
_LARGEST_ANSWER = 65536
_KERNEL_PATIENCE = 1.0  # it answers at once

# linux/if_addr.h
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_FLAGS = 1, 2, 3, 8
_TEMPORARY = 0x01
_DAD_FAILED = 0x08
_DEPRECATED = 0x20
_TENTATIVE = 0x40

# linux/route.h
_RTF_UP = 0x1
_RTF_GATEWAY = 0x2

# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_CHANGE_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400


class LinuxSockets(PosixSockets):
    def allow_fragments(self, sock: socket.socket, family: Family) -> None:
        if family is Family.V4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)

    def bind_twin(self, original: socket.socket, twin: socket.socket, local: SockAddr) -> None:
        # SO_REUSEPORT would form a load-balancing group.
        self._bind_with(original, twin, local, socket.SO_REUSEADDR)

    def send_with_ttl(self, sock: socket.socket, family: Family, data: bytes, to: SockAddr, hops: int) -> None:
        sock.sendmsg([data], [(*_TTL_ANCILLARY[family], struct.pack("i", hops))], 0, to)

    most_segments = _MOST_SEGMENTS
    tells_refusals = True  # an ICMP error is for the socket that a datagram from there would be for

    def send_segments(self, sock: socket.socket, datagrams: Sequence[bytes], to: SockAddr) -> None:
        size = struct.pack("=H", len(datagrams[0]))
        sock.sendmsg(datagrams, [(socket.IPPROTO_UDP, _UDP_SEGMENT, size)], 0, to)

    def receive_segments(self, sock: socket.socket, size: int) -> ReceiveSegments:
        with suppress(OSError):  # before Linux 5.0
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        return partial(sock.recvmsg, size, _GRO_ROOM)

    def segment_size(self, beside: Beside) -> int:
        ((_, _, value),) = beside  # nothing else was asked for
        return int.from_bytes(value, sys.byteorder)

    def send_by(self, sock: socket.socket, family: Family, device: str) -> None:
        level, option = _UNICAST_IF[family]
        with suppress(OSError):
            sock.setsockopt(level, option, socket.if_nametoindex(device).to_bytes(4, "big"))

    def send_alike(self, sock: socket.socket, family: Family, other: socket.socket) -> None:
        level, option = _UNICAST_IF[family]
        with suppress(OSError):
            sock.setsockopt(level, option, other.getsockopt(level, option, 4))

    def keep_to(self, sock: socket.socket, family: Family, device: str) -> bool:
        return self.hear_only(sock, device)

    def hear_only(self, sock: socket.socket, device: str) -> bool:
        """Unprivileged since Linux 5.7."""
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        except OSError:
            return False
        return True

    @contextmanager
    def hops_limited(self, sock: socket.socket, family: Family, hops: int | None) -> Iterator[None]:
        """Linux compares the hop limit in what an ICMP error quotes with IP_MINTTL (RFC 5082), as in segments that
        arrive.
        """
        if hops is None:
            yield
            return
        level, limit, least = _HOP_OPTIONS[family]
        usual = sock.getsockopt(level, limit)
        sock.setsockopt(level, least, hops)
        sock.setsockopt(level, limit, hops)
        yield
        sock.setsockopt(level, limit, usual)

    def limit_segments(self, sock: socket.socket, size: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size)

    def give_up_after(self, sock: socket.socket, seconds: float) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    def acknowledge_at_once(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def flight(self, sock: socket.socket, now: float) -> Flight | None:
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        except OSError:
            return None
        unacked, since_ack = struct.unpack_from("=I", info, 24)[0], struct.unpack_from("=I", info, 56)[0]
        return Flight(unacked, now - since_ack / 1000)

    def unacknowledged(self, sock: socket.socket) -> int:
        """SIOCOUTQ, which has TIOCOUTQ's number (tcp(7))."""
        try:
            answer = ioctl(sock, TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)


class LinuxInterfaces(Interfaces):
    """Android denies its programs /proc/net and to bind netlink sockets: there it knows less, and says so."""

    def assigned(self) -> tuple[AssignedAddress, ...]:
        try:
            found = [address for message in _address_messages() if (address := _assigned(message)) is not None]
        except OSError:
            return super().assigned()
        running = {name: bool(is_running(name, _SIOCGIFFLAGS)) for name in dict.fromkeys(each.name for each in found)}
        order = list(running)
        found.sort(key=lambda each: order.index(each.name))
        return tuple(replace(each, running=running[each.name]) for each in found)

    def default_routes(self) -> tuple[DefaultRoute, ...]:
        found: list[tuple[int, int, DefaultRoute]] = []
        for name, destination, hop, flags, _, _, metric, mask, *_ in _proc_table("route")[1:]:
            if _leads_out(flags, destination + mask):
                route = DefaultRoute(name, IPv4Address(struct.pack("=I", int(hop, 16))))
                found.append((4, int(metric), route))
        for destination, length, _, _, hop, metric, _, _, flags, name in _proc_table("ipv6_route"):
            if _leads_out(flags, destination + length):
                ip = IPv6Address(bytes.fromhex(hop))
                route = DefaultRoute(name, IPv6Address(f"{ip}%{name}") if ip.is_link_local else ip)
                found.append((6, int(metric, 16), route))
        found.sort(key=lambda route: route[:2])
        return tuple(dict.fromkeys(route for _, _, route in found))

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        sock = _change_socket()
        if sock is None:
            return None
        watch = watch_of(asyncio.get_running_loop())

        def drain() -> None:
            # Until it is empty, or ENOBUFS: messages were lost, which is a sign of change as well.
            with suppress(OSError):
                while sock.recv(65536):
                    pass
            notify()

        def close() -> None:
            watch.remove_reader(sock.fileno())
            sock.close()

        watch.add_reader(sock.fileno(), drain)
        return close

    def blind_spots(self) -> tuple[str, ...]:
        try:
            (PROC_NET / "route").read_bytes()
        except OSError:
            return super().blind_spots()
        return ()


def _address_messages() -> Iterator[bytes]:
    """What the kernel answers to RTM_GETADDR: a `struct ifaddrmsg` and its attributes for each address. OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_KERNEL_PATIENCE)
        sock.send(struct.pack("=IHHIIBBBBI", 24, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0, 0, 0, 0, 0, 0))
        while True:
            answer = sock.recv(_LARGEST_ANSWER)
            while len(answer) >= _NLMSGHDR.size:
                length, kind = _NLMSGHDR.unpack_from(answer)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR or length < _NLMSGHDR.size:
                    raise OSError("the kernel does not list its addresses")
                if kind == _RTM_NEWADDR:
                    yield answer[_NLMSGHDR.size : length]
                answer = answer[_aligned(length) :]


def _assigned(message: bytes) -> AssignedAddress | None:
    """None when its interface has just gone."""
    family, prefix, flags, _, index = struct.unpack_from("=BBBBI", message)
    attributes: dict[int, bytes] = {}
    rest = message[8:]
    while len(rest) >= 4:
        length, kind = struct.unpack_from("=HH", rest)
        attributes[kind] = rest[4:length]
        rest = rest[max(4, _aligned(length)) :]
    # IFA_ADDRESS is the other end's where a link has two; an IPv4 address may have a label beside the interface's name.
    told = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
    label = attributes.get(_IFA_LABEL, b"").rstrip(b"\0").decode(errors="replace")
    try:
        name = label or socket.if_indextoname(index)
        ip = ip_address(told)
    except (OSError, ValueError):
        return None
    if _IFA_FLAGS in attributes:
        (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
    if family == socket.AF_INET:
        flags = 0  # which say other things there
    return AssignedAddress(
        name,
        ip,
        prefix,
        temporary=bool(flags & _TEMPORARY),
        deprecated=bool(flags & _DEPRECATED),
        tentative=bool(flags & (_TENTATIVE | _DAD_FAILED)),
        index=index,
    )


def _aligned(length: int) -> int:
    return length + -length % 4


def _leads_out(flags: str, destination: str) -> bool:
    """A route that is up, has a gateway, and is for the empty prefix; all fields are hexadecimal."""
    needed = _RTF_UP | _RTF_GATEWAY
    return int(flags, 16) & needed == needed and int(destination, 16) == 0


def _proc_table(name: str) -> list[list[str]]:
    try:
        return [line.split() for line in (PROC_NET / name).read_text().splitlines()]
    except OSError:  # no IPv6, or Android
        return []


def _change_socket() -> socket.socket | None:
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
