"""Messages of a file transfer on a pipe, with a sign of life now and then in both directions.

A TCP connection whose other end has vanished is silent for ever for who only reads. So whoever has sent nothing for
`SIGN_OF_LIFE` says Busy, and who has heard nothing for `SILENCE` gives the connection up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConfigError, NetworkError, PipeClosed
from warpgate.model.endpoint import Mode
from warpgate.proto.transfer_wire import AnyMessage, Busy, Deframer, encode

SIGN_OF_LIFE = 10.0
# Four signs missed; also how long one message may take to be sent, when the other side's buffers are full.
SILENCE = 45.0
SHORTEST_SILENCE = 30.0  # for who is less patient: two signs may be missed
# Less than this is no progress: a slow line of 56 bytes a second makes it in 20 s, and so does one small file.
LEAST_PROGRESS = 1024
# Refusals are said before the pipe is closed: what the other side still sends is thrown away for so long, because
# closing a TCP connection with unread input resets it, and the last words would be lost.
PARTING = 5.0


class Channel:
    """`async with Channel(pipe)`: the pipe is closed with it; aborted when an error or a cancellation leaves it."""

    def __init__(self, pipe: Pipe, patience: float = SILENCE) -> None:
        """`patience` in seconds: of who wants to know sooner that the other side is gone. ConfigError for a datagram
        pipe.
        """
        if pipe.mode is not Mode.STREAM:
            raise ConfigError("files are sent over streams, this is a datagram pipe")
        self.peer = pipe.peer
        self._pipe = pipe
        self._silence = min(SILENCE, max(patience, SHORTEST_SILENCE))
        self._deframer = Deframer()
        # One at a time: as objects the names in what was received last take several times its bytes.
        self._received: Iterator[AnyMessage] = iter(())
        self._sending = asyncio.Lock()
        self._sent_at = 0.0
        self._signs: asyncio.Task[None] | None = None
        self._progress = 0  # at `moved_at`
        self.moved_at = asyncio.get_running_loop().time()  # the other side has said something of substance

    async def __aenter__(self) -> Self:
        self._sent_at = asyncio.get_running_loop().time()
        self._signs = asyncio.create_task(self._give_signs())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._signs is not None:
            self._signs.cancel()
            await asyncio.gather(self._signs, return_exceptions=True)
            self._signs = None  # it holds us
        self._received, self._deframer = iter(()), Deframer()
        if kind is None:
            await self._pipe.close()
        else:
            self._pipe.abort()

    async def send(self, *messages: AnyMessage) -> None:
        """PipeClosed; NetworkError when the other side has taken nothing for so long."""
        async with self._sending:
            try:
                async with asyncio.timeout(self._silence):
                    await self._pipe.send(b"".join(map(encode, messages)))
            except TimeoutError:
                raise NetworkError(f"{self.peer} has taken nothing for {self._silence:g} s") from None
            self._sent_at = asyncio.get_running_loop().time()

    async def receive(self) -> AnyMessage:
        """The next message. PipeClosed at the end, NetworkError after silence, DecodeError for garbage."""
        while (message := next(self._received, None)) is None:
            if self._deframer.progress - self._progress >= LEAST_PROGRESS:
                self.moved()
            try:
                data = await self._pipe.recv(timeout=self._silence)
            except TimeoutError:
                raise NetworkError(f"{self.peer} has said nothing for {self._silence:g} s") from None
            if not data:
                raise PipeClosed(f"{self.peer} ended the stream{' within a message' * self._deframer.pending}")
            self._received = self._deframer.feed(data)
        return message

    def moved(self) -> None:
        """The other side has done what it owed until now."""
        self._progress = self._deframer.progress
        self.moved_at = asyncio.get_running_loop().time()

    async def part(self, last_words: AnyMessage) -> None:
        """Say this, and give the other side time to read it and to go."""
        with contextlib.suppress(PipeClosed, NetworkError, TimeoutError):
            async with asyncio.timeout(PARTING):
                await self.send(last_words)
                self._pipe.write_eof()
                while await self._pipe.recv():
                    pass

    def drop(self) -> None:
        """At once, from anywhere: whoever waits for a message gets PipeClosed."""
        self._pipe.abort()

    async def _give_signs(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(SIGN_OF_LIFE)
                if not self._sending.locked() and loop.time() - self._sent_at >= SIGN_OF_LIFE:
                    await self.send(Busy())
        except (PipeClosed, NetworkError):
            self._pipe.abort()  # a part of a frame may have gone out; whoever uses the channel notices
