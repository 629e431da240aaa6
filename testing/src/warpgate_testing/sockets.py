"""Sockets in memory: what `net.network` asks of them, on the pure TCP of `tcp` and what `wire` carries."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from warpgate.errors import NetworkError
from warpgate.lab.flow import Flow
from warpgate.lab.flow import Protocol as Layer4
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr
from warpgate.net.driver import MachineDriver
from warpgate.net.network import Acceptor, DatagramReceiver, TakeRun, each_alone
from warpgate.net.sockets import network_error
from warpgate_testing.segment import TcpSegment
from warpgate_testing.tcp import Connection, News, State
from warpgate_testing.wire import DEFAULT_TTL, Packet

LARGEST_PAYLOAD = 65507  # 65535 less IP and UDP headers


def system_error(code: int) -> OSError:
    """What the kernel would have raised."""
    return OSError(code, os.strerror(code))


class Kernel(Protocol):
    """What a socket needs of its host."""

    def now(self) -> float: ...
    def transmit(self, packet: Packet) -> None: ...
    def route_source(self, remote: Endpoint) -> IPAddress | None: ...
    def forget(self, closed: MemoryUdpSocket | MemoryTcpListener | TcpEnd) -> None: ...


class MemoryUdpSocket:
    """See `net.udp.SystemUdpSocket`."""

    def __init__(self, kernel: Kernel, local: Endpoint, receiver: DatagramReceiver) -> None:
        self.send_errors = 0
        self._kernel = kernel
        self._local = local
        self._receiver = receiver
        self._open = True

    @property
    def local(self) -> Endpoint:
        return self._local

    def send(self, data: bytes, to: SockAddr, ttl: int | None = None) -> bool:
        remote = Endpoint.from_sockaddr(to)
        source = self._local.ip
        if source.is_unspecified:
            source = self._kernel.route_source(remote) or source
        unroutable = source.is_unspecified or (source.is_loopback and not remote.ip.is_loopback)
        if not self._open or len(data) > LARGEST_PAYLOAD or unroutable or remote.family is not self._local.family:
            self.send_errors += 1
            return False
        flow = Flow(Layer4.UDP, Endpoint(source, self._local.port), remote)
        self._kernel.transmit(Packet(flow, bytes(data), DEFAULT_TTL if ttl is None else ttl))
        return True

    def send_all(self, datagrams: Sequence[bytes], to: SockAddr) -> int:
        return each_alone(self.send, datagrams, to)

    def gather(self, take_run: TakeRun) -> None:
        """In memory each datagram arrives by itself."""

    async def writable(self) -> None:
        if not self._open:
            raise NetworkError(f"UDP socket {self._local} is closed")

    def receive(self, data: bytes, source: Endpoint) -> None:
        """From the host: one datagram arrived."""
        if self._open:
            ip, port = source.sockaddr
            self._receiver(data, (ip, port) if source.ip.version == 4 else (ip, port, 0, 0))

    def detach(self, remote: Endpoint) -> socket.socket:
        raise NetworkError(f"give {self._local} a socket of its own for {remote}: there are none in memory")

    def watch_refusals(self, remote: Endpoint, on_refused: Callable[[], object]) -> None:
        """There is no ICMP in memory."""

    def close(self) -> None:
        if self._open:
            self._open = False
            self._kernel.forget(self)


class MemoryTcpListener:
    """See `net.tcp.SystemTcpListener`."""

    def __init__(self, kernel: Kernel, local: Endpoint, acceptor: Acceptor) -> None:
        self._kernel = kernel
        self._local = local
        self._acceptor = acceptor
        self._open = True

    @property
    def local(self) -> Endpoint:
        return self._local

    def hand_over(self, end: TcpEnd) -> None:
        """From the host: the handshake of a connection to us is done."""
        stream = MemoryTcpStream(end)
        if not self._open:
            stream.abort()
            return
        try:
            self._acceptor(stream)
        except BaseException:
            stream.abort()
            raise

    def close(self) -> None:
        if self._open:
            self._open = False
            self._kernel.forget(self)


class TcpEnd:
    """The kernel's side of a connection; it outlives the program's stream until both FINs are acknowledged.

    `listener` is set while a connection to it is being opened.
    """

    def __init__(
        self,
        kernel: Kernel,
        local: Endpoint,
        remote: Endpoint,
        listener: MemoryTcpListener | None = None,
    ) -> None:
        self.local = local
        self.remote = remote
        self.listener = listener
        self.ttl = DEFAULT_TTL
        self.connection = Connection(kernel.now(), active=listener is None)
        self._kernel = kernel
        self._flow = Flow(Layer4.TCP, local, remote)
        self._waiters: list[asyncio.Future[None]] = []
        self._driver: MachineDriver[News, TcpSegment] = MachineDriver(self.connection, self._transmit, self._changed)

    @property
    def opening(self) -> bool:
        return self.connection.state in (State.SYN_SENT, State.SYN_RECEIVED)

    def now(self) -> float:
        return self._kernel.now()

    def receive(self, segment: TcpSegment) -> None:
        self.connection.receive(segment, self.now())
        self.settle()

    def settle(self) -> None:
        """To be called after every verb of `connection`."""
        self._driver.drain()
        self._retire()

    async def wait(self) -> None:
        """Until something has changed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _transmit(self, segment: TcpSegment) -> None:
        self._kernel.transmit(Packet(self._flow, segment, self.ttl))

    def _changed(self, _: News) -> None:
        listener = self.listener
        if listener is not None and self.connection.established:
            self.listener = None
            listener.hand_over(self)
        self.wake()
        self._retire()

    def _retire(self) -> None:
        connection = self.connection
        if connection.state is State.CLOSED or (connection.finished and connection.detached):
            self._driver.close()
            self._kernel.forget(self)


class MemoryTcpStream:
    """See `net.tcp.SystemTcpStream`."""

    def __init__(self, end: TcpEnd) -> None:
        self._end = end
        self._connection = end.connection
        self._closed: str | None = None
        self._receiving = False
        self._sending = False

    @property
    def local(self) -> Endpoint:
        return self._end.local

    @property
    def remote(self) -> Endpoint:
        return self._end.remote

    async def recv(self, limit: int) -> bytes:
        if limit <= 0:
            raise ValueError(f"cannot receive {limit} bytes")
        if self._receiving:
            raise RuntimeError(f"two tasks receive from {self.remote} at once")
        self._receiving = True
        try:
            while True:
                self._check_open()
                if self._connection.readable:
                    data = self._connection.read(limit)
                    self._end.settle()
                    return data
                if self._connection.eof:
                    return b""
                self._check_alive("receive from")
                await self._end.wait()
        finally:
            self._receiving = False

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise RuntimeError(f"two tasks send to {self.remote} at once")
        self._sending = True
        try:
            self._check_open()
            with memoryview(data) as whole, whole.cast("B") as view:
                rest = view
                while rest:
                    self._check_open()
                    self._check_alive("send to")
                    if self._connection.finishing:
                        raise network_error(f"send to {self.remote}", system_error(errno.EPIPE))
                    rest = rest[self._connection.write(rest, self._end.now()) :]
                    self._end.settle()
                    if rest:
                        await self._end.wait()
        finally:
            self._sending = False

    def stalled(self) -> float:
        return self._connection.stalled(self._end.now())

    def unacknowledged(self) -> int:
        return self._connection.unacknowledged

    def write_eof(self) -> None:
        self._check_open()
        self._check_alive("end the stream to")
        self._connection.finish(self._end.now())
        self._end.settle()

    def abort(self) -> None:
        self._close("aborted on this side", self._connection.abort)

    def close(self) -> None:
        self._close("closed on this side", lambda: self._connection.close(self._end.now()))

    def _close(self, how: str, act: Callable[[], None]) -> None:
        if self._closed is None:
            self._closed = how
            act()
            self._end.settle()
            self._end.wake()

    def detach(self) -> socket.socket:
        if self._receiving or self._sending:
            raise RuntimeError(f"the connection to {self.remote} is in use and cannot be handed over")
        self._check_open()
        raise NetworkError(f"hand over the connection to {self.remote}: there are no OS sockets in memory")

    def _check_open(self) -> None:
        if self._closed is not None:
            raise NetworkError(f"the connection to {self.remote} was {self._closed}")

    def _check_alive(self, doing: str) -> None:
        if self._connection.state is State.CLOSED:
            error = system_error(self._connection.failure or errno.EPIPE)
            raise network_error(f"{doing} {self.remote}", error) from error
