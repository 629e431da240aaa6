"""Reading a stream with filters: what `recv` and `recv_n` of every stream pipe do."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable

from warpgate.core.pipes.base import Pipe, PipeInfo
from warpgate.core.pipes.subscription import SUB_ALL, Subscription, checked
from warpgate.errors import PipeClosed
from warpgate.model.endpoint import Endpoint, Mode

# One read: larger gains nothing on loopback, smaller costs turns of the event loop.
CHUNK = 256 * 1024
# What a content filter may hold back while it waits for its match.
FILTER_LIMIT = 1024 * 1024


# The next bytes, as many if it can choose, b"" at end of stream.
Read = Callable[[int], Awaitable[bytes]]


class FilteredReader:
    """Bytes that were read but not yet given to the user: leftovers of filters and of `exactly`.

    How to read more is told with each call: kept, it would make a circle of every pipe.
    """

    def __init__(self, remote: Endpoint) -> None:
        self._remote = remote
        self._held = bytearray()

    @property
    def held(self) -> int:
        return len(self._held)

    def take_held(self) -> bytes:
        """What was read ahead: somebody else goes on from there."""
        return self._take(len(self._held))

    async def next(self, wanted: Subscription | int, read: Read) -> bytes:
        """As `Pipe.recv`."""
        if not isinstance(wanted, Subscription):
            return await self._at_most(wanted, read)
        if not wanted.takes_all:
            return await self._filtered(wanted, read)
        if self._held:
            return self._take(len(self._held))
        return await read(CHUNK)

    async def _at_most(self, count: int, read: Read) -> bytes:
        if not self._held:
            data = await read(min(count, CHUNK))
            if len(data) <= count:
                return data
            self._held += data
        return self._take(count)

    async def exactly(self, count: int, read: Read) -> bytes:
        """As `Pipe.recv_n`."""
        while len(self._held) < count:
            if not (data := await read(CHUNK)):
                raise PipeClosed(f"the stream ended after {len(self._held)} of {count} bytes")
            self._held += data
        return self._take(count)

    async def _filtered(self, sub: Subscription, read: Read) -> bytes:
        pattern = sub.pattern
        wrong_sender = sub.sender is not None and sub.sender != self._remote
        while True:
            if not wrong_sender and pattern is None and self._held:
                return self._take(len(self._held))
            match = None if wrong_sender or pattern is None else pattern.search(self._held)
            if match is not None and match.end():
                return self._take(match.end())
            if len(self._held) >= FILTER_LIMIT:
                raise PipeClosed(f"no match for {sub.content!r} within {FILTER_LIMIT} bytes; they are still readable")
            if not (data := await read(CHUNK)):
                return b""
            self._held += data

    def _take(self, count: int) -> bytes:
        data = bytes(self._held[:count])
        del self._held[:count]
        return data


class BytePipe(Pipe):
    """A pipe of ordered bytes, which may be read ahead for a filter."""

    mode = Mode.STREAM

    def __init__(self, info: PipeInfo, on_end: Callable[[Pipe, str], None]) -> None:
        super().__init__(info, on_end)
        self._reader = FilteredReader(info.remote)

    async def recv(self, sub: Subscription | int = SUB_ALL, timeout: float | None = None) -> bytes:
        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.recv(sub)
        if sub is not SUB_ALL:
            checked(sub)
        self._check_here()
        return await self._reader.next(sub, self._read)

    async def recv_n(self, count: int) -> bytes:
        self._check_here()
        return await self._reader.exactly(count, self._read)

    def _check_here(self) -> None:
        """PipeClosed when nothing more is to be had."""
        self._check_open()

    @abstractmethod
    async def _read(self, limit: int) -> bytes:
        """What comes next, b"" at the end. PipeClosed."""
