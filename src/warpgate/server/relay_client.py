"""One client's connection to the relay: frames in, frames out, and at last perhaps bytes (RFC 6062)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from warpgate.errors import DecodeError, NetworkError
from warpgate.net.network import TcpStream
from warpgate.proto.relay_state import Call
from warpgate.proto.stun import StreamDecoder

CHUNK = 64 * 1024
# Datagrams must not pile up before a slow client: a quarter of a second at 8 Mbit/s, then they are lost.
QUEUE_LIMIT = 256 * 1024


class ClientStream:
    """`call`: the pair that the connection has been joined to: no frames from then on. `since`: idle from then on."""

    def __init__(self, stream: TcpStream, now: float) -> None:
        self.stream = stream
        self.since = now
        self.call: Call | None = None
        self._decoder = StreamDecoder(channel_data=True)
        self._queue = bytearray()
        self._writing: asyncio.Task[None] | None = None

    async def read(self, early: bytes, on_frame: Callable[[bytes], None]) -> None:
        """Until it ends, is no TURN, or is joined."""
        with contextlib.suppress(NetworkError, DecodeError):
            data = early or await self.stream.recv(CHUNK)
            while data:
                self._decoder.feed(data)
                while (frame := self._decoder.next_frame()) is not None:
                    on_frame(frame)
                    if self.call is not None:
                        return
                data = await self.stream.recv(CHUNK)

    @property
    def leftover(self) -> bytes:
        """What came behind the last frame, once."""
        return self._decoder.leftover()

    def send(self, frame: bytes) -> None:
        """Lost when too much waits already."""
        if len(self._queue) > QUEUE_LIMIT:
            return
        self._queue += frame
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="relay writes")

    async def flush(self) -> None:
        """Until everything is sent, or cannot be."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def abort(self) -> None:
        """Idempotent."""
        if self._writing is not None:
            self._writing.cancel()
        self.stream.abort()

    async def _write(self) -> None:
        try:
            while self._queue:
                data, self._queue = self._queue, bytearray()
                await self.stream.send(data)
        except NetworkError:
            self.stream.abort()  # whoever reads finds out
        finally:
            self._writing = None
