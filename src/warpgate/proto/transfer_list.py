"""The list of an incoming transfer, held in a tenth of the memory that its entries would take as objects.

A sender may list 100,000 names, several may do so at once, and none of them need be a friend. So an entry is a row of
numbers, its name's place and the row of the directory that it is in among them. A path is put together when it is asked
for, by going up.

Rows and names are in blocks of memory that the system gives and takes back one by one. As arrays that grow among what
comes and goes, eight lists of 16 MB together left 35 MB of holes behind that nothing else fitted into.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from mmap import mmap

from warpgate.proto.transfer_wire import MAX_NAME, Entry

TOP = -1  # the row of the directory that was offered
_NONE = -2
_DIRECTORY, _EXECUTABLE = 1, 2
_EARLIEST, _LATEST = -(2**63), 2**63 - 1
# Slots of the table for each row at least: half of them stay empty.
_SPARSE = 2
_FEWEST_SLOTS = 16
# Size, time, the row of its directory, where its name ends among those of the block, flags.
_ROW = struct.Struct("<QqiIB")
_BLOCK = 512  # rows
_NAMES = _BLOCK * _ROW.size  # where a block's names begin; what of it is never touched costs nothing


class EntryList:
    """Rows in the order of the list. `entries[row]` makes the entry; a time beyond 64 bits becomes the nearest one."""

    def __init__(self) -> None:
        self.files = 0  # how many are none of the directories
        self._count = 0
        self._blocks: list[mmap] = []
        self._end = _NAMES  # of the names of the last block
        # Open addressing with linear probing: row + 1 of what is in a slot, 0 for nothing. Python's hash of bytes is
        # keyed for each process, so no sender knows which names meet.
        self._slots = array("i", bytes(4 * _FEWEST_SLOTS))
        # A directory and its row: lists go through one at a time.
        self._last: tuple[tuple[str, ...], int] = ((), TOP)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> Entry:
        size, time, _, _, flags = self._row(row)
        return Entry(self._path(row), bool(flags & _DIRECTORY), size, time, bool(flags & _EXECUTABLE))

    def size(self, row: int) -> int:
        return self._row(row)[0]

    def is_directory(self, row: int) -> bool:
        return bool(self._row(row)[4] & _DIRECTORY)

    def kind_of(self, path: tuple[str, ...]) -> bool | None:
        """Whether what has this path is a directory; None when nothing has it."""
        row = self._row_of(path)
        return None if row == _NONE else row == TOP or self.is_directory(row)

    def add(self, entry: Entry) -> None:
        """One more, whose path is new and in a directory that is there, or empty: the only file itself."""
        name = entry.path[-1].encode() if entry.path else b""
        above = self._row_of(entry.path[:-1])
        row = self._count
        if not row % _BLOCK:
            self._blocks.append(mmap(-1, _NAMES + _BLOCK * MAX_NAME))
            self._end = _NAMES
        block, start = self._blocks[-1], self._end
        self._end += len(name)
        block[start : self._end] = name
        time = max(_EARLIEST, min(_LATEST, entry.modified))
        flags = entry.directory * _DIRECTORY | entry.executable * _EXECUTABLE
        _ROW.pack_into(block, row % _BLOCK * _ROW.size, entry.size, time, above, self._end, flags)
        self._count += 1
        self.files += not entry.directory
        if self._count * _SPARSE > len(self._slots):
            self._slots = array("i", (0,)) * (2 * len(self._slots))
            for each in range(row):
                self._slots[self._slot(self._row(each)[2], self._name(each))] = each + 1
        self._slots[self._slot(above, name)] = row + 1

    def _path(self, row: int) -> tuple[str, ...]:
        names = []
        while row != TOP and (name := self._name(row)):
            names.append(name.decode())
            row = self._row(row)[2]
        return tuple(reversed(names))

    def _name(self, row: int) -> bytes:
        start = self._row(row - 1)[3] if row % _BLOCK else _NAMES
        return self._blocks[row // _BLOCK][start : self._row(row)[3]]

    def _row(self, row: int) -> tuple[int, int, int, int, int]:
        return _ROW.unpack_from(self._blocks[row // _BLOCK], row % _BLOCK * _ROW.size)

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
        while (found := self._slots[slot]) and (self._row(found - 1)[2] != above or self._name(found - 1) != name):
            slot = (slot + 1) & mask
        return slot
