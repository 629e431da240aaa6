"""How a TURN client and its server exchange frames: datagrams, or a TCP or TLS stream."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Protocol

from warpgate.errors import DecodeError, NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr
from warpgate.model.turn_server import TurnServer, TurnTransport
from warpgate.net.network import Network, TcpStream
from warpgate.net.tls import secure
from warpgate.proto.stun import StreamDecoder
from warpgate.services.proxy import Proxy, tunnel

# Datagrams in a stream must not pile up behind a slow one: a quarter of a second at 8 Mbit/s, then they are lost.
QUEUE_LIMIT = 256 * 1024
# Checks, their answers and acknowledgements are let in to twice that: lost behind data of our own, again and again,
# they end a pipe that carries.
SMALL = 256
CHUNK = 64 * 1024
# Bytes a second that are read where nothing of them is of use: from an honest server that is late data of peers that
# are not talked to any more, from another one the cheapest way to keep us busy.
USELESS_RATE = 1024 * 1024
# How long a closed stream may take to be rid of what was still to be sent.
FLUSHING = 1.0
# For each of TCP, a proxy's answer and TLS. SYNs are repeated after 1 and 3 s (RFC 6298 section 2), and two satellites
# answer after 2.5 s.
DIAL_PATIENCE = 5.0

OnFrame = Callable[[bytes], bool]  # whether it was of use
OnBroken = Callable[[str], None]
OnRefused = Callable[[], None]


def _useless(_frame: bytes) -> bool:
    return False


def _no_matter(_reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Route:
    """One way to one server: `name` is what its certificate must hold, `source` the address of ours to use (None: the
    system's choice). With a `proxy` the endpoint is the proxy's, which leads to the server.
    """

    server: TurnServer
    endpoint: Endpoint
    transport: TurnTransport
    name: str
    source: IPAddress | None = None
    proxy: Proxy | None = None

    def __str__(self) -> str:
        return f"{self.server} at {self.endpoint} over {self.transport.name}"


class Carrier(Protocol):
    """Frames to and from one server."""

    reliable: bool

    def full(self, size: int) -> bool:
        """Whether a user's datagram of that size has to wait; what keeps the allocation alive does not."""

    def send(self, frame: bytes) -> bool:
        """False when it was not taken."""

    async def writable(self) -> None:
        """Until frames are taken again; NetworkError when closed."""

    def close(self) -> None:
        """What was sent still goes out. Idempotent."""


class UdpCarrier:
    """A socket of its own, as an allocation belongs to one 5-tuple (RFC 8656 section 3.2)."""

    reliable = False

    def __init__(self, network: Network, route: Route, on_frame: OnFrame, on_refused: OnRefused) -> None:
        """NetworkError when there is no way to the server. `on_refused`: nobody listens there, its machine says."""
        source = route.source or network.route_source(route.endpoint)
        if source is None:
            raise NetworkError(f"no route to {route.endpoint}")
        self._target = route.endpoint.sockaddr
        self._on_frame = on_frame
        self._socket = network.open_udp(Endpoint(source, 0), self._received)
        self._socket.watch_refusals(route.endpoint, on_refused)

    def _received(self, data: bytes, source: SockAddr) -> None:
        if source[:2] == self._target:
            self._on_frame(data)

    def full(self, size: int) -> bool:
        return False  # the kernel tells with each datagram

    def send(self, frame: bytes) -> bool:
        return self._socket.send(frame, self._target)

    async def writable(self) -> None:
        await self._socket.writable()

    def close(self) -> None:
        self._socket.close()
        self._on_frame = _useless  # it was the allocation's, which owns this


class StreamCarrier:
    """Frames in a stream; takes it over. Two tasks, which end with it."""

    reliable = True

    def __init__(self, stream: TcpStream, on_frame: OnFrame, on_broken: OnBroken) -> None:
        self._stream = stream
        self._on_frame = on_frame
        self._on_broken = on_broken
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        loop = asyncio.get_running_loop()
        self._reading = loop.create_task(self._read(), name="turn reads")
        self._writing = loop.create_task(self._write(), name="turn writes")

    def full(self, size: int) -> bool:
        return self._queued > QUEUE_LIMIT * (2 if size <= SMALL else 1)

    def send(self, frame: bytes) -> bool:
        if self._closing:
            return False
        self._queue.append(frame)
        self._queued += len(frame)
        if self.full(CHUNK):
            self._room.clear()
        self._wake.set()
        return True

    async def writable(self) -> None:
        await self._room.wait()
        if self._closing:
            raise NetworkError(f"the connection to the relay {self._stream.remote} is closed")

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._reading.cancel()
        del self._reading
        self._on_frame, self._on_broken = _useless, _no_matter  # they were the allocation's, which owns this
        self._room.set()
        self._wake.set()
        flushing = asyncio.get_running_loop().call_later(FLUSHING, self._stream.abort)

        def flushed(_: asyncio.Task[None]) -> None:
            flushing.cancel()
            self._stream.close()

        self._writing.add_done_callback(flushed)

    async def _read(self) -> None:
        decoder = StreamDecoder(channel_data=True)
        try:
            while data := await self._stream.recv(CHUNK):
                decoder.feed(data)
                of_use = []
                while (frame := decoder.next_frame()) is not None:
                    of_use.append(self._on_frame(frame))
                if of_use and not any(of_use):
                    await asyncio.sleep(len(data) / USELESS_RATE)
            self._on_broken("the server hung up")
        except (NetworkError, DecodeError) as error:
            self._on_broken(str(error))

    async def _write(self) -> None:
        try:
            while not (self._closing and not self._queue):
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    chunk = b"".join(self._queue)
                    self._queue.clear()
                    await self._stream.send(chunk)
                    self._queued -= len(chunk)
                    if not self.full(CHUNK):
                        self._room.set()
        except NetworkError as error:
            if not self._closing:
                self._on_broken(str(error))


async def dial(network: Network, route: Route, context: ssl.SSLContext | None) -> TcpStream:
    """A connection to the server, inside TLS with a context. NetworkError, ServiceError (too slow)."""
    local = None if route.source is None else Endpoint(route.source, 0)
    try:
        async with asyncio.timeout(DIAL_PATIENCE) as limit:
            loop = asyncio.get_running_loop()
            stream = await network.dial_tcp(route.endpoint, local)
            limit.reschedule(loop.time() + DIAL_PATIENCE)
            if route.proxy is not None:
                await tunnel(stream, route.proxy, route.server.host, route.server.port)
                limit.reschedule(loop.time() + DIAL_PATIENCE)
            return stream if context is None else await secure(stream, context, route.name)
    except TimeoutError:
        raise ServiceError(f"no answer of {route.endpoint} within {DIAL_PATIENCE:g} s") from None
