"""The order of a file transfer's messages, as two tables: what may come when, at the receiver and at the sender.

Rules: the list is complete before a file begins; every file of the list comes once, in the list's order, from its
beginning or from where the receiver said it has it to; a file has exactly the size that was listed. Both sides check
the other one; neither does any input or output here. Whoever may talk to a receiver may be hostile, and so may be the
receiver that somebody was told to send to.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

from warpgate.errors import ProtocolError, TransferFailed, TransferRefused
from warpgate.lazy_dataclass import dataclass
from warpgate.model.text import printable
from warpgate.proto.transfer_list import EntryList
from warpgate.proto.transfer_names import Listing, NameRules, check_offer
from warpgate.proto.transfer_wire import (
    VERSION,
    Abort,
    AnyMessage,
    Begin,
    Busy,
    Data,
    Done,
    End,
    Entries,
    Entry,
    Finish,
    Have,
    Offer,
    Omit,
    Part,
    Reason,
    Refused,
)


@dataclass(frozen=True, slots=True)
class Offered:
    offer: Offer


@dataclass(frozen=True, slots=True)
class FileBegun:
    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class FileData:
    piece: bytes


@dataclass(frozen=True, slots=True)
class FileEnded:
    digest: bytes


@dataclass(frozen=True, slots=True)
class FileOmitted:
    index: int
    missing: int  # bytes of it that do not come


@dataclass(frozen=True, slots=True)
class Finished:
    """All files have come."""


Event = Offered | FileBegun | FileData | FileEnded | FileOmitted | Finished


class Receiving(enum.Enum):
    """Where a receiver is."""

    NEW = "before the offer"
    LISTING = "in the list"
    LISTED = "after the list, before what is there already"
    BETWEEN = "between two files"
    INSIDE = "in a file"
    OVER = "after the end"


_MAY_COME: dict[Receiving, tuple[type[AnyMessage], ...]] = {
    Receiving.NEW: (Offer,),
    Receiving.LISTING: (Entries,),
    Receiving.LISTED: (),
    Receiving.BETWEEN: (Begin, Omit, Finish),
    Receiving.INSIDE: (Data, End, Omit),
    Receiving.OVER: (),
}


class Incoming:
    """The receiver's side. `receive` takes the sender's messages; in the state LISTED `know` is called."""

    def __init__(self, rules: NameRules) -> None:
        self.state = Receiving.NEW
        self._rules = rules
        self._listing: Listing | None = None
        self.entries = EntryList()  # all of them once LISTED
        self._coming = 0  # rows of files before this one have come
        self._there: Sequence[int] = ()  # bytes of each entry that the receiver has already
        self._current = 0  # index of the file that is coming
        self._missing = 0  # bytes of it

    def receive(self, message: AnyMessage) -> Event | None:
        """What it means, None for nothing new. TransferRefused for what breaks a rule, TransferFailed at an abort."""
        if isinstance(message, Busy):
            return None
        if isinstance(message, Abort):
            raise TransferFailed(f"the sender gave up: {printable(message.text)}")
        if not isinstance(message, _MAY_COME[self.state]):
            raise TransferRefused(f"{type(message).__name__} may not come {self.state.value}", Reason.PROTOCOL)
        return self._understand(message)

    def _understand(self, message: AnyMessage) -> Event | None:
        match message:
            case Offer():
                return self._offered(message)
            case Entries(entries=entries):
                self._listed(entries)
                return None
            case Finish():
                return self._finished()
            case _:
                return self._about_a_file(message)

    def _about_a_file(self, message: AnyMessage) -> Event | None:
        match message:
            case Begin():
                return self._begun(message)
            case Data(piece=piece):
                return self._piece(piece)
            case End(digest=digest):
                return self._ended(digest)
            case Omit(index=index):
                return self._omitted(index)
        return None

    @property
    def part_to_be_compared(self) -> int:
        """Bytes that the sender hashes before it begins with the next file."""
        if self.state is not Receiving.BETWEEN or self._coming == len(self.entries):
            return 0
        return self._there[self._coming]

    @property
    def list_cost(self) -> int:
        """Bytes of memory that the list takes here, at most."""
        return 0 if self._listing is None else self._listing.cost

    def know(self, there: Sequence[int]) -> None:
        """How many bytes of each entry are there already: the sender may go on from there."""
        self._there = there
        self.state = Receiving.BETWEEN
        self._skip_directories()

    def _skip_directories(self) -> None:
        while self._coming < len(self.entries) and self.entries.is_directory(self._coming):
            self._coming += 1

    def _offered(self, offer: Offer) -> Event:
        if offer.version != VERSION:
            raise TransferRefused(f"version {offer.version} is not known here ({VERSION} is)", Reason.PROTOCOL)
        check_offer(offer, self._rules)
        self._listing = Listing(offer, self._rules)
        self.entries = self._listing.entries
        self.state = Receiving.LISTING
        self._listed(())  # of an empty directory there is nothing to list
        return Offered(offer)

    def _listed(self, entries: Iterable[Entry]) -> None:
        assert self._listing is not None
        self._listing.add(entries)
        if self._listing.complete:
            self.state = Receiving.LISTED

    def _begun(self, message: Begin) -> Event:
        self._next(message.index)
        if message.offset not in (0, self._there[message.index]):
            raise TransferRefused(f"nobody has {message.offset} bytes of entry {message.index}", Reason.PROTOCOL)
        self._missing -= message.offset
        self.state = Receiving.INSIDE
        return FileBegun(message.index, message.offset)

    def _next(self, index: int) -> None:
        if index != self._coming or index == len(self.entries):
            raise TransferRefused(f"entry {index} is not the file that comes next", Reason.PROTOCOL)
        self._coming += 1
        self._skip_directories()
        self._current = index
        self._missing = self.entries.size(index)

    def _omitted(self, index: int) -> Event:
        if not self.entries[0].path:
            raise TransferRefused("the only file cannot be left out", Reason.PROTOCOL)
        if self.state is Receiving.BETWEEN:
            self._next(index)
        elif index != self._current:
            raise TransferRefused(f"entry {index} is not the file that is coming", Reason.PROTOCOL)
        self.state = Receiving.BETWEEN
        return FileOmitted(index, self._missing)

    def _piece(self, piece: bytes) -> Event:
        self._missing -= len(piece)
        if self._missing < 0:
            raise TransferRefused("a file is longer than it was listed", Reason.PROTOCOL)
        return FileData(piece)

    def _ended(self, digest: bytes) -> Event:
        if self._missing:
            raise TransferRefused(f"a file ends {self._missing} bytes too early", Reason.PROTOCOL)
        self.state = Receiving.BETWEEN
        return FileEnded(digest)

    def _finished(self) -> Event:
        rows = range(self._coming, len(self.entries))
        if missing := sum(not self.entries.is_directory(row) for row in rows):
            raise TransferRefused(f"the end, but {missing} files have not come", Reason.PROTOCOL)
        self.state = Receiving.OVER
        return Finished()


class Outgoing:
    """The sender's side: the receiver's messages, checked against what was listed."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._parts: dict[int, Part] = {}
        self.known: dict[int, Part] | None = None  # by index, once the receiver has said it all
        self.heard = False  # anything at all
        self.done = False
        self.identical = False  # all was there before

    def receive(self, message: AnyMessage) -> None:
        """TransferRefused when the receiver refuses, ProtocolError for what no receiver may say now."""
        match message:
            case Busy():
                pass
            case Refused(reason=reason, text=text):
                self.heard = True
                raise TransferRefused(f"refused by the receiver: {printable(text, 500)}", printable(reason))
            case Have(parts=parts, last=last) if self.known is None:
                for part in parts:
                    self._add(part)
                if last:
                    self.known = self._parts
            case Done(identical=identical) if not self.done:
                self.done, self.identical = True, identical
            case _:
                raise ProtocolError(f"the receiver said {type(message).__name__}, which may not come now")
        self.heard = True

    def _add(self, part: Part) -> None:
        entry = self._entries[part.index] if part.index < len(self._entries) else None
        if entry is None or entry.directory or part.size > entry.size or part.index in self._parts:
            raise ProtocolError(f"the receiver has {part.size} bytes of entry {part.index}, which cannot be")
        self._parts[part.index] = part
