"""One TLS port, for clients whose network lets nothing else through: the first byte says whom a connection is for."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import Network, TcpListener, TcpStream
from warpgate.net.tls import serve_tls
from warpgate.proto.stun_server import SourceLimiter
from warpgate.server.metrics import Reading
from warpgate.server.relay_pump import join

CONNECTIONS = 4096
CONNECTIONS_PER_SOURCE = 256
# A handshake costs a signature, half a millisecond or more: of one source so many a second.
HANDSHAKE_RATE, HANDSHAKE_BURST = 10.0, 100.0
LIMITER_PLACES = 16384
# For the handshake, and again for the first bytes. A relay's client may keep a connection ready (RFC 6062).
PATIENCE = 10.0
FIRST_BYTES = 30.0
FIRST_CHUNK = 4096
MQTT_CONNECT = 0x10  # MQTT 3.1.1 section 3.1.1: the fixed header of the first packet
HTTP_GET = ord("G")
_LAST_STUN = 0x01  # the methods of STUN and TURN are below 0x80

Dial = Callable[[], Awaitable[TcpStream]]
TakeClient = Callable[[TcpStream, bytes], None]


class Door:
    """Serves from `open` to `close`. `relay` takes over TURN clients' connections; `services` dials for others, by the
    first byte that they send.
    """

    def __init__(
        self, context: ssl.SSLContext, salt: bytes, *, relay: TakeClient | None, services: Mapping[int, Dial]
    ) -> None:
        """Made by `open`."""
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._relay = relay
        self._services = services
        self._limiter = SourceLimiter(
            HANDSHAKE_RATE, HANDSHAKE_BURST, self._loop.time(), salt=salt, places=LIMITER_PLACES
        )
        self._listeners: list[TcpListener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sources: Counter[bytes] = Counter()
        self._refused = 0

    @classmethod
    def open(
        cls,
        network: Network,
        places: Sequence[Endpoint],
        context: ssl.SSLContext,
        *,
        salt: bytes,
        relay: TakeClient | None,
        services: Mapping[int, Dial],
    ) -> Door:
        """On all `places` or on none: NetworkError when one is taken."""
        self = cls(context, salt, relay=relay, services=services)
        try:
            for place in places:
                self._listeners.append(network.listen_tcp(place, self._accepted))
        except NetworkError:
            self._stop_listening()
            raise
        return self

    def readings(self) -> tuple[Reading, ...]:
        """For `Metrics.others`."""
        return (
            ("door_connections", "gauge", "Connections to the TLS door.", len(self._tasks)),
            ("door_refused_total", "counter", "Those over a limit, or nobody's.", self._refused),
        )

    async def close(self) -> None:
        """Idempotent."""
        self._stop_listening()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _accepted(self, stream: TcpStream) -> None:
        source = stream.remote.ip.packed[:8]
        full = len(self._tasks) >= CONNECTIONS or self._sources[source] >= CONNECTIONS_PER_SOURCE
        if full or not self._limiter.take(stream.remote.ip, self._loop.time()):
            self._refused += 1
            stream.abort()
            return
        self._sources[source] += 1
        task = self._loop.create_task(self._serve(stream, source), name=f"door {stream.remote}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: TcpStream, source: bytes) -> None:
        handed_over = False
        try:
            async with asyncio.timeout(PATIENCE):
                secured = await serve_tls(stream, self._context)
            async with asyncio.timeout(FIRST_BYTES):
                early = await secured.recv(FIRST_CHUNK)
            if self._relay is not None and early and early[0] <= _LAST_STUN:
                self._relay(secured, early)
                handed_over = True
            elif early and (dial := self._services.get(early[0])) is not None:
                await join(secured, await dial(), early)
            else:
                self._refused += 1
        except (NetworkError, TimeoutError):
            pass
        finally:
            if not handed_over:
                stream.abort()
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]
