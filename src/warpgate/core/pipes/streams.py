"""asyncio streams over a pipe that has no socket of its own: a transport that sends and receives through the pipe."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

from warpgate.core.tasks import running_loop
from warpgate.errors import WarpgateError
from warpgate.model.endpoint import Endpoint

# asyncio's own default for open_connection.
READ_LIMIT = 64 * 1024
# asyncio's own default for a transport's write buffer; what is above it makes `drain` wait.
HIGH_WATER = 64 * 1024


class Carrier(Protocol):
    """What is asked of a pipe."""

    @property
    def local(self) -> Endpoint: ...
    @property
    def remote(self) -> Endpoint: ...
    @property
    def closed(self) -> bool: ...
    async def send(self, data: bytes) -> None: ...
    async def recv(self) -> bytes: ...
    def write_eof(self) -> None: ...
    async def close(self) -> None: ...
    def abort(self) -> None: ...


def streams_over(pipe: Carrier, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As `Pipe.open_streams`."""
    loop = running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = PipeTransport(pipe, protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class PipeTransport(asyncio.Transport):
    """Two tasks carry the bytes; they end with the pipe, at `close` once the buffer is sent, at `abort` at once."""

    def __init__(self, pipe: Carrier, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": pipe.remote.sockaddr, "sockname": pipe.local.sockaddr, "pipe": pipe})
        self._pipe = pipe
        self._protocol: asyncio.BaseProtocol = protocol
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._something = asyncio.Event()  # to send, or an end to be told
        self._reading = asyncio.Event()
        self._reading.set()
        self._paused = False
        self._eof = False
        self._closing = False
        self._ended = False
        protocol.connection_made(self)
        self._tasks = [self._loop.create_task(self._receive()), self._loop.create_task(self._send())]

    # -- asyncio.Transport ---------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading.is_set() and not self._closing

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._ended or not data:
            return
        self._buffer += data
        self._something.set()
        if len(self._buffer) > HIGH_WATER and not self._paused and isinstance(self._protocol, asyncio.Protocol):
            self._paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof = True
        self._something.set()

    def close(self) -> None:
        self._closing = True
        self._something.set()

    def abort(self) -> None:
        self._pipe.abort()
        self._end(None)

    # -- carrying ------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        error: Exception | None = None
        try:
            while True:
                await self._reading.wait()
                data = await self._pipe.recv()
                if not data:
                    break
                if isinstance(self._protocol, asyncio.Protocol):
                    self._protocol.data_received(data)
        except WarpgateError as closed:
            error = None if self._closing else ConnectionResetError(str(closed))
        if error is not None:
            self._end(error)
        elif not self._closing and isinstance(self._protocol, asyncio.Protocol):
            # As with sockets: a protocol may want the other direction kept open.
            keep_open = self._protocol.eof_received()
            if not keep_open:
                self.close()

    async def _send(self) -> None:
        error: Exception | None = None
        try:
            while not self._ended:
                await self._something.wait()
                self._something.clear()
                while self._buffer:
                    data = bytes(self._buffer)
                    self._buffer.clear()
                    await self._pipe.send(data)
                    self._resume()
                if self._closing:
                    await self._pipe.close()
                    break
                if self._eof and not self._pipe.closed:
                    self._pipe.write_eof()
        except WarpgateError as closed:
            error = ConnectionResetError(str(closed))
        self._end(error)

    def _resume(self) -> None:
        if self._paused and isinstance(self._protocol, asyncio.Protocol):
            self._paused = False
            self._protocol.resume_writing()

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = self._closing = True
        self._buffer.clear()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon(self._protocol.connection_lost, error)
        if error is not None:
            self._pipe.abort()
