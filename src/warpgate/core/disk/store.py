"""What is kept while no node runs, one JSON file for each kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from warpgate.core.disk.identity_store import data_directory
from warpgate.core.disk.whole_file import read_small, replace_file
from warpgate.errors import AddressError, ConfigError

# What may be wrong with a file.
_FAULTS = (OSError, msgspec.MsgspecError, ValueError, RecursionError, AddressError, ConfigError)

Kept = TypeVar("Kept")
Rows = TypeVar("Rows")


class Store(Generic[Kept]):
    """Neither verb raises, and whatever is wrong with the file counts as empty: it saves time, and nothing depends
    on it. Without a path nothing is kept.
    """

    def __init__(
        self,
        path: Path | None,
        limit: int,
        rows: type[Rows],
        *,
        read: Callable[[Rows], Kept],
        write: Callable[[Kept], Rows],
        empty: Callable[[], Kept],
    ) -> None:
        """`rows`: what the file has. `read` may raise ValueError, AddressError or ConfigError for what this program did
        not write. A file of more than `limit` bytes is some other file.
        """
        self._path = path
        self._limit = limit
        self._decode: Callable[[bytes], Kept] = lambda data: read(msgspec.json.decode(data, type=rows))
        self._write: Callable[[Kept], object] = write
        self._empty = empty

    def load(self) -> Kept:
        if self._path is not None:
            with contextlib.suppress(*_FAULTS):
                return self._decode(read_small(self._path, self._limit))
        return self._empty()

    def save(self, kept: Kept) -> None:
        """No file where there is nothing to keep."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                if kept:
                    replace_file(self._path, msgspec.json.format(msgspec.json.encode(self._write(kept)), indent=1))
                else:
                    self._path.unlink(missing_ok=True)


def kept_at(*names: str, own_identity: bool = False) -> Path | None:
    """In the user's data directory; None when there is none, or the program brings an identity of its own and is to
    leave nothing on the disk.
    """
    if own_identity:
        return None
    try:
        return data_directory().joinpath(*names)
    except ConfigError:
        return None
