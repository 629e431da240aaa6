"""What every system is asked to do with sockets, and what holds where it cannot: options, errors, and what it tells."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Family, SockAddr

# A buffer that is refused is asked for in halves down to this, which every system gives.
LEAST_BUFFER = 64 * 1024

MARK_JITTER = 0.05  # a mark may be an instant, and the kernel's clock and ours are not read at the same one


@dataclass(frozen=True, slots=True)
class Flight:
    """Of a TCP connection: what was sent and not acknowledged, in the system's own unit, and a number that grows by
    more than `MARK_JITTER` whenever the peer acknowledges anything.
    """

    unacked: int
    mark: float


# What the system says beside data: level, kind, value.
Beside = list[tuple[int, int, bytes]]
# Data, what came beside it (nothing: it is one datagram), flags, sender.
ReceiveSegments = Callable[[], tuple[bytes, Beside, int, SockAddr]]


class Sockets:
    """The answers here are for a system nothing is known of. All options take effect, or are left as they are."""

    connecting: tuple[int, ...] = (errno.EINPROGRESS,)  # what `connect_ex` answers while it goes on

    def reason(self, error: OSError) -> str:
        """The system's text for what it refused."""
        if isinstance(error, socket.gaierror) or error.errno is None:
            return error.strerror or str(error)
        return os.strerror(error.errno)

    def failure(self, code: int) -> OSError:
        """What `connect_ex` and SO_ERROR give as a number."""
        return OSError(code, os.strerror(code))

    # -- datagrams

    def enlarge_receive_buffer(self, sock: socket.socket, size: int) -> None:
        """As far as the system lets us: some cap it silently, others refuse what is beyond (ENOBUFS)."""
        while size >= LEAST_BUFFER:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            except OSError:
                size //= 2
            else:
                return

    def allow_fragments(self, sock: socket.socket, family: Family) -> None:
        """Let routers fragment what a UDP socket sends; most systems do from the start."""

    def own_udp_port(self, sock: socket.socket) -> None:
        """Before it is bound: the port is this socket's alone."""

    def bind_twin(self, original: socket.socket, twin: socket.socket, local: SockAddr) -> None:
        """Bind a second UDP socket to a port, to be connected then: the system gives it what its peer sends.

        The original agrees for this one call: with the option left on there, a second program could bind the port too
        and take its datagrams. The twin keeps it for the sake of later twins. OSError where this cannot be.
        """
        raise OSError(errno.EOPNOTSUPP, "this system gives the datagrams of a port to one socket")

    def send_with_ttl(self, sock: socket.socket, family: Family, data: bytes, to: SockAddr, hops: int) -> None:
        """One datagram that goes so many hops far; nothing else of ours can send in between."""
        level, option = (
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            if family is Family.V6
            else (socket.IPPROTO_IP, socket.IP_TTL)
        )
        usual = sock.getsockopt(level, option)
        sock.setsockopt(level, option, hops)
        try:
            sock.sendto(data, to)
        finally:
            sock.setsockopt(level, option, usual)

    # -- many datagrams in one call

    most_segments = 1  # of one size, the last perhaps shorter, in one call of `send_segments`
    tells_refusals = False  # to a connected twin of a UDP socket, of what the other one sent

    def send_segments(self, sock: socket.socket, datagrams: Sequence[bytes], to: SockAddr) -> None:
        """All of them or none; OSError also where a way to `to` cannot have that many at once."""
        raise OSError(errno.EOPNOTSUPP, "this system sends one datagram a call")

    def receive_segments(self, sock: socket.socket, size: int) -> ReceiveSegments:
        """What to read a UDP socket by from now on, at most `size` bytes a call: datagrams of one sender come at once,
        where the system joins them.
        """

        def receive() -> tuple[bytes, Beside, int, SockAddr]:
            data, source = sock.recvfrom(size)
            return data, [], 0, source

        return receive

    def segment_size(self, beside: Beside) -> int:
        """Of each datagram in what was read (the last one may be shorter), by what came beside it: not nothing."""
        raise NotImplementedError

    # -- staying on an interface

    def send_by(self, sock: socket.socket, family: Family, device: str) -> None:
        """Let a UDP socket send through this interface alone."""

    def send_alike(self, sock: socket.socket, family: Family, other: socket.socket) -> None:
        """Let a UDP socket send as another one does."""

    def keep_to(self, sock: socket.socket, family: Family, device: str) -> bool:
        """Let a TCP socket leave by this interface alone; whether it does."""
        return False

    def hear_only(self, sock: socket.socket, device: str) -> bool:
        """Let a TCP socket use this interface alone, also for what comes in; whether it does."""
        return False

    # -- connections

    def listen_alone(self, sock: socket.socket, local: SockAddr, backlog: int) -> None:
        """Bind and listen: no second listener gets the port, while sockets that `share_port` can dial from it."""
        sock.bind(local)
        sock.listen(backlog)

    def share_port(self, sock: socket.socket) -> None:
        """Before it is bound to the port of a listener: to dial from there, or to listen on one interface of it."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    @contextmanager
    def hops_limited(self, sock: socket.socket, family: Family, hops: int | None) -> Iterator[None]:
        """What is sent inside goes so many hops far, and ICMP errors about it are ignored. Else the usual way."""
        yield

    def limit_segments(self, sock: socket.socket, size: int) -> None:
        """Before the handshake, so that it also is what the other side is asked for."""

    def keep_alive(self, sock: socket.socket, idle: int, interval: int, probes: int) -> None:
        """Ask a silent peer after `idle` seconds, and so many times more; each system knows some of this."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", idle), ("TCP_KEEPINTVL", interval), ("TCP_KEEPCNT", probes)):
            with suppress(AttributeError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def give_up_after(self, sock: socket.socket, seconds: float) -> None:
        """How long what was sent may stay unacknowledged, then the connection is dead."""

    def acknowledge_at_once(self, sock: socket.socket) -> None:
        """What has come so far, without waiting for something to send along with it."""

    def flight(self, sock: socket.socket, now: float) -> Flight | None:
        """None where the system does not tell."""
        return None

    def unacknowledged(self, sock: socket.socket) -> int:
        """Bytes; 0 where the system does not tell."""
        return 0

    def reset_on_close(self, sock: socket.socket) -> None:
        """SO_LINGER 0: RFC 9293 section 3.10.5."""
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # -- sockets in the file system

    in_file_system = False  # whether there are any

    def unix_socket(self) -> socket.socket:
        """Not bound. OSError where there are none."""
        raise OSError(errno.EAFNOSUPPORT, "this system has no sockets in the file system")
