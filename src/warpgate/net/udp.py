"""UDP on kernel sockets: unconnected, non-blocking, read by readiness callbacks.

Raw sockets rather than asyncio's datagram transports: on uvloop `sendto(data, addr)` on a connected transport
is lost without a word, transports buffer without bound, and neither offers a TTL for one datagram.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Family, SockAddr
from warpgate.net.devices import send_alike, send_by
from warpgate.net.network import DatagramReceiver
from warpgate.net.sockets import Readiness, address_family, network_error

# Datagrams taken per wake-up: enough to make the wake-up cheap, few enough that timers and other sockets
# wait for 64 callbacks at most.
DRAIN = 64

LARGEST_DATAGRAM = 65535

# A burst at 100 Mbit/s fills the default 208 KiB (with the kernel's own overhead per datagram) in 8 ms, less
# than one slow turn of an event loop. The kernel silently caps this at net.core.rmem_max.
RECEIVE_BUFFER = 4 * 1024 * 1024

# The kernel's send queue is full: wait for `writable`, nothing is wrong.
_FULL = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)

# linux/in.h. By default Linux forbids routers to fragment (DF) and waits for their word; where ICMP is filtered, what
# is larger than a link in the middle then vanishes, while still larger datagrams, fragmented at once, arrive.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 10, 0

_TTL_OPTION = {
    Family.V4: (socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TTL),
    Family.V6: (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, socket.IPV6_UNICAST_HOPS),
}


class SystemUdpSocket:
    """Open from construction to `close`. Errors of single datagrams are counted, never raised: UDP may lose
    them anyway, and an ICMP error provoked by one peer must not cost the others their socket.

    `send_errors` and `receive_errors` count what the kernel refused (unreachable, too long, forbidden).
    """

    def __init__(self, sock: socket.socket, receiver: DatagramReceiver) -> None:
        self.send_errors = 0
        self.receive_errors = 0
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._local = Endpoint.from_sockaddr(sock.getsockname())
        self._receiver = receiver
        self._open = True
        self._writable = Readiness.to_write(self._loop, sock)
        self._loop.add_reader(sock.fileno(), self._drain)

    @property
    def local(self) -> Endpoint:
        return self._local

    def send(self, data: bytes, to: SockAddr, ttl: int | None = None) -> bool:
        """False when the datagram was not taken; after a full buffer `writable` tells when to go on."""
        try:
            if ttl is None:
                self._sock.sendto(data, to)
            else:
                self._send_with_ttl(data, to, ttl)
        except OSError as error:
            if error.errno not in _FULL:
                self.send_errors += 1
            return False
        return True

    def _send_with_ttl(self, data: bytes, to: SockAddr, ttl: int) -> None:
        level, ancillary, option = _TTL_OPTION[self._local.family]
        if sys.platform == "linux":
            self._sock.sendmsg([data], [(level, ancillary, struct.pack("i", ttl))], 0, to)
            return
        # Elsewhere IPv4 knows no TTL as ancillary data; nothing else of ours can send in between.
        usual = self._sock.getsockopt(level, option)
        self._sock.setsockopt(level, option, ttl)
        try:
            self._sock.sendto(data, to)
        finally:
            self._sock.setsockopt(level, option, usual)

    async def writable(self) -> None:
        """Until the kernel takes datagrams again; NetworkError if the socket is closed by then."""
        if self._open:
            await self._writable.wait()
        if not self._open:
            raise NetworkError(f"UDP socket {self._local} is closed")

    def _drain(self) -> None:
        for _ in range(DRAIN):
            try:
                data, source = self._sock.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error about an earlier datagram: reading it clears it
                self.receive_errors += 1
                continue
            self._receiver(data, source)
            if not self._open:
                return

    def detach(self, remote: Endpoint) -> socket.socket:
        """A connected socket on our endpoint. The kernel prefers it for datagrams from `remote`; the rest
        stays here.

        Datagrams of that flow that are queued already still come to the receiver. NetworkError when refused.
        """
        try:
            sock = _bound_twin(self._sock, self._local)
            try:
                sock.connect(remote.sockaddr)
                self._return_strays(sock)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise network_error(f"give {self._local} a socket of its own for {remote}", error) from error
        return sock

    def _return_strays(self, sock: socket.socket) -> None:
        """Between bind and connect the new socket may have caught datagrams of any source: they are ours."""
        while True:
            try:
                data, source = sock.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            self._loop.call_soon(self._receiver, data, source)

    def close(self) -> None:
        """Idempotent; nothing is received after it."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._writable.wake()
        self._sock.close()


def bind_udp(local: Endpoint, device: str | None = None) -> socket.socket:
    """A non-blocking UDP socket that owns its port alone, and sends by `device` if given; raises OSError."""
    sock = socket.socket(address_family(local.family), socket.SOCK_DGRAM)
    try:
        _prepare(sock, local.family)
        if device is not None:
            send_by(sock, local.family, device)
        sock.bind(local.sockaddr)
        if local.family is Family.V4 and not local.ip.is_unspecified:
            # Linux does so by itself; elsewhere multicast follows the default route, whatever the address.
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local.ip.packed)
    except BaseException:
        sock.close()
        raise
    return sock


def _prepare(sock: socket.socket, family: Family) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    if family is Family.V6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    elif sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)


def _bound_twin(original: socket.socket, local: Endpoint) -> socket.socket:
    """Another socket on the port of `original`, which agrees to it for this one call; raises OSError.

    With SO_REUSEADDR left on there, a second program could bind the port too and take its datagrams. The twin keeps it
    for the sake of later twins.
    """
    options = [socket.SO_REUSEADDR]
    if (
        sys.platform != "linux"
    ):  # the BSDs ask for SO_REUSEPORT; on Linux it would form a load-balancing group
        options.append(socket.SO_REUSEPORT)
    sock = socket.socket(original.family, socket.SOCK_DGRAM)
    try:
        _prepare(sock, local.family)
        for option in options:
            original.setsockopt(socket.SOL_SOCKET, option, 1)
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        send_alike(sock, local.family, original)
        sock.bind(local.sockaddr)
    except BaseException:
        sock.close()
        raise
    finally:
        for option in options:
            original.setsockopt(socket.SOL_SOCKET, option, 0)
    return sock
