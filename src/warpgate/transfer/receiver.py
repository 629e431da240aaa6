"""The receiving side: takes files that peers send, over pipes that they open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from warpgate.core.pipes.base import Pipe
from warpgate.errors import DecodeError, TransferRefused
from warpgate.lazy_dataclass import dataclass
from warpgate.model.recent import Recent
from warpgate.net.threads import SerialThread
from warpgate.platform import FILES
from warpgate.proto.transfer_names import NameRules
from warpgate.proto.transfer_talk import (
    Event,
    FileBegun,
    FileData,
    FileEnded,
    FileOmitted,
    Incoming,
    Offered,
    Receiving,
)
from warpgate.proto.transfer_wire import BATCH, Busy, Done, Have, Offer, Part, Reason, Refused, clip
from warpgate.transfer.admission import Admission, Visitor
from warpgate.transfer.channel import Channel
from warpgate.transfer.reports import Advanced, Announced, LeftOut, Stopped, Transferred, Watcher
from warpgate.transfer.staging import BLOCK, Staging

# A sender that was cut off before it heard Done asks again within minutes; it need not be many.
REMEMBERED = 256
# Seconds that a visitor has to say what it brings: it need not ask anybody first.
FIRST_WORDS = 30.0

Consent = Callable[[Announced], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is taken from whom. `known`: node ids of senders that the user has named.

    Others may not send executables, unless `executable`, nor names with joiners; nobody may send names that begin with
    `.` or `-`, unless `dotfiles` (`proto/transfer_names.py`).
    """

    known: Collection[str] = ()
    dotfiles: bool = False
    executable: bool = False

    def names(self, peer: str) -> NameRules:
        return NameRules(known=peer in self.known, dotfiles=self.dotfiles, windows=FILES.reserved_names)

    def may_be_executable(self, peer: str) -> bool:
        return self.executable or peer in self.known


STRICT = Rules()


class Receiver:
    """Puts what comes into one directory; one object for all pipes of a node.

    `consent` is asked before anything is taken from a sender that the rules do not know; what was not agreed to is
    refused. It may wait for a person: until it returns the sender is told that we are alive.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overwrite: bool = False,
        rules: Rules = STRICT,
        consent: Consent | None = None,
        watcher: Watcher = lambda _: None,
    ) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._rules = rules
        self._consent = consent
        self._watcher = watcher
        self._admission = Admission()
        self._complete: Recent[tuple[str, bytes], Transferred] = Recent(REMEMBERED)

    async def take(self, pipe: Pipe) -> Transferred:
        """One pipe from start to end; it is closed in any case.

        TransferRefused (the sender is told, too, unless there are too many to tell), TransferFailed when the sender
        gives up, PipeClosed or NetworkError when the connection ends early, DecodeError for a peer that is no sender.
        What came until then stays, hidden, and is continued when the same node sends the same name again.
        """
        channel = Channel(pipe)
        visitor = Visitor(channel, Incoming(self._rules.names(channel.peer)))
        try:
            self._admission.enter(visitor)
        except TransferRefused:
            pipe.abort()
            raise
        try:
            async with channel:
                try:
                    return await self._take(visitor)
                except (TransferRefused, DecodeError) as refusal:
                    reason = refusal.reason if isinstance(refusal, TransferRefused) else Reason.PROTOCOL
                    visitor.leaving = True
                    await channel.part(Refused(str(reason), clip(str(refusal))))
                    raise
        finally:
            self._admission.leave(visitor)

    async def _take(self, visitor: Visitor) -> Transferred:
        channel = visitor.channel
        offer = await self._offer_of(visitor)
        before = self._complete.get((channel.peer, offer.transfer))
        if before is not None:  # it has all come, but the sender does not know
            visitor.leaving = True
            await channel.part(Done(before.identical))
            return before
        await self._admission.begin(visitor, offer)
        try:
            done = await self._transfer(visitor, offer)
        except BaseException:
            self._watcher(Stopped(channel.peer, offer.name))
            raise
        self._complete[channel.peer, offer.transfer] = done
        self._watcher(done)
        visitor.leaving = True
        await channel.part(Done(done.identical))
        return done

    async def _offer_of(self, visitor: Visitor) -> Offer:
        try:
            async with asyncio.timeout(FIRST_WORDS):
                while True:
                    event = visitor.incoming.receive(await visitor.channel.receive())
                    if isinstance(event, Offered):
                        return event.offer
        except TimeoutError:
            raise TransferRefused(f"nothing was offered for {FIRST_WORDS:g} s", Reason.PROTOCOL) from None

    async def _transfer(self, visitor: Visitor, offer: Offer) -> Transferred:
        if not offer.text:
            return await self._transfer_to(self._folder, visitor, offer)
        with TemporaryDirectory(prefix="warpgate-") as folder:  # 16 KiB: what it blocks is not worth a thread
            done = await self._transfer_to(Path(folder), visitor, offer)
            text = (Path(folder) / offer.name).read_bytes().decode("utf-8", "replace")
        return replace(done, text=text)

    async def _transfer_to(self, folder: Path, visitor: Visitor, offer: Offer) -> Transferred:
        peer, rules = visitor.peer, self._rules
        staging = Staging(
            folder,
            offer,
            peer,
            rules.names(peer),
            overwrite=self._overwrite,
            executable=rules.may_be_executable(peer),
        )
        consent = None if peer in rules.known else self._consent
        # What is here is nobody's business but of those who brought it, or whom the user has named.
        compare = peer in rules.known or any(
            (known, done.name) == (peer, offer.name) for (known, _), done in self._complete.items()
        )
        transfer = _Transfer(visitor, offer, self._watcher, self._admission)
        return await transfer.run(staging, consent, compare=compare)


class _Transfer:
    """One offer that was let in."""

    def __init__(self, visitor: Visitor, offer: Offer, watcher: Watcher, admission: Admission) -> None:
        self.channel = visitor.channel
        self.offer = offer
        self._visitor = visitor
        self._incoming = visitor.incoming
        self._watcher = watcher
        self._admission = admission
        self._thread = SerialThread("receiving")
        self._begun: FileBegun | None = None  # and not opened yet
        self._pieces: list[bytes] = []  # not written yet
        self._held = 0  # their bytes
        self._current = offer.name
        self._done = 0
        self._resumed = 0
        self._digest = b""  # of the last file
        self._index = 0  # of it
        self._omitted = 0  # files that the sender could not send
        self._lost = 0  # their bytes

    async def run(self, staging: Staging, consent: Consent | None, *, compare: bool) -> Transferred:
        """Returns when everything is in its place. `compare`: the sender may learn that it was there before."""
        incoming, offer, call = self._incoming, self.offer, self._thread.call
        try:
            while incoming.state is Receiving.LISTING:
                await self._next()
                await self._admission.hold_list(self._visitor)
            await call(lambda: staging.open(compare=compare))
            told = Announced(self.channel.peer, offer.name, offer.directory, self._files, offer.size)
            if consent is not None and not staging.comparing:
                await self.channel.send(Busy())  # it shall know that there is somebody
                if not await self._is_agreed_to(consent(told)):
                    raise TransferRefused("it is not wanted here", Reason.DECLINED)
            self._watcher(told)
            incoming.know(await self._tell_what_is_there(staging))
            while incoming.state is not Receiving.OVER:
                await self._take_next(staging)
            await call(staging.commit)
        finally:
            try:
                await call(lambda: self._leave(staging))
            finally:
                self._thread.close()
        sha256 = "" if offer.directory else self._digest.hex()
        return Transferred(
            self.channel.peer,
            offer.name,
            offer.directory,
            self._files - self._omitted,
            offer.size - self._lost,
            self._resumed,
            sha256,
            left_out=self._omitted,
            identical=staging.comparing,
            more=offer.more,
        )

    async def _next(self) -> Event | None:
        """What the sender says next; None for nothing new."""
        self._visitor.owes()
        message = await self.channel.receive()
        self._visitor.waits()
        return self._incoming.receive(message)

    async def _is_agreed_to(self, asking: Awaitable[bool]) -> bool:
        """Wait for the person, and listen meanwhile: a sender that gives up takes the question with it."""
        answer = asyncio.ensure_future(asking)
        listening = asyncio.ensure_future(self._listen())
        try:
            await asyncio.wait({answer, listening}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                listening.result()
            return answer.result()
        finally:
            for task in (answer, listening):
                task.cancel()
            await asyncio.gather(answer, listening, return_exceptions=True)

    async def _listen(self) -> NoReturn:
        while True:
            self._incoming.receive(await self.channel.receive())

    @property
    def _files(self) -> int:
        return self._incoming.entries.files

    async def _tell_what_is_there(self, staging: Staging) -> Sequence[int]:
        """How many bytes of each entry; the sender is told in batches, as they are hashed."""
        call = self._thread.call
        there = await call(lambda: staging.prepare(self._incoming.entries))
        parts: list[Part] = []
        for index in (index for index, size in enumerate(there) if size):
            hashing = staging.hash_there(index, there[index])
            while (part := await call(lambda: next(hashing))) is None:  # noqa: B023 - called before the next round
                pass
            parts.append(part)
            if len(parts) == BATCH:
                await self._tell(Have(tuple(parts), last=False))
                parts.clear()
        await self._tell(Have(tuple(parts), last=True))
        return there

    async def _tell(self, have: Have) -> None:
        self._visitor.owes()  # it has to read this
        await self.channel.send(have)
        if not have.last:
            self._visitor.waits()

    async def _take_next(self, staging: Staging) -> None:
        """A message, and what it means for the files."""
        match await self._next():
            case FileBegun() as begun:
                self._begun = begun
                self._index = begun.index
                self._done += begun.offset
                self._resumed += begun.offset
                self._current = "/".join(self._incoming.entries[begun.index].path) or self.offer.name
            case FileData(piece=piece):
                self._pieces.append(piece)
                self._held += len(piece)
                self._done += len(piece)
                if self._held >= BLOCK:
                    await self._write(staging)
            case FileEnded(digest=digest):
                self._digest = digest
                await self._write(staging, end=True)
            case FileOmitted(index=index, missing=missing):
                await self._omit(staging, index, missing)
            case _:
                return
        offer = self.offer
        self._watcher(Advanced(self.channel.peer, offer.name, self._current, self._done, offer.size, self._resumed))

    async def _omit(self, staging: Staging, index: int, missing: int) -> None:
        entry = self._incoming.entries[index]
        self._begun, self._pieces, self._held = None, [], 0
        self._done += missing  # so much less is to come
        self._omitted += 1
        self._lost += entry.size
        await self._thread.call(lambda: staging.omit(index))
        path = "/".join(entry.path)
        self._watcher(LeftOut(self.channel.peer, self.offer.name, path, "the sender could not read it"))

    async def _write(self, staging: Staging, *, end: bool = False) -> None:
        """One trip to the thread for each block, and so for each small file."""

        def work() -> None:
            self._put(staging)
            if end:
                staging.end(self._index, self._digest)

        await self._thread.call(work)

    def _leave(self, staging: Staging) -> None:
        """In the thread: keep all that came, to go on from there."""
        with suppress(TransferRefused):
            self._put(staging)
        staging.close()

    def _put(self, staging: Staging) -> None:
        """In the thread, while the loop waits: write what waits to be written."""
        begun, self._begun = self._begun, None
        pieces, self._pieces, self._held = self._pieces, [], 0
        if begun is not None:
            staging.begin(begun.index, begun.offset)
        if pieces:
            staging.write(pieces)
