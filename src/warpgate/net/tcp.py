"""TCP on kernel sockets: streams, dialling (from a shared port, for punching) and listening."""

from __future__ import annotations

import asyncio
import socket

from warpgate.errors import NetworkError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family
from warpgate.net.network import Acceptor
from warpgate.net.sockets import Readiness, address_family, network_error, reset_and_close
from warpgate.net.stream import BACKLOG, SocketListener, SocketStream
from warpgate.platform import SOCKETS
from warpgate.platform.sockets import MARK_JITTER

# A silent peer is given up after idle + interval * probes = 30 s, the consent lifetime of RFC 7675 section
# 5.1, which holds for UDP pipes too. Keepalive rests while data is in flight: `stalled` tells that case.
# (TCP_USER_TIMEOUT would too, but it also resets the connection to a peer that stops reading for so long,
# against RFC 1122 section 4.2.2.17.)
KEEPALIVE_IDLE = 15
KEEPALIVE_INTERVAL = 5
KEEPALIVE_PROBES = 3

# Fits a link of 1280 bytes (IPv6's least, RFC 8200 section 5) with the headers of either family.
# Where what is larger is dropped and ICMP filtered, the small packets of a handshake pass, and with the usual 1460 the
# connection then hangs.
SAFE_SEGMENT = 1220


@dataclass(frozen=True, slots=True)
class _InFlight:
    """Unacknowledged data: when it was first `seen`, and the system's `mark` (see `Flight`) by then."""

    seen: float
    mark: float


class SystemTcpStream(SocketStream):
    """A connection, and what the kernel knows of it."""

    def __init__(self, sock: socket.socket, local: Endpoint, remote: Endpoint) -> None:
        """Takes over a connected, non-blocking socket."""
        super().__init__(sock, remote)
        self.local = local
        self.remote = remote
        self._in_flight: _InFlight | None = None

    def stalled(self) -> float:
        """To be asked every few seconds: silence is counted from the first time it was seen. 0.0 where the system
        does not tell; Linux does.
        """
        now = asyncio.get_running_loop().time()
        flight = None if self._sock is None else SOCKETS.flight(self._sock, now)
        if flight is None:
            return 0.0
        if not flight.unacked:
            self._in_flight = None
            return 0.0
        # The last acknowledgement may be older than the data: count from the first look at it.
        if self._in_flight is None or flight.mark > self._in_flight.mark + MARK_JITTER:
            self._in_flight = _InFlight(now, flight.mark)
        return now - self._in_flight.seen

    def unacknowledged(self) -> int:
        """0 where the system does not tell."""
        return 0 if self._sock is None else SOCKETS.unacknowledged(self._sock)

    def detach(self) -> socket.socket:
        """RuntimeError while a task receives or sends, NetworkError when it is closed already."""
        if self._receiving or self._sending:
            raise RuntimeError(f"the connection to {self.remote} is in use and cannot be handed over")
        sock = self._usable()
        self._release("handed over")
        return sock


class SystemTcpListener(SocketListener[SystemTcpStream]):
    """See SocketListener."""

    def __init__(self, sock: socket.socket, acceptor: Acceptor) -> None:
        """Takes over a listening, non-blocking socket."""
        super().__init__(sock, lambda sock, remote: _connected(sock, Endpoint.from_sockaddr(remote)), acceptor)
        self.local = Endpoint.from_sockaddr(sock.getsockname())


def listen(local: Endpoint) -> socket.socket:
    """A non-blocking listening socket, from whose port `dial` can dial; raises OSError."""
    sock = _new_socket(local)
    try:
        SOCKETS.listen_alone(sock, local.sockaddr, BACKLOG)
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
        SOCKETS.share_port(sock)
        if SOCKETS.hear_only(sock, device):
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
            SOCKETS.share_port(sock)
            sock.bind(local.sockaddr)
        if device is not None:
            SOCKETS.keep_to(sock, remote.family, device)
        with SOCKETS.hops_limited(sock, remote.family, first_ttl):
            code = sock.connect_ex(remote.sockaddr)
        if code in SOCKETS.connecting:
            await Readiness.to_write(asyncio.get_running_loop(), sock).wait()
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise SOCKETS.failure(code)
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
        raise NetworkError(f"connect to {remote}: the system connected the socket to itself, nobody listens there")
    return stream


def _new_socket(end: Endpoint) -> socket.socket:
    """`end`: where it will listen, or connect to."""
    sock = socket.socket(address_family(end.family), socket.SOCK_STREAM)
    sock.setblocking(False)
    if end.family is Family.V6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if not end.ip.is_loopback:
        SOCKETS.limit_segments(sock, SAFE_SEGMENT)
    return sock


def _connected(sock: socket.socket, remote: Endpoint) -> SystemTcpStream:
    """Options that belong to an established connection."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    SOCKETS.keep_alive(sock, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES)
    return SystemTcpStream(sock, Endpoint.from_sockaddr(sock.getsockname()), remote)
