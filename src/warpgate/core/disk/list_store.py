"""The newest list of public servers that was fetched, on disk as it came: its signature is verified at each reading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from warpgate.core.disk.store import Store
from warpgate.core.server_lists import StoredList
from warpgate.model.server_list import LARGEST_LIST

LIST_FILE = "server-list.json"
# As JSON a control character is six; whatever is larger is some other file.
LARGEST_FILE = 6 * LARGEST_LIST + 100


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    next_at: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    signed: str = ""


def list_store(path: Path | None) -> Store[StoredList] | None:
    """None: nothing can be kept."""
    return None if path is None else Store(path, LARGEST_FILE, _File, read=_stored, write=_file, empty=StoredList)


def _file(stored: StoredList) -> _File:
    return _File(int(stored.next_at), stored.data.decode("utf-8", "replace"))


def _stored(file: _File) -> StoredList:
    return StoredList(file.signed.encode("utf-8", "replace"), float(file.next_at))
