"""UDP on kernel sockets: unconnected, non-blocking, read by readiness callbacks.

Raw sockets rather than asyncio's datagram transports: on uvloop `sendto(data, addr)` on a connected transport
is lost without a word, transports buffer without bound, and neither offers a TTL for one datagram.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Family, SockAddr
from warpgate.net.network import DatagramReceiver, TakeRun, Watch, each_alone
from warpgate.net.sockets import Readiness, address_family, network_error
from warpgate.platform import SOCKETS
from warpgate.platform.readiness import watch_of
from warpgate.platform.sockets import ReceiveSegments

# Datagrams taken per wake-up: enough to make the wake-up cheap, few enough that timers and other sockets
# wait for 64 callbacks at most.
DRAIN = 64

LARGEST_DATAGRAM = 65535

# A burst at 100 Mbit/s fills the default 208 KiB (with the kernel's own overhead per datagram) in 8 ms, less
# than one slow turn of an event loop. The kernel silently caps this at net.core.rmem_max.
RECEIVE_BUFFER = 4 * 1024 * 1024

# The kernel's send queue is full: wait for `writable`, nothing is wrong.
_FULL = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)

# What goes out in one call, with room for the headers; and what a kernel or a device says that cannot do it at all.
_LARGEST_RUN = 65_000
_NO_SEGMENTS = (errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP)


class SystemUdpSocket:
    """Open from construction to `close`. Errors of single datagrams are counted, never raised: UDP may lose
    them anyway, and an ICMP error provoked by one peer must not cost the others their socket.

    `send_errors` and `receive_errors` count what the kernel refused (unreachable, too long, forbidden).
    """

    def __init__(
        self,
        sock: socket.socket,
        receiver: DatagramReceiver,
        on_refused: Callable[[], object] | None = None,
    ) -> None:
        """`on_refused`: of a connected socket, which alone is told that nobody listens at the other end."""
        self.send_errors = 0
        self.receive_errors = 0
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self.local = Endpoint.from_sockaddr(sock.getsockname())
        self._receiver = receiver
        self._take_run: TakeRun | None = None
        self._receive: ReceiveSegments | None = None  # of who takes runs
        self._on_refused = on_refused
        self._twins: dict[Endpoint, SystemUdpSocket] = {}  # of flows that are watched
        self._open = True
        self._writable = Readiness.to_write(self._loop, sock)
        self._most_segments = SOCKETS.most_segments
        self._watch = watch_of(self._loop)
        self._watch.add_reader(sock.fileno(), self._drain)

    def send(self, data: bytes, to: SockAddr, ttl: int | None = None) -> bool:
        """False when the datagram was not taken; after a full buffer `writable` tells when to go on."""
        try:
            if ttl is None:
                self._sock.sendto(data, to)
            else:
                SOCKETS.send_with_ttl(self._sock, self.local.family, data, to, ttl)
        except OSError as error:
            if error.errno not in _FULL:
                self.send_errors += 1
            return False
        return True

    def send_all(self, datagrams: Sequence[bytes], to: SockAddr) -> int:
        """How many were taken, in order; see `send` about the next one."""
        done = 0
        for run in runs(datagrams, self._most_segments):
            taken = self._send_segments(run, to) if len(run) > 1 else None
            if taken is None:
                taken = each_alone(self.send, run, to)
            done += taken
            if taken < len(run):
                break
        return done

    def _send_segments(self, run: Sequence[bytes], to: SockAddr) -> int | None:
        """None: they have to be sent one by one."""
        try:
            SOCKETS.send_segments(self._sock, run, to)
        except OSError as error:
            if error.errno in _FULL:
                return 0
            if error.errno in _NO_SEGMENTS:
                self._most_segments = 1
            return None  # one is larger than the next link takes whole, or something is wrong that `send` counts
        return len(run)

    def gather(self, take_run: TakeRun) -> None:
        """See `UdpSocket.gather`; once is for ever."""
        if self._take_run is None:
            self._receive = SOCKETS.receive_segments(self._sock, LARGEST_DATAGRAM)
        self._take_run = take_run

    async def writable(self) -> None:
        """Until the kernel takes datagrams again; NetworkError if the socket is closed by then."""
        if self._open:
            await self._writable.wait()
        if not self._open:
            raise NetworkError(f"UDP socket {self.local} is closed")

    def _drain(self) -> None:
        if self._receive is not None:
            self._give(self._gathered(self._receive))
            return
        sock, receiver = self._sock, self._receiver
        for _ in range(DRAIN):
            try:
                data, source = sock.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed_to_receive(error)
            else:
                receiver(data, source)
            if not self._open:
                return

    def _gathered(self, receive: ReceiveSegments) -> deque[tuple[SockAddr, list[bytes]]]:
        """What waits, DRAIN datagrams or a few more: those of one sender together, as they come mostly, whether or not
        the kernel has joined them.
        """
        runs: deque[tuple[SockAddr, list[bytes]]] = deque()
        left, last = DRAIN, None
        run: list[bytes] = []
        while left > 0:
            try:
                data, beside, _, source = receive()
            except BlockingIOError:
                break
            except OSError as error:
                self._failed_to_receive(error)
                left -= 1
                continue
            if source != last:
                last, run = source, []
                runs.append((source, run))
            if beside:
                size = SOCKETS.segment_size(beside)
                run += [data[start : start + size] for start in range(0, len(data), size)]
                left -= -(-len(data) // size)
            else:
                run.append(data)
                left -= 1
        return runs

    def _give(self, runs: deque[tuple[SockAddr, list[bytes]]]) -> None:
        """A receiver that takes them one by one and fails loses one of them."""
        assert self._take_run is not None
        while self._open and runs:
            source, run = runs.popleft()
            if len(run) > 1 and self._take_run(run, source):
                continue
            try:
                while self._open and run:
                    self._receiver(run.pop(0), source)
            except BaseException:
                runs.appendleft((source, run))
                self._loop.call_soon(self._give, runs)
                raise

    def _failed_to_receive(self, error: OSError) -> None:
        """An ICMP error about an earlier datagram: reading has cleared it."""
        self.receive_errors += 1
        if error.errno == errno.ECONNREFUSED and self._on_refused is not None:
            self._on_refused()

    def detach(self, remote: Endpoint) -> socket.socket:
        """A connected socket on our endpoint. The kernel prefers it for datagrams from `remote`; the rest
        stays here.

        Datagrams of that flow that are queued already still come to the receiver. NetworkError when refused.
        """
        if (watched := self._twins.pop(remote, None)) is not None:
            watched.close()
        try:
            sock = _bound_twin(self._sock, self.local)
            try:
                sock.connect(remote.sockaddr)
                self._return_strays(sock)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise network_error(f"give {self.local} a socket of its own for {remote}", error) from error
        return sock

    def _return_strays(self, sock: socket.socket) -> None:
        """Between bind and connect the new socket may have caught datagrams of any source: they are ours."""
        while True:
            try:
                data, source = sock.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            self._loop.call_soon(self._receiver, data, source)

    def watch_refusals(self, remote: Endpoint, on_refused: Callable[[], object]) -> Watch | None:
        """The flow is received by a connected twin from now on; what is sent still leaves from here."""
        if not SOCKETS.tells_refusals or not isinstance(self._loop, asyncio.SelectorEventLoop):
            return None  # uvloop takes an error of a socket for its end
        try:
            sock = self.detach(remote)
        except NetworkError:
            return None
        twin = SystemUdpSocket(sock, self._receiver, on_refused)
        watched = {at: other for at, other in self._twins.items() if other._open}
        self._twins = {**watched, remote: twin}  # those that are not watched any more have been closed
        return twin

    def close(self) -> None:
        """Idempotent; nothing is received after it."""
        if not self._open:
            return
        self._open = False
        for twin in self._twins.values():
            twin.close()
        self._watch.remove_reader(self._sock.fileno())
        self._writable.wake()
        self._sock.close()


def runs(datagrams: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """They, in order, in pieces of one size, of which the last may be shorter: each can be sent by one call."""
    sizes = list(map(len, datagrams))
    start = 0
    while start < len(sizes):
        size, end = sizes[start], start + 1
        limit = min(len(sizes), start + min(most, _LARGEST_RUN // max(1, size)))
        while end < limit and sizes[end] == size:
            end += 1
        if end < limit and 0 < sizes[end] < size:
            end += 1
        yield datagrams[start:end]
        start = end


def bind_udp(local: Endpoint, device: str | None = None) -> socket.socket:
    """A non-blocking UDP socket that owns its port alone, and sends by `device` if given; raises OSError."""
    sock = socket.socket(address_family(local.family), socket.SOCK_DGRAM)
    try:
        _prepare(sock, local.family)
        if device is not None:
            SOCKETS.send_by(sock, local.family, device)
        SOCKETS.own_udp_port(sock)
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
    SOCKETS.enlarge_receive_buffer(sock, RECEIVE_BUFFER)
    SOCKETS.allow_fragments(sock, family)
    if family is Family.V6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _bound_twin(original: socket.socket, local: Endpoint) -> socket.socket:
    """Another socket on the port of `original`; raises OSError."""
    sock = socket.socket(original.family, socket.SOCK_DGRAM)
    try:
        _prepare(sock, local.family)
        SOCKETS.send_alike(sock, local.family, original)
        SOCKETS.bind_twin(original, sock, local.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock
