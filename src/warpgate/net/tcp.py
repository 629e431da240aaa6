"""TCP on kernel sockets: streams, dialling (from a shared port, for punching) and listening.

Every operation tries the system call first and waits for readiness only when the kernel has nothing: on a
busy connection that is one call and no turn of the loop.
"""

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
from warpgate.net.sockets import (
    IMMEDIATE_BEFORE_YIELD,
    Readiness,
    address_family,
    hops_limited,
    network_error,
    reset_and_close,
)

# One allocation per recv, whatever the caller's limit: beyond this the allocator maps and unmaps pages on
# every call, and loopback throughput falls instead of rising.
LARGEST_RECV = 256 * 1024

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

BACKLOG = 256
ACCEPTS_PER_WAKE_UP = 32

# Out of descriptors or memory: the connection stays in the backlog and the listening socket stays readable,
# so accepting again at once would be a busy loop.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class _InFlight:
    """Unacknowledged data: when it was first `seen`, and when the peer had last `acked` anything by then."""

    seen: float
    acked: float


class SystemTcpStream:
    """A connected socket. One task may receive and one may send at a time; a second one gets RuntimeError.

    A cancelled `recv` loses nothing; a cancelled `send` may have sent a part.
    """

    def __init__(self, sock: socket.socket, local: Endpoint, remote: Endpoint) -> None:
        """Takes over a connected, non-blocking socket."""
        loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = sock
        self._local = local
        self._remote = remote
        self._readable = Readiness.to_read(loop, sock)
        self._writable = Readiness.to_write(loop, sock)
        self._receiving = False
        self._sending = False
        self._immediate = 0
        self._in_flight: _InFlight | None = None
        self._end = "closed on this side"

    @property
    def local(self) -> Endpoint:
        return self._local

    @property
    def remote(self) -> Endpoint:
        return self._remote

    async def recv(self, limit: int) -> bytes:
        if limit <= 0:
            raise ValueError(f"cannot receive {limit} bytes")
        if self._receiving:
            raise RuntimeError(f"two tasks receive from {self._remote} at once")
        self._receiving = True
        try:
            if self._owes_a_turn():
                await asyncio.sleep(0)
            while True:
                try:
                    return self._usable().recv(min(limit, LARGEST_RECV))
                except BlockingIOError:
                    self._immediate = 0
                    await self._readable.wait()
                except OSError as error:
                    raise network_error(f"receive from {self._remote}", error) from error
        finally:
            self._receiving = False

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise RuntimeError(f"two tasks send to {self._remote} at once")
        self._sending = True
        try:
            if self._owes_a_turn():
                await asyncio.sleep(0)
            await self._send_all(data)
        finally:
            self._sending = False

    async def _send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._usable()
        rest = data.cast("B") if isinstance(data, memoryview) else data
        failure: OSError | None = None

        def push() -> bool:
            """False while the kernel's buffer is full and there is more to come."""
            nonlocal rest, failure
            try:
                sent = self._usable().send(rest)
            except BlockingIOError:
                return False
            except OSError as error:
                failure = error
                return True
            except NetworkError:  # closed meanwhile
                return True
            rest = memoryview(rest)[sent:]
            return not rest

        if not push():
            # The loop's callback goes on pushing: waking this task for every part costs 30 % on large chunks.
            self._immediate = 0
            await self._writable.wait(push)
        if failure is not None:
            raise network_error(f"send to {self._remote}", failure) from failure
        if rest:
            self._usable()

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

    def write_eof(self) -> None:
        try:
            self._usable().shutdown(socket.SHUT_WR)
        except OSError as error:
            raise network_error(f"end the stream to {self._remote}", error) from error

    def abort(self) -> None:
        sock = self._release("aborted on this side")
        if sock is not None:
            reset_and_close(sock)

    def close(self) -> None:
        """The kernel still delivers what was sent. Received bytes nobody read turn the FIN into RST (RFC
        1122, 4.2.2.13).
        """
        sock = self._release("closed on this side")
        if sock is not None:
            sock.close()

    def detach(self) -> socket.socket:
        """RuntimeError while a task receives or sends, NetworkError when it is closed already."""
        if self._receiving or self._sending:
            raise RuntimeError(f"the connection to {self._remote} is in use and cannot be handed over")
        sock = self._usable()
        self._release("handed over")
        return sock

    def _release(self, end: str) -> socket.socket | None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._end = end
            self._readable.wake()
            self._writable.wake()
        return sock

    def _usable(self) -> socket.socket:
        if self._sock is None:
            raise NetworkError(f"the connection to {self._remote} was {self._end}")
        return self._sock

    def _owes_a_turn(self) -> bool:
        self._immediate += 1
        if self._immediate <= IMMEDIATE_BEFORE_YIELD:
            return False
        self._immediate = 0
        return True


class SystemTcpListener:
    """Accepts until closed, and hands each connection over in the same turn of the loop."""

    def __init__(self, sock: socket.socket, acceptor: Acceptor) -> None:
        """Takes over a listening, non-blocking socket."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._local = Endpoint.from_sockaddr(sock.getsockname())
        self._acceptor = acceptor
        self._open = True
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock.fileno(), self._accept_waiting)

    @property
    def local(self) -> Endpoint:
        return self._local

    def _accept_waiting(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE_UP):
            try:
                sock, remote = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._loop.remove_reader(self._sock.fileno())
                    self._pause = self._loop.call_later(ACCEPT_PAUSE, self._resume)
                    return
                continue  # that connection died in the backlog (accept(2): treat such errors like EAGAIN)
            self._hand_over(sock, Endpoint.from_sockaddr(remote))
            if not self._open:
                return

    def _hand_over(self, sock: socket.socket, remote: Endpoint) -> None:
        try:
            stream = _connected(sock, remote)
        except OSError:  # reset by the peer before we looked
            sock.close()
            return
        try:
            self._acceptor(stream)
        except BaseException:
            stream.abort()
            raise

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept_waiting)

    def close(self) -> None:
        """Idempotent. Connections still in the backlog are reset by the kernel, accepted ones live on."""
        if not self._open:
            return
        self._open = False
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


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
