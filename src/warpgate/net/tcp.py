"""TCP on kernel sockets: streams, dialling (from a shared port, for punching) and listening."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Family
from warpgate.net.devices import keep_to
from warpgate.net.network import Acceptor
from warpgate.net.sockets import Readiness, address_family, hops_limited, network_error, reset_and_close
from warpgate.net.stream import BACKLOG, SocketListener, SocketStream

# A silent peer is given up after idle + interval * probes = 30 s, the consent lifetime of RFC 7675 section
# 5.1, which holds for UDP pipes too. Keepalive rests while data is in flight: `stalled` tells that case.
# (TCP_USER_TIMEOUT would too, but it also resets the connection to a peer that stops reading for so long,
# against RFC 1122 section 4.2.2.17.)
KEEPALIVE_IDLE = 15
KEEPALIVE_INTERVAL = 5
KEEPALIVE_PROBES = 3

# struct tcp_info of linux/tcp.h, in its first 60 bytes: u32 at 24 `unacked` (segments), at 56 `last_ack_recv` (ms).
TCP_INFO_SIZE = 60
_ACK_JITTER = 0.05  # the kernel's milliseconds and the loop's clock are not read at the same instant

# Fits a link of 1280 bytes (IPv6's least, RFC 8200 section 5) with the headers of either family.
# Where what is larger is dropped and ICMP filtered, the small packets of a handshake pass, and with the usual 1460 the
# connection then hangs.
SAFE_SEGMENT = 1220


@dataclass(frozen=True, slots=True)
class _InFlight:
    """Unacknowledged data: when it was first `seen`, and when the peer had last `acked` anything by then."""

    seen: float
    acked: float


class SystemTcpStream(SocketStream):
    """A connection, and what the kernel knows of it."""

    def __init__(self, sock: socket.socket, local: Endpoint, remote: Endpoint) -> None:
        """Takes over a connected, non-blocking socket."""
        super().__init__(sock, remote)
        self._local = local
        self._remote = remote
        self._in_flight: _InFlight | None = None

    @property
    def local(self) -> Endpoint:
        return self._local

    @property
    def remote(self) -> Endpoint:
        return self._remote

    def stalled(self) -> float:
        """To be asked every few seconds: silence is counted from the first time it was seen. 0.0 where the system
        does not tell; Linux does.
        """
        if self._sock is None or not hasattr(socket, "TCP_INFO") or sys.platform != "linux":
            return 0.0
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        except OSError:
            return 0.0
        unacked, since_ack = struct.unpack_from("=I", info, 24)[0], struct.unpack_from("=I", info, 56)[0]
        if not unacked:
            self._in_flight = None
            return 0.0
        now = asyncio.get_running_loop().time()
        acked = now - since_ack / 1000
        # The last acknowledgement may be older than the data: count from the first look at it.
        if self._in_flight is None or acked > self._in_flight.acked + _ACK_JITTER:
            self._in_flight = _InFlight(now, acked)
        return now - self._in_flight.seen

    def unacknowledged(self) -> int:
        """Asked of the kernel by SIOCOUTQ, which has TIOCOUTQ's number (tcp(7)); 0 where the system does not tell."""
        if self._sock is None or sys.platform != "linux":
            return 0
        try:
            from fcntl import ioctl  # noqa: PLC0415 - no such modules on Windows
            from termios import TIOCOUTQ  # noqa: PLC0415

            answer = ioctl(self._sock, TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def detach(self) -> socket.socket:
        """RuntimeError while a task receives or sends, NetworkError when it is closed already."""
        if self._receiving or self._sending:
            raise RuntimeError(f"the connection to {self._remote} is in use and cannot be handed over")
        sock = self._usable()
        self._release("handed over")
        return sock


class SystemTcpListener(SocketListener[SystemTcpStream]):
    """See SocketListener."""

    def __init__(self, sock: socket.socket, acceptor: Acceptor) -> None:
        """Takes over a listening, non-blocking socket."""
        super().__init__(
            sock, lambda sock, remote: _connected(sock, Endpoint.from_sockaddr(remote)), acceptor
        )
        self._local = Endpoint.from_sockaddr(sock.getsockname())

    @property
    def local(self) -> Endpoint:
        return self._local


def listen(local: Endpoint) -> socket.socket:
    """A non-blocking listening socket; raises OSError.

    SO_REUSEPORT is set once it listens: dials that set it too may then bind the same port, while a second
    listener (which binds without it) is still told that the port is taken.
    """
    sock = _new_socket(local)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(local.sockaddr)
        sock.listen(BACKLOG)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_beside(local: Endpoint, device: str) -> socket.socket | None:
    """A second socket where `listen` has one, for what comes in by this interface: answers leave by it, too.

    The first one hears the rest: this machine itself, and whoever comes by another way. None when refused.
    """
    sock = _new_socket(local)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if keep_to(sock, device):
            sock.bind(local.sockaddr)
            sock.listen(BACKLOG)
            return sock
    except OSError:
        pass
    sock.close()
    return None


async def dial(
    remote: Endpoint, local: Endpoint | None, device: str | None = None, first_ttl: int | None = None
) -> SystemTcpStream:
    """See `Network.dial_tcp`. Everything up to the first `await` runs in the caller's turn: the SYN is out by
    then. `device`: the interface to leave by.
    """
    sock = _new_socket(remote)
    try:
        if local is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(local.sockaddr)
        if device is not None:
            keep_to(sock, device)
        with hops_limited(sock, remote.family, first_ttl):
            code = sock.connect_ex(remote.sockaddr)
        if code == errno.EINPROGRESS:
            await Readiness.to_write(asyncio.get_running_loop(), sock).wait()
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        stream = _connected(sock, remote)
    except OSError as error:
        sock.close()
        origin = "" if local is None else f" from {local}"
        raise network_error(f"connect to {remote}{origin}", error) from error
    except BaseException:
        reset_and_close(sock)
        raise
    if stream.local == remote:
        # A port of the ephemeral range that nobody listens on can be chosen as our own: TCP then opens to
        # itself.
        stream.abort()
        raise NetworkError(
            f"connect to {remote}: the system connected the socket to itself, nobody listens there"
        )
    return stream


def _new_socket(end: Endpoint) -> socket.socket:
    """`end`: where it will listen, or connect to."""
    sock = socket.socket(address_family(end.family), socket.SOCK_STREAM)
    sock.setblocking(False)
    if end.family is Family.V6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if sys.platform == "linux" and not end.ip.is_loopback:
        # Before the handshake, so that it also is what the other side is asked for.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SAFE_SEGMENT)
    return sock


def _connected(sock: socket.socket, remote: Endpoint) -> SystemTcpStream:
    """Options that belong to an established connection."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        with suppress(AttributeError):  # each system knows some of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return SystemTcpStream(sock, Endpoint.from_sockaddr(sock.getsockname()), remote)
