"""A stream pipe in memory that can break, and a receiver at its far end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warpgate.errors import PipeClosed, WarpgateError
from warpgate.model.endpoint import Mode
from warpgate.transfer.receiver import Consent, Receiver, Rules
from warpgate.transfer.reports import Advanced, Report, Transferred
from warpgate.transfer.sender import send
from warpgate.transfer.source import scan

BLOB = random.Random(1).randbytes(3_000_000)

ALICE, BOB = "a" * 26, "b" * 26  # the sender, the receiver
FRIENDS = Rules(known={ALICE})
BUFFER = 256 * 1024


class StreamInMemory:
    """One direction: bytes, back-pressure, an end, a reset."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = self.broken = False
        self.changed = asyncio.Condition()
        self.carried = 0

    async def put(self, data: bytes) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.data) < BUFFER or self.broken)
            if self.broken or self.ended:
                raise PipeClosed("the pipe is gone")
            self.data += data
            self.carried += len(data)
            self.changed.notify_all()

    async def get(self) -> bytes:
        async with self.changed:
            await self.changed.wait_for(lambda: self.data or self.ended or self.broken)
            if self.broken:
                raise PipeClosed("reset by the peer")
            data, self.data = bytes(self.data), bytearray()
            self.changed.notify_all()
            return data

    def stop(self, *, broken: bool) -> None:
        self.ended, self.broken = True, self.broken or broken
        self._task = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class PipeInMemory:
    """One end of a pipe; `limit` bytes sent on it, and both directions break."""

    mode = Mode.STREAM

    def __init__(self, peer: str, out: StreamInMemory, into: StreamInMemory, limit: int | None) -> None:
        self.peer = peer
        self.out, self.into = out, into
        self._limit = limit
        self.aborted = self.closed = False

    @classmethod
    def pair(cls, limit: int | None = None) -> tuple[PipeInMemory, PipeInMemory]:
        """The sender's end, which has the limit, and the receiver's."""
        there, back = StreamInMemory(), StreamInMemory()
        return cls(BOB, there, back, limit), cls(ALICE, back, there, None)

    async def send(self, data: bytes) -> None:
        if self._limit is not None and self.out.carried + len(data) > self._limit:
            await self.out.put(data[: self._limit - self.out.carried])
            async with self.out.changed:  # what was sent before the break has arrived
                await self.out.changed.wait_for(lambda: not self.out.data or self.out.broken)
            self.abort()
        await self.out.put(data)

    async def recv(self, timeout: float | None = None) -> bytes:
        async with asyncio.timeout(timeout):
            return await self.into.get()

    def write_eof(self) -> None:
        self.out.stop(broken=False)

    async def close(self) -> None:
        self.closed = True
        self.out.stop(broken=False)

    def abort(self) -> None:
        self.aborted = True
        self.out.stop(broken=True)
        self.into.stop(broken=True)


@dataclass
class Exchange:
    """Sends into `folder`; each connection breaks after so many bytes as `limits` say, then one that does not."""

    folder: Path
    overwrite: bool = False
    rules: Rules = FRIENDS
    consent: Consent | None = None
    limits: list[int] = field(default_factory=list)
    told: list[Report] = field(default_factory=list)  # by the sender
    heard: list[Report] = field(default_factory=list)  # by the receiver
    failures: list[WarpgateError] = field(default_factory=list)  # the receiver's
    pipes: list[PipeInMemory] = field(default_factory=list)  # the sender's ends
    received: list[Transferred] = field(default_factory=list)
    at_pipe: Callable[[PipeInMemory], object] = lambda _: None  # called with each new sender's end
    at_report: Callable[[Report], object] = lambda _: None  # called with what the receiver reports

    def __post_init__(self) -> None:
        self.receiver = Receiver(
            self.folder, overwrite=self.overwrite, rules=self.rules, consent=self.consent, watcher=self._hear
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _hear(self, report: Report) -> None:
        self.heard.append(report)
        self.at_report(report)

    async def connect(self) -> Any:
        near, far = PipeInMemory.pair(self.limits.pop(0) if self.limits else None)
        self.pipes.append(near)
        self.at_pipe(near)
        self._tasks.append(asyncio.create_task(self._take(far)))
        return near

    async def _take(self, pipe: PipeInMemory) -> None:
        try:
            self.received.append(await self.receiver.take(pipe))
        except WarpgateError as error:
            self.failures.append(error)

    async def send(self, path: Path, patience: float = 30.0) -> Transferred:
        done = await send(scan(path), self.connect, patience=patience, watcher=self.told.append)
        await self.over()
        return done

    async def over(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self._tasks)

    @property
    def carried(self) -> int:
        """Bytes that the sender sent, over all connections."""
        return sum(pipe.out.carried for pipe in self.pipes)

    @property
    def advances(self) -> list[Advanced]:
        return [report for report in self.told if isinstance(report, Advanced)]


def tree_of(folder: Path) -> dict[str, bytes | None]:
    """What is below a directory: contents of files, None for directories; hidden names, too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def grow_a_tree(folder: Path) -> None:
    (folder / "tree" / "a" / "deep").mkdir(parents=True)
    (folder / "tree" / "empty").mkdir()
    (folder / "tree" / "a" / "deep" / "blob").write_bytes(BLOB[:1_500_000])
    (folder / "tree" / "a" / "nothing").touch()
    (folder / "tree" / "naïve ☃ name").write_bytes(b"unicode")
    for number in range(150):
        (folder / "tree" / f"small{number}").write_bytes(BLOB[: number * 7])
