"""Two-way byte channels of different kinds, and joining two of them as netcat does.

An end yields chunks until its side has nothing more to say, takes chunks, and can be told that no more will
come (half-close). Pipes, local TCP connections, child processes and stdin/stdout are ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from warpgate.errors import ConfigError, PipeClosed
from warpgate.model.endpoint import Mode

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

CHUNK = 65_536
# RFC 8085 section 3.2: without path MTU discovery stay within the smallest MTU; 1200 is what QUIC settled on.
DATAGRAM = 1200


class End(Protocol):
    """One side of a join."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """What this side says, until its end of stream."""

    async def write(self, data: bytes) -> None:
        """Returns when the other side may be read further (back-pressure)."""

    async def end(self) -> None:
        """Nothing more will be written."""


class LocalStream(Protocol):
    """A connection to a program here, by TCP or by a socket in the file system; see `TcpStream`."""

    async def recv(self, limit: int) -> bytes: ...

    async def send(self, data: bytes | bytearray | memoryview) -> None: ...

    def write_eof(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


async def join(one: End, other: End, final: Collection[End] = ()) -> None:
    """Carry bytes both ways until both sides are done, or the first of the `final` ones is.

    The first error of either side ends both and is raised.
    """
    there = asyncio.create_task(_pump(one, other))
    back = asyncio.create_task(_pump(other, one))
    pending = {there, back}
    enough = {task for task, source in ((there, one), (back, other)) if source in final}
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if done & enough:
                return
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(there, back, return_exceptions=True)


async def cancel_all(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel and wait until all have cleaned up."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _pump(source: End, sink: End) -> None:
    async with contextlib.aclosing(source.chunks()) as chunks:
        async for chunk in chunks:
            await sink.write(chunk)
    await sink.end()


@contextlib.asynccontextmanager
async def owned(pipe: Pipe) -> AsyncIterator[Pipe]:
    """Closed in an orderly way after the block, reset when an error or a cancellation leaves it."""
    try:
        yield pipe
    except BaseException:
        pipe.abort()
        raise
    await pipe.close()


@contextlib.contextmanager
def owned_stream(stream: LocalStream) -> Iterator[LocalStream]:
    """The same for a local connection: when we fail its program shall see a reset, no orderly end (by a socket in the
    file system it sees one only if it had said something that we have not read).
    """
    try:
        yield stream
    except BaseException:
        stream.abort()
        raise
    stream.close()


class PipeEnd:
    """A warpgate pipe. In datagram mode chunks are datagrams and there is no half-close.

    `linger` (seconds, datagram mode): `end()` waits until nothing was heard for so long, since answers to
    what was sent last may still be under way. `whole` (datagram mode): what is written is one datagram, however long,
    and one that the pipe cannot carry is lost.
    """

    def __init__(self, pipe: Pipe, linger: float = 0.0, *, whole: bool = False) -> None:
        self._pipe = pipe
        self._whole = whole
        self._linger = linger
        self._heard = asyncio.get_running_loop().time()
        self._datagrams = pipe.mode is Mode.DATAGRAM
        self._peer_ended = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await self._pipe.recv()
            except PipeClosed:
                if self._datagrams:  # the peer's close is how datagrams end
                    return
                raise
            if not data and not self._datagrams:
                self._peer_ended = True
                return
            self._heard = loop.time()
            yield data

    async def write(self, data: bytes) -> None:
        if not self._datagrams:
            await self._pipe.send(data)
            return
        if self._whole:
            with contextlib.suppress(ConfigError):
                await self._pipe.send(data)
            return
        size = min(DATAGRAM, self._pipe.largest or DATAGRAM)
        # At least once: an empty datagram is a datagram.
        for start in range(0, max(len(data), 1), size):
            await self._pipe.send(data[start : start + size])

    async def end(self) -> None:
        if not self._datagrams:
            try:
                self._pipe.write_eof()
            except PipeClosed:
                if not self._peer_ended:  # who has said everything and gone need not hear that we have, too
                    raise
            return
        self._heard = asyncio.get_running_loop().time()
        while (rest := self._silent_in()) > 0:  # noqa: ASYNC110 - until a time that moves, not for an event
            await asyncio.sleep(rest)

    def _silent_in(self) -> float:
        return self._heard + self._linger - asyncio.get_running_loop().time()


class StreamEnd:
    """A local connection."""

    def __init__(self, stream: LocalStream) -> None:
        self._stream = stream

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while data := await self._stream.recv(CHUNK):
            yield data

    async def write(self, data: bytes) -> None:
        await self._stream.send(data)

    async def end(self) -> None:
        self._stream.write_eof()


class ChildEnd:
    """A child process's stdin and stdout."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while data := await self._reader.read(CHUNK):
            yield data

    async def write(self, data: bytes) -> None:
        # A program need not read its input to the end: what it leaves is dropped, its output still counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._writer.write(data)
            await self._writer.drain()

    async def end(self) -> None:
        self._writer.close()
