"""The receiving side: takes files that peers send, over pipes that they open."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from warpgate.core.pipes.base import Pipe
from warpgate.errors import DecodeError, TransferRefused
from warpgate.net.threads import SerialThread
from warpgate.proto.transfer_talk import FileBegun, FileData, FileEnded, Incoming, Offered, Receiving
from warpgate.proto.transfer_wire import BATCH, Done, Have, Offer, Part, Reason, Refused, clip
from warpgate.transfer.channel import Channel
from warpgate.transfer.reports import Advanced, Announced, Stopped, Transferred, Watcher
from warpgate.transfer.staging import BLOCK, Staging

# Each holds its list, and a block of data.
TRANSFERS_AT_ONCE = 8
# A sender that was cut off before it heard Done asks again within minutes; it need not be many.
REMEMBERED = 256
# Seconds after which a sender that owes us data makes room for another run of it: a live one is silent for round trips,
# and the end of one that was killed is known only when consent is lost (30 s).
STALE_AFTER = 3.0

Place = tuple[str, str]  # the sender's node id, and the name it gives


class Receiver:
    """Puts what comes into one directory; one object for all pipes of a node."""

    def __init__(self, folder: Path, *, overwrite: bool = False, watcher: Watcher = lambda _: None) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._watcher = watcher
        self._active: dict[Place, _Transfer] = {}
        self._complete: OrderedDict[tuple[str, bytes], Transferred] = OrderedDict()

    async def take(self, pipe: Pipe) -> Transferred:
        """One pipe from start to end; it is closed in any case.

        TransferRefused (the sender is told, too), TransferFailed when the sender gives up, PipeClosed or NetworkError
        when the connection ends early, DecodeError for a peer that is no sender. What came until then stays, hidden,
        and is continued when the same node sends the same name again.
        """
        async with Channel(pipe) as channel:
            try:
                return await self._take(channel)
            except (TransferRefused, DecodeError) as refusal:
                reason = refusal.reason if isinstance(refusal, TransferRefused) else Reason.PROTOCOL
                await channel.part(Refused(str(reason), clip(str(refusal))))
                raise

    async def _take(self, channel: Channel) -> Transferred:
        incoming = Incoming(windows=os.name == "nt")
        event = None
        while not isinstance(event, Offered):
            event = incoming.receive(await channel.receive())
        offer = event.offer
        before = self._complete.get((channel.peer, offer.transfer))
        if before is not None:  # it has all come, but the sender does not know
            await channel.part(Done())
            return before
        transfer = _Transfer(channel, incoming, offer, self._watcher)
        place = (channel.peer, offer.name)
        await self._claim(place, transfer)
        try:
            done = await transfer.run(self._folder, overwrite=self._overwrite)
        except BaseException:
            self._watcher(Stopped(*place))
            raise
        finally:
            del self._active[place]
            transfer.over.set()
        self._complete[channel.peer, offer.transfer] = done
        if len(self._complete) > REMEMBERED:
            self._complete.popitem(last=False)
        self._watcher(done)
        await channel.part(Done())
        return done

    async def _claim(self, place: Place, transfer: _Transfer) -> None:
        """A sender that tries again takes the place of its earlier connection, of whose end we may not know yet."""
        while (earlier := self._active.get(place)) is not None:
            if earlier.offer.transfer != transfer.offer.transfer and earlier.silent_for() < STALE_AFTER:
                raise TransferRefused("it is coming in over another connection already", Reason.BUSY)
            earlier.channel.drop()
            await earlier.over.wait()
        if len(self._active) >= TRANSFERS_AT_ONCE:
            raise TransferRefused(f"{TRANSFERS_AT_ONCE} transfers are going on here", Reason.BUSY)
        self._active[place] = transfer


class _Transfer:
    """One offer that was let in."""

    def __init__(self, channel: Channel, incoming: Incoming, offer: Offer, watcher: Watcher) -> None:
        self.channel = channel
        self.offer = offer
        self.over = asyncio.Event()
        self._incoming = incoming
        self._watcher = watcher
        self._thread = SerialThread("receiving")
        self._begun: FileBegun | None = None  # and not opened yet
        self._pieces: list[bytes] = []  # not written yet
        self._held = 0  # their bytes
        self._current = offer.name
        self._done = 0
        self._resumed = 0
        self._digest = b""  # of the last file
        self._waiting_since: float | None = None  # for the sender; None while it waits for us

    def silent_for(self) -> float:
        """Seconds that the sender has kept us waiting."""
        since = self._waiting_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    async def run(self, folder: Path, *, overwrite: bool) -> Transferred:
        """Returns when everything is in its place."""
        incoming, offer, call = self._incoming, self.offer, self._thread.call
        while incoming.state is Receiving.LISTING:
            incoming.receive(await self.channel.receive())
        staging = Staging(folder, offer, self.channel.peer, overwrite=overwrite)
        try:
            await call(staging.open)
            self._watcher(Announced(self.channel.peer, offer.name, offer.directory, self._files, offer.size))
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
            self.channel.peer, offer.name, offer.directory, self._files, offer.size, self._resumed, sha256
        )

    @property
    def _files(self) -> int:
        return sum(not entry.directory for entry in self._incoming.entries)

    async def _tell_what_is_there(self, staging: Staging) -> list[Part]:
        call = self._thread.call
        parts: list[Part] = []
        for index, size in await call(lambda: staging.prepare(self._incoming.entries)):
            hashing = staging.hash_there(index, size)
            while (part := await call(lambda: next(hashing))) is None:  # noqa: B023 - called before the next round
                pass
            parts.append(part)
        for start in range(0, len(parts), BATCH):
            await self.channel.send(Have(tuple(parts[start : start + BATCH]), last=False))
        await self.channel.send(Have((), last=True))
        return parts

    async def _take_next(self, staging: Staging) -> None:
        """A message, and what it means for the files."""
        self._waiting_since = asyncio.get_running_loop().time()
        message = await self.channel.receive()
        self._waiting_since = None
        match self._incoming.receive(message):
            case FileBegun() as begun:
                self._begun = begun
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
            case _:
                return
        offer = self.offer
        self._watcher(
            Advanced(self.channel.peer, offer.name, self._current, self._done, offer.size, self._resumed)
        )

    async def _write(self, staging: Staging, *, end: bool = False) -> None:
        """One trip to the thread for each block, and so for each small file."""

        def work() -> None:
            self._put(staging)
            if end:
                staging.end(self._digest)

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
