"""The newest list of public servers that was fetched, on disk as it came: its signature is verified at each reading."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import msgspec

from warpgate.core.disk.identity_store import data_directory
from warpgate.core.disk.whole_file import read_small, replace_file
from warpgate.core.server_lists import ListStore, StoredList
from warpgate.errors import ConfigError
from warpgate.model.server_list import LARGEST_LIST

FILE_NAME = "server-list.json"
# As JSON a control character is six; whatever is larger is some other file.
LARGEST_FILE = 6 * LARGEST_LIST + 100


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    next_at: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    signed: str = ""


class FileListStore:
    """One JSON file. Whatever is wrong with it counts as empty: nothing depends on it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> StoredList:
        try:
            found = msgspec.json.decode(read_small(self._path, LARGEST_FILE), type=_File)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return StoredList()
        return StoredList(found.signed.encode("utf-8", "replace"), float(found.next_at))

    def save(self, stored: StoredList) -> None:
        file = _File(int(stored.next_at), stored.data.decode("utf-8", "replace"))
        with contextlib.suppress(OSError):
            replace_file(self._path, msgspec.json.encode(file))


def list_store_of(*, own_identity: bool) -> ListStore | None:
    """In the user's data directory; None when there is none, or the program brings an identity of its own."""
    if own_identity:
        return None
    try:
        return FileListStore(data_directory() / FILE_NAME)
    except ConfigError:
        return None
