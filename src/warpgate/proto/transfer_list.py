"""The list of an incoming transfer, held in a tenth of the memory that its entries would take as objects.

A sender may list 100,000 names, several may do so at once, and none of them need be a friend. So an entry is a row in
a few arrays: its name, the row of the directory that it is in, and its numbers. A path is put together when it is asked
for, by going up.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from warpgate.proto.transfer_wire import Entry

TOP = -1  # the row of the directory that was offered
_NONE = -2
_DIRECTORY, _EXECUTABLE = 1, 2
_EARLIEST, _LATEST = -(2**63), 2**63 - 1
# Slots of the table for each row at least: half of them stay empty.
_SPARSE = 2
_FEWEST_SLOTS = 16


class EntryList:
    """Rows in the order of the list. `entries[row]` makes the entry; a time beyond 64 bits becomes the nearest one."""

    def __init__(self) -> None:
        self.files = 0  # how many are none of the directories
        self._names = bytearray()
        self._ends = array("I")  # of each name in `_names`
        self._above = array("i")
        self._sizes = array("Q")
        self._times = array("q")
        self._flags = bytearray()
        # Open addressing with linear probing: row + 1 of what is in a slot, 0 for nothing. Python's hash of bytes is
        # keyed for each process, so no sender knows which names meet.
        self._slots = array("i", bytes(4 * _FEWEST_SLOTS))
        self._last: tuple[tuple[str, ...], int] = (
            (),
            TOP,
        )  # a directory and its row: lists go through one at a time

    def __len__(self) -> int:
        return len(self._flags)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> Entry:
        flags = self._flags[row]
        return Entry(
            self._path(row),
            bool(flags & _DIRECTORY),
            self._sizes[row],
            self._times[row],
            bool(flags & _EXECUTABLE),
        )

    def size(self, row: int) -> int:
        return self._sizes[row]

    def is_directory(self, row: int) -> bool:
        return bool(self._flags[row] & _DIRECTORY)

    def kind_of(self, path: tuple[str, ...]) -> bool | None:
        """Whether what has this path is a directory; None when nothing has it."""
        row = self._row_of(path)
        return None if row == _NONE else row == TOP or self.is_directory(row)

    def add(self, entry: Entry) -> None:
        """One more, whose path is new and in a directory that is there, or empty: the only file itself."""
        name = entry.path[-1].encode() if entry.path else b""
        above = self._row_of(entry.path[:-1])
        row = len(self)
        self._names += name
        self._ends.append(len(self._names))
        self._above.append(above)
        self._sizes.append(entry.size)
        self._times.append(max(_EARLIEST, min(_LATEST, entry.modified)))
        self._flags.append(entry.directory * _DIRECTORY | entry.executable * _EXECUTABLE)
        self.files += not entry.directory
        if len(self) * _SPARSE > len(self._slots):
            self._slots = array("i", bytes(8 * len(self._slots)))
            for each in range(row):
                self._slots[self._slot(self._above[each], self._name(each))] = each + 1
        self._slots[self._slot(above, name)] = row + 1

    def _path(self, row: int) -> tuple[str, ...]:
        names = []
        while row != TOP and (name := self._name(row)):
            names.append(name.decode())
            row = self._above[row]
        return tuple(reversed(names))

    def _name(self, row: int) -> bytes:
        return bytes(self._names[self._ends[row - 1] if row else 0 : self._ends[row]])

    def _row_of(self, path: tuple[str, ...]) -> int:
        """TOP for the empty path; _NONE when nothing has it."""
        if not path:
            return TOP
        above, row = self._last
        if path == above:
            return row
        if path[:-1] != above:
            row = TOP
            for name in path[:-1]:
                row = self._below(row, name)
                if row == _NONE:
                    return _NONE
            self._last = (path[:-1], row)
        return self._below(row, path[-1])

    def _below(self, row: int, name: str) -> int:
        found = self._slots[self._slot(row, name.encode("utf-8", "surrogateescape"))]
        return found - 1 if found else _NONE

    def _slot(self, above: int, name: bytes) -> int:
        """Where what has this name in that directory is, or would be."""
        mask = len(self._slots) - 1
        slot = hash((above, name)) & mask
        while (found := self._slots[slot]) and (
            self._above[found - 1] != above or self._name(found - 1) != name
        ):
            slot = (slot + 1) & mask
        return slot
