"""The sending side: offers a file or directory over a pipe, and tries again when the connection breaks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from warpgate.core.pipes.base import Pipe
from warpgate.errors import (
    ConnectFailed,
    NetworkError,
    PipeClosed,
    ProtocolError,
    ServiceError,
    TransferFailed,
    TransferRefused,
)
from warpgate.net.threads import SerialThread
from warpgate.proto.transfer_talk import Outgoing
from warpgate.proto.transfer_wire import (
    BATCH,
    PIECE,
    TRANSFER_SIZE,
    VERSION,
    Abort,
    Begin,
    Data,
    End,
    Entries,
    Finish,
    Offer,
    Omit,
    Part,
    Reason,
    clip,
)
from warpgate.transfer.channel import Channel
from warpgate.transfer.reports import Advanced, Announced, Interrupted, LeftOut, Transferred, Watcher
from warpgate.transfer.source import BLOCK, Reader, Source

# Between two tries, doubled each time up to the last: the first break may be over at once, a long one is not hurried.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
# After our sending has failed: what the receiver said last, which may be why, is waited for so long.
LAST_WORDS = 2.0

Connect = Callable[[], Awaitable[Pipe]]


async def send(
    source: Source,
    connect: Connect,
    *,
    patience: float,
    watcher: Watcher = lambda _: None,
    more: int = 0,
    text: bool = False,
) -> Transferred:
    """Send it; what the receiver has from an earlier try, and is the same, is not sent again. `more`: how many are to
    follow by other calls. `text`: the file is to be shown, not to be kept.

    Whatever `connect` raises at first is raised. After a break it is tried again, for `patience` seconds since the last
    byte that went through; then TransferFailed. TransferRefused when the receiver refuses, ProtocolError when the peer
    is no receiver, TransferFailed when a single file cannot be read or changes meanwhile; below a directory such a file
    is left out, and told.
    """
    sending = Sending(source, connect, patience, watcher, more, text)
    pipe = await connect()
    while True:
        try:
            return await sending.over(pipe)
        except (PipeClosed, NetworkError, TransferRefused) as broken:
            if isinstance(broken, TransferRefused) and broken.reason != Reason.BUSY:
                raise
            pipe = await sending.reconnect(broken)


class Sending:
    """What is the same over all connections of one `send`."""

    def __init__(
        self, source: Source, connect: Connect, patience: float, watcher: Watcher, more: int, text: bool
    ) -> None:
        self.source = source
        self.more = more
        self.text = text
        self.watcher = watcher
        self.transfer = os.urandom(TRANSFER_SIZE)
        self.heard = False  # from a receiver, ever
        self._connect = connect
        self._patience = patience
        self._clock = asyncio.get_running_loop().time
        self._wait = FIRST_WAIT
        self._moved_at = self._clock()
        self._left_out: set[str] = set()

    def moved(self) -> None:
        """Something has gone through: patience begins anew."""
        self._moved_at = self._clock()
        self._wait = FIRST_WAIT

    def leave_out(self, told: LeftOut) -> None:
        """Told once, however many connections it takes."""
        if told.path not in self._left_out:
            self._left_out.add(told.path)
            self.watcher(told)

    async def over(self, pipe: Pipe) -> Transferred:
        """One connection. PipeClosed or NetworkError when it breaks."""
        async with Channel(pipe, self._patience) as channel:
            talk = _Talk(self, channel)
            listening = asyncio.create_task(talk.listen())
            writing = asyncio.create_task(talk.write())
            try:
                return await self._first(talk, listening, writing)
            except TransferFailed as failure:
                if not isinstance(failure, TransferRefused):  # it is ours: the receiver should know
                    listening.cancel()
                    await asyncio.wait({listening})
                    await channel.part(Abort(clip(str(failure))))
                raise
            finally:
                self.heard = self.heard or talk.outgoing.heard
                listening.cancel()
                writing.cancel()
                await asyncio.gather(listening, writing, return_exceptions=True)
                talk.close()

    async def _first(self, talk: _Talk, listening: asyncio.Task[None], writing: asyncio.Task[None]) -> Transferred:
        await asyncio.wait({listening, writing}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            if isinstance(writing.exception(), PipeClosed | NetworkError):
                await asyncio.wait({listening}, timeout=LAST_WORDS)
            if not listening.done():
                writing.result()
        await listening
        source = self.source
        sha256 = "" if source.directory else talk.digest.hex()
        return Transferred(
            talk.channel.peer,
            source.name,
            source.directory,
            source.files,
            source.size,
            talk.resumed,
            sha256,
            left_out=len(talk.left_out),
            identical=talk.outgoing.identical,
        )

    async def reconnect(self, broken: Exception) -> Pipe:
        """Another pipe; TransferFailed when there is none within the patience."""
        if not self.heard:
            raise ProtocolError(f"no answer ({broken}): is the peer `warpgate receive`?") from broken
        while True:
            left = self._moved_at + self._patience - self._clock()
            if left <= 0:
                raise TransferFailed(f"nothing got through for {self._patience:g} s: {broken}") from broken
            wait = min(self._wait, left)
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self.watcher(Interrupted(self.source.name, str(broken), wait))
            await asyncio.sleep(wait)
            try:
                return await self._connect()
            except (
                ConnectFailed,
                ServiceError,
            ) as error:  # ServiceError: a name that cannot be looked up now
                broken = error


class _Talk:
    """What is said over one connection."""

    def __init__(self, sending: Sending, channel: Channel) -> None:
        self.channel = channel
        self.outgoing = Outgoing(sending.source.entries)
        self.resumed = 0
        self.digest = b""  # of the last file
        self.left_out: set[int] = set()
        self._sending = sending
        self._source = sending.source
        self._known = asyncio.Event()
        self._done = 0
        self._reader = Reader(sending.source)
        self._thread = SerialThread("sending")

    def close(self) -> None:
        self._thread.close(last=self._reader.close)

    async def listen(self) -> None:
        """Returns when the receiver is done. TransferRefused, and what `Channel.receive` raises."""
        while not self.outgoing.done:
            try:
                self.outgoing.receive(await self.channel.receive())
            except ProtocolError as error:
                raise ProtocolError(f"{error}: is the peer `warpgate receive`?") from error
            if self.outgoing.known is not None and not self._known.is_set():
                self._sending.moved()
                self._known.set()

    async def write(self) -> None:
        source = self._source
        entries = source.entries
        await self.channel.send(
            Offer(
                VERSION,
                self._sending.transfer,
                source.name,
                source.directory,
                len(entries),
                source.size,
                self._sending.more,
                self._sending.text,
            )
        )
        for start in range(0, len(entries), BATCH):
            await self.channel.send(Entries(entries[start : start + BATCH]))
        await self._known.wait()
        assert self.outgoing.known is not None
        self._sending.watcher(Announced(self.channel.peer, source.name, source.directory, source.files, source.size))
        for index, entry in enumerate(entries):
            if not entry.directory:
                await self._send_or_omit(index, self.outgoing.known.get(index))
        await self.channel.send(Finish())

    async def _send_or_omit(self, index: int, part: Part | None) -> None:
        """One file of a directory that cannot be read to its end does not cost the others."""
        source, before = self._source, self._done
        try:
            await self._send_file(index, part)
        except TransferFailed as failure:
            if not source.directory or isinstance(failure, TransferRefused):
                raise
            await self._thread.call(self._reader.close)
            await self.channel.send(Omit(index))
            self._done = before + source.entries[index].size
            self.left_out.add(index)
            path = "/".join(source.entries[index].path)
            self._sending.leave_out(LeftOut(self.channel.peer, source.name, path, str(failure)))

    async def _send_file(self, index: int, part: Part | None) -> None:
        offset = 0
        if part is not None and await self._is_same(index, part):
            offset = part.size
        elif part is not None and self._sending.heard:  # the part is of an earlier connection of ours
            await self._thread.call(lambda: self._reader.check_not_grown(index))
        self._advance(index, offset)
        self.resumed += offset
        begin: tuple[Begin, ...] = (Begin(index, offset),)
        left = self._source.entries[index].size - offset
        while True:
            limit = min(left, BLOCK)
            left -= limit
            data, digest = await self._thread.call(lambda: self._reader.next(index, limit, last=not left))  # noqa: B023
            pieces = (Data(data[start : start + PIECE]) for start in range(0, len(data), PIECE))
            end = () if digest is None else (End(digest),)
            await self.channel.send(*begin, *pieces, *end)
            begin = ()
            self._advance(index, len(data))
            if digest is not None:
                self.digest = digest
                return

    async def _is_same(self, index: int, part: Part) -> bool:
        """Whether what the receiver has is how our file begins; then the reader stands behind it."""
        left = part.size
        while left:
            left -= await self._thread.call(lambda: self._reader.skip(index, min(left, BLOCK)))  # noqa: B023
        return await self._thread.call(lambda: self._reader.is_behind(part.digest))

    def _advance(self, index: int, count: int) -> None:
        source = self._source
        self._done += count
        if count:
            self._sending.moved()
        current = "/".join(source.entries[index].path) or source.name
        self._sending.watcher(Advanced(self.channel.peer, source.name, current, self._done, source.size, self.resumed))
