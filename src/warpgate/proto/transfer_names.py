"""Which names a receiver writes to: one component of a path at a time, and the list as a whole.

The sender may be hostile. A path is a tuple of names, so there is no separator to smuggle one in with, no absolute path
and no `..`; what else must not be in a name is refused, never mended. That a path does not leave the directory through
a symbolic link is the file system's part (`transfer/staging.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from warpgate.errors import TransferRefused
from warpgate.lazy_dataclass import dataclass
from warpgate.model.text import JOINERS, is_deceiving, printable
from warpgate.proto.transfer_list import EntryList
from warpgate.proto.transfer_wire import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_LIST,
    MAX_NAME,
    MAX_PATH,
    MAX_SHOWN,
    MAX_SIZE,
    Entry,
    Offer,
    Reason,
)

PARTIAL_SUFFIX = ".wgpart"
_PEER_SHOWN = 12  # 60 bits: nobody makes keys until one fits
# Bytes of memory for an entry besides its name: in `EntryList`, at the receiver's other books, and its hash.
ENTRY_COST = 80

# Windows' own rules ("Naming Files, Paths, and Namespaces"): devices whatever the extension, and what cannot be typed.
_DEVICES = frozenset(("con", "prn", "aux", "nul", "conin$", "conout$"))
_NUMBERED_DEVICES = ("com", "lpt")
_WINDOWS_FORBIDDEN = frozenset('<>:"\\|?*')


@dataclass(frozen=True, slots=True)
class NameRules:
    """What of a sender's names is taken.

    `known`: the user has named the sender; then joiners may be in a name, which Persian, say, is written with, and
    which let strangers make two names look like one. `dotfiles`: names that a program acts on because of where they
    are, like `.ssh`, or that a command takes for an option, like `-rf`, may come into the user's own directories.
    """

    known: bool = False
    dotfiles: bool = False
    windows: bool = False


SENDABLE = NameRules(known=True, dotfiles=True)  # what some receiver takes


def check_name(name: str, rules: NameRules) -> None:
    """TransferRefused unless this can be the name of a file here, and looks like that name and no other."""
    if name in ("", ".", ".."):
        raise _unsafe(f"{name!r} is no name of a file")
    if "/" in name:
        raise _unsafe(f"'{printable(name)}' has a slash in it")
    plain = name.isascii() and name.isprintable()  # most are, and lists are long
    if not plain and any(is_deceiving(character) and not (rules.known and character in JOINERS) for character in name):
        raise _unsafe(f"'{printable(name)}' has something in it that cannot be seen or that changes how it looks")
    if len(name if plain else name.encode()) > MAX_NAME:
        raise TransferRefused(f"'{printable(name)}' has more than {MAX_NAME} bytes", Reason.LIMIT)
    if rules.windows and _is_odd_on_windows(name):
        raise _unsafe(f"'{printable(name)}' cannot be the name of a file on Windows")


def check_harmless(path: Iterable[str], rules: NameRules) -> None:
    """TransferRefused for a name on the path that begins with `.` or `-`, unless dotfiles are taken.

    For what comes into a directory that is the user's: the name offered itself, and all below it when it is merged into
    a directory that is there. Below a directory that is new, such names do nothing by themselves.
    """
    for name in path:
        if name.startswith((".", "-")) and not rules.dotfiles:
            raise _unsafe(f"'{printable(name)}' begins with '{name[0]}': such names are not taken here")


def _is_odd_on_windows(name: str) -> bool:
    stem = name.split(".", maxsplit=1)[0].rstrip().lower()
    return (
        not _WINDOWS_FORBIDDEN.isdisjoint(name)
        or name[-1] in ". "
        or stem in _DEVICES
        or (stem[:3] in _NUMBERED_DEVICES and len(stem) == 4 and stem[3].isdigit())
    )


def check_offer(offer: Offer, rules: NameRules) -> None:
    """TransferRefused for a name that is not written to, also for one that partial files have."""
    check_name(offer.name, rules)
    check_harmless((offer.name,), rules)
    if offer.name.endswith(PARTIAL_SUFFIX):
        raise _unsafe(f"'{printable(offer.name)}': names ending in {PARTIAL_SUFFIX} are for what is not complete yet")
    if offer.text and (offer.directory or offer.size > MAX_SHOWN):
        raise TransferRefused(f"a text to be shown is a file of {MAX_SHOWN} bytes at most", Reason.LIMIT)
    if not offer.directory and offer.entries != 1:
        raise TransferRefused(f"a file is one entry, not {offer.entries}", Reason.PROTOCOL)


class Listing:
    """The list of entries as it comes in, checked one by one against the rules and the offer's totals."""

    def __init__(self, offer: Offer, rules: NameRules) -> None:
        self._offer = offer
        self._rules = rules
        self._size = 0
        self._cost = 0
        self.entries = EntryList()

    @property
    def cost(self) -> int:
        """Bytes of memory that it takes, at most."""
        return self._cost

    @property
    def complete(self) -> bool:
        return len(self.entries) == self._offer.entries

    def add(self, entries: Iterable[Entry]) -> None:
        """TransferRefused for paths that are unsafe, doubled or in no directory, and for more than was offered."""
        for entry in entries:
            self._check(entry)
            self.entries.add(entry)
        if self.complete and self._size != self._offer.size:
            raise TransferRefused(f"{self._offer.size} bytes were offered and {self._size} listed", Reason.PROTOCOL)

    def _check(self, entry: Entry) -> None:
        self._size += entry.size
        if len(self.entries) >= self._offer.entries or self._size > self._offer.size:
            raise TransferRefused(f"'{_shown(entry)}' is more than was offered", Reason.LIMIT)
        if entry.directory and entry.size:
            raise TransferRefused(f"'{_shown(entry)}' is a directory with a size", Reason.PROTOCOL)
        if not self._offer.directory:
            if entry.path or entry.directory:
                raise _unsafe(f"'{_shown(entry)}' is in no directory that was offered")
            return
        inside = self.entries.kind_of(entry.path[:-1])
        self._cost += check_path(entry.path, self._rules, listed=bool(inside))
        if self._cost > MAX_LIST:
            raise TransferRefused("the list of names is too long", Reason.LIMIT)
        if self.entries.kind_of(entry.path) is not None:
            raise _unsafe(f"'{_shown(entry)}' is listed twice")
        if not inside:
            raise _unsafe(f"'{_shown(entry)}' is listed before the directory it is in")


def check_totals(entries: int, size: int, cost: int = 0) -> None:
    """What a sender asks itself before it offers; `cost` as `check_path` tells."""
    if entries > MAX_ENTRIES or cost > MAX_LIST:
        raise TransferRefused(f"more than {MAX_ENTRIES} files and directories, or too long names", Reason.LIMIT)
    if size > MAX_SIZE:
        raise TransferRefused(f"{size} bytes are more than {MAX_SIZE}", Reason.LIMIT)


def check_path(path: tuple[str, ...], rules: NameRules, *, listed: bool = False) -> int:
    """One path below the directory; what it costs in the list. TransferRefused when it is none or too long.

    What its directories are called counts with them; `listed`: they have been checked.
    """
    for name in path[-1:] if listed else path:
        check_name(name, rules)
    size = len("/".join(path).encode()) + 1
    if len(path) > MAX_DEPTH or size > MAX_PATH:
        raise TransferRefused(f"a path of more than {MAX_DEPTH} names or {MAX_PATH} bytes", Reason.LIMIT)
    return ENTRY_COST + len(path[-1].encode() if path else b"")


def partial_name(name: str, peer: str) -> str:
    """Where what has come of `name` from `peer` waits to be complete: hidden, beside its place, one for each sender.

    Nobody continues, or learns by its hash, what somebody else has begun.
    """
    ending = f".{peer[:_PEER_SHOWN]}{PARTIAL_SUFFIX}"
    room = MAX_NAME - len(ending) - 1
    if len(name.encode()) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = name.encode()[: room - 17].decode("utf-8", "ignore") + "~" + digest
    return f".{name}{ending}"


def _shown(entry: Entry) -> str:
    return printable("/".join(entry.path))


def _unsafe(text: str) -> TransferRefused:
    return TransferRefused(text, Reason.UNSAFE)
