"""What datagram pipes have in common: whole datagrams in a queue, from which `recv` takes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable

from warpgate.core.pipes.base import TLS_PATIENCE, Pipe, PipeInfo, bytes_like
from warpgate.core.pipes.subscription import SUB_ALL, Subscription, checked
from warpgate.errors import ConfigError
from warpgate.model.endpoint import Mode


class DatagramPipe(Pipe):
    """Datagrams may be lost or reordered; none is cut or merged."""

    mode = Mode.DATAGRAM

    def __init__(self, info: PipeInfo, queue: deque[bytes], on_end: Callable[[Pipe, str], None]) -> None:
        """`queue`: what has been received and not read."""
        super().__init__(info, on_end)
        self._queue = queue
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    @abstractmethod
    def dropped(self) -> int:
        """Datagrams lost because nobody received them fast enough."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """Bytes of the longest datagram that `send` takes."""

    def _checked(self, data: bytes | bytearray | memoryview) -> bytes:
        """What can be sent. PipeClosed; ConfigError when it is too long, or no bytes."""
        self._check_open()
        payload = data if isinstance(data, bytes) else bytes(bytes_like(data))
        if len(payload) > (largest := self.largest):
            raise ConfigError(f"{len(payload)} bytes do not fit a datagram of this pipe ({largest} at most)")
        return payload

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def recv(self, sub: Subscription | int = SUB_ALL, timeout: float | None = None) -> bytes:
        """ConfigError for a datagram that is longer than the given number of bytes; it stays to be received."""
        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.recv(sub)
        if sub is not SUB_ALL:
            checked(sub)
        while True:
            if self._queue and (data := self._pick(sub)) is not None:
                return data
            self._check_open()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:  # a receive that timed out leaves nothing behind, however often it is tried
                self._waiters.discard(waiter)

    def _pick(self, sub: Subscription | int) -> bytes | None:
        """Out of the queue, which is not empty."""
        if sub is SUB_ALL:  # mostly
            return self._queue.popleft()
        if not isinstance(sub, Subscription):
            if (size := len(self._queue[0])) > sub:
                raise ConfigError(f"recv({sub}) would cut a datagram of {size} bytes: give it more room")
            return self._queue.popleft()
        if sub.takes_all:
            return self._queue.popleft()
        if sub.sender is not None and sub.sender != self.remote:
            return None
        pattern = sub.pattern
        for index, data in enumerate(self._queue):
            if pattern is None or pattern.search(data):
                del self._queue[index]
                return data
        return None

    async def recv_n(self, count: int) -> bytes:
        raise ConfigError("recv_n counts bytes of a stream; this pipe carries datagrams")

    async def start_tls(self, timeout: float = TLS_PATIENCE) -> None:
        raise ConfigError("TLS needs a stream; this pipe carries datagrams")

    def write_eof(self) -> None:
        raise ConfigError("a datagram pipe has no end of stream; close it")
