"""What paho takes for a socket: the bytes of one MQTT connection, as they are or in a WebSocket."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol, cast

from warpgate.errors import ProtocolError, ServiceError
from warpgate.model.servers import BrokerUrl
from warpgate.net.race import heed
from warpgate.platform import SOCKETS
from warpgate.proto.mqtt_framing import Framing
from warpgate.proto.websocket import BINARY, MASK_SIZE, NONCE_SIZE, PONG, WebSocketReader, frame, upgrade

# Unsent bytes a link holds for a broker that does not take them: 16 envelopes; more would come too late.
SEND_BOUND = 64 * 1024
_SUBPROTOCOL = "mqtt"  # MQTT 5 section 6.0


class Reader(Protocol):
    """Who is told what the wire sees."""

    def received(self, pieces: int) -> None:
        """There is more `inbound`; it came in so many arrivals or frames."""

    def lost(self, reason: str) -> None:
        """It is over. May come more than once."""


class Wire(asyncio.Protocol):
    """An asyncio transport that looks like a non-blocking socket to paho."""

    def __init__(self, reader: Reader) -> None:
        self.inbound = bytearray()
        self._reader = reader
        self._framing = Framing()
        self._transport: asyncio.Transport | None = None
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def opened(self) -> None:
        """Until bytes pass. ServiceError when there are to be none."""

    @property
    def unsent(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause(self, yes: bool) -> None:
        """While paused the broker's data stays with the kernel, then with the broker."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if yes else self._transport.resume_reading)()

    async def gone(self, patience: float) -> None:
        """Wait until the transport is closed; force it after `patience` seconds."""
        if self._transport is None:
            return
        await asyncio.wait([self._gone], timeout=patience)
        if not self._gone.done():
            self._transport.abort()
            await self._gone

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._acknowledge()
        self.inbound += data
        self._reader.received(1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set_result(None)
        self._reader.lost("the broker closed the connection" if exc is None else f"the connection broke: {exc}")

    def _acknowledge(self) -> None:
        """Brokers leave Nagle's algorithm on: what follows the SUBACK waits for our ACK, which Linux delays
        (mosquitto on loopback: 43 ms in 60 runs of 60, 0.1 ms with this).

        The option does not last (tcp(7): "This flag is not permanent"), so it is set after each arrival.
        """
        if self._transport is not None:
            SOCKETS.acknowledge_at_once(self._transport.get_extra_info("socket"))

    # What paho asks of a socket.

    def recv(self, limit: int) -> bytes:
        if not self.inbound:
            raise BlockingIOError
        data = bytes(self.inbound[:limit])
        del self.inbound[:limit]
        try:
            self._framing.feed(data)
        except ProtocolError as error:
            self._reader.lost(str(error))
            raise ConnectionError(str(error)) from error
        return data

    def send(self, data: bytes | bytearray) -> int:
        """asyncio tries the system call at once and keeps what the kernel does not take."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("connection closed")
        self._transport.write(bytes(data))
        return len(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:
        """The loop's transports never block."""


class WebWire(Wire):
    """The same in binary messages of a WebSocket."""

    def __init__(self, reader: Reader, broker: BrokerUrl) -> None:
        super().__init__(reader)
        nonce = secrets.token_bytes(NONCE_SIZE)
        self._request = upgrade(broker.authority, broker.path or "/", nonce, _SUBPROTOCOL)
        self._web = WebSocketReader(nonce, _SUBPROTOCOL)
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened.add_done_callback(heed)

    async def opened(self) -> None:
        super().send(self._request)
        await self._opened

    def data_received(self, data: bytes) -> None:
        self._acknowledge()
        before = self._web.frames
        try:
            self.inbound += self._web.receive(data)
        except ProtocolError as error:
            self._end(str(error))
            return
        if self._web.open and not self._opened.done():
            self._opened.set_result(None)
        if self._web.ping is not None:
            if self.unsent <= SEND_BOUND:
                super().send(frame(PONG, self._web.ping, secrets.token_bytes(MASK_SIZE)))
            self._web.ping = None
        self._reader.received(1 + self._web.frames - before)
        if self._web.closed:
            self._end(self._web.closed)

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse("the broker closed the connection")
        super().connection_lost(exc)

    def send(self, data: bytes | bytearray) -> int:
        super().send(frame(BINARY, bytes(data), secrets.token_bytes(MASK_SIZE)))
        return len(data)

    def _end(self, reason: str) -> None:
        self._refuse(reason)
        self._reader.lost(reason)

    def _refuse(self, reason: str) -> None:
        if not self._opened.done():
            self._opened.set_exception(ServiceError(reason))
