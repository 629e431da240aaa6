"""The STUN server's sockets: UDP and TCP on every place; what is answered is decided by `proto.stun_server`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from functools import partial

from warpgate.errors import DecodeError, NetworkError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.net.network import Network, TcpListener, TcpStream, UdpSocket
from warpgate.proto.stun import StreamDecoder
from warpgate.proto.stun_server import StunCounters, StunServer
from warpgate.server.metrics import Reading

# Nodes keep two connections open and ask on each every 20 to 26 s; others are given a minute, as by coturn.
IDLE = 60.0
# The first request comes with the handshake's last packet, or with one retransmission.
FIRST_REQUEST = 10.0
# Each costs about 10 KiB here and in the kernel. Of one source (behind its NAT may be many): so many.
CONNECTIONS = 4096
CONNECTIONS_PER_SOURCE = 256
# A Binding request has 20 bytes, with everything that ICE puts in less than 200.
LARGEST_REQUEST = 1024
# A client that does not read its answers is not one.
SEND_PATIENCE = 5.0


class StunResponder:
    """Serves from `open` to `close`."""

    def __init__(self, server: StunServer, *, connections: int = CONNECTIONS, idle: float = IDLE) -> None:
        """Made by `open`."""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._most = connections
        self._idle = idle
        self._udp: dict[Endpoint, UdpSocket] = {}
        self._listeners: list[TcpListener] = []
        self._streams: dict[asyncio.Task[None], None] = {}
        self._sources: Counter[bytes] = Counter()

    @classmethod
    def open(
        cls,
        network: Network,
        places: Mapping[Endpoint, Endpoint | None],
        *,
        salt: bytes,
        connections: int = CONNECTIONS,
        idle: float = IDLE,
    ) -> StunResponder:
        """Binds UDP and TCP on all `places` (see `StunServer`) or on none: NetworkError when one is taken."""
        now = asyncio.get_running_loop().time()
        self = cls(StunServer(places, now, salt=salt), connections=connections, idle=idle)
        try:
            for place in places:
                self._udp[place] = network.open_udp(place, partial(self._datagram, place))
                self._listeners.append(network.listen_tcp(place, partial(self._accepted, place)))
        except NetworkError:
            self._stop_listening()
            raise
        return self

    @property
    def counters(self) -> StunCounters:
        return self._server.counters

    def announced_ports(self, host: str) -> tuple[int, ...]:
        """What clients that know us as `host` have to be told.

        One port when that address has a partner (RFC 5780: they find the rest by themselves), otherwise both.
        """
        ports = tuple(dict.fromkeys(place.port for place in self._udp))
        return ports[:1] if self._server.changes_address(host) else ports

    @property
    def places(self) -> tuple[Endpoint, ...]:
        return tuple(self._udp)

    def readings(self) -> tuple[Reading, ...]:
        """For `Metrics.others`."""
        counters = self.counters
        return (
            ("stun_answered_total", "counter", "STUN requests answered.", counters.answered),
            ("stun_refused_total", "counter", "STUN requests answered with an error.", counters.refused),
            ("stun_limited_total", "counter", "STUN requests of sources over their rate.", counters.limited),
            ("stun_ignored_total", "counter", "What came to the STUN ports and is none.", counters.ignored),
            ("stun_connections", "gauge", "Open connections to the STUN ports.", self.connections),
        )

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._streams)

    async def close(self) -> None:
        """Idempotent."""
        self._stop_listening()
        for task in self._streams:
            task.cancel()
        if self._streams:
            await asyncio.wait(self._streams)

    def _stop_listening(self) -> None:
        for sock in self._udp.values():
            sock.close()
        for listener in self._listeners:
            listener.close()

    def _datagram(self, place: Endpoint, data: bytes, source: SockAddr) -> None:
        answer = self._server.receive(data, place, Endpoint.from_sockaddr(source), self._loop.time())
        if answer is not None:
            self._udp[answer.origin].send(answer.data, answer.remote.sockaddr)

    def _accepted(self, place: Endpoint, stream: TcpStream) -> None:
        source = stream.remote.ip.packed[:8]
        if len(self._streams) >= self._most or self._sources[source] >= CONNECTIONS_PER_SOURCE:
            stream.abort()
            return
        self._sources[source] += 1
        task = self._loop.create_task(self._serve(place, stream, source), name=f"stun {stream.remote}")
        self._streams[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._streams[task]

    async def _serve(self, place: Endpoint, stream: TcpStream, source: bytes) -> None:
        try:
            with contextlib.suppress(NetworkError, DecodeError, TimeoutError):
                await self._converse(place, stream)
        finally:
            stream.abort()  # by RST: a server that hangs up first would keep thousands of ports in TIME_WAIT
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    async def _converse(self, place: Endpoint, stream: TcpStream) -> None:
        """Until the client hangs up, sends what is no request, or is silent for too long."""
        decoder = StreamDecoder(limit=LARGEST_REQUEST)
        deadline = self._loop.time() + FIRST_REQUEST  # moved by whole requests: bytes alone keep nothing open
        while True:
            async with asyncio.timeout_at(deadline):
                data = await stream.recv(LARGEST_REQUEST)
            if not data:
                return
            decoder.feed(data)
            answers = bytearray()
            while (frame := decoder.next_frame()) is not None:
                answer = self._server.receive_frame(frame, place, stream.remote, self._loop.time())
                if answer is None:
                    return  # over the rate, or no client of a STUN server
                answers += answer
            if answers:
                async with asyncio.timeout(SEND_PATIENCE):
                    await stream.send(answers)
                deadline = self._loop.time() + self._idle
