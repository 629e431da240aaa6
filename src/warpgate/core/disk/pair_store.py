"""Found pairs on disk: one file for all identities of a user."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from warpgate.core.disk.identity_store import data_directory
from warpgate.core.disk.whole_file import read_small, replace_file
from warpgate.core.found_pairs import MOST_PAIRS, MOST_PEERS, ForgetfulPairStore, FoundPair, PairStore
from warpgate.errors import AddressError, ConfigError
from warpgate.model.endpoint import Endpoint
from warpgate.model.scope import Scope, scope_of

FILE_NAME = "pairs.json"
# As many as there can be take 80 kB; whatever is much larger is some other file.
LARGEST_FILE = 256 * 1024
KEY_SIZE = 33


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    own: str
    peer: str
    base: str
    remote: str
    seen: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class FilePairStore:
    """One JSON file. Whatever is wrong with it counts as empty: it saves time, and nothing depends on it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[FoundPair]:
        try:
            rows = msgspec.json.decode(read_small(self._path, LARGEST_FILE), type=tuple[_Row, ...])
            return [_pair(row) for row in rows[-MOST_PEERS * MOST_PAIRS :]]
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError, AddressError):
            return []

    def save(self, pairs: Sequence[FoundPair]) -> None:
        rows = [
            _Row(pair.own.hex(), pair.peer.hex(), str(pair.base), str(pair.remote), int(pair.seen)) for pair in pairs
        ]
        with contextlib.suppress(OSError):
            replace_file(self._path, msgspec.json.format(msgspec.json.encode(rows), indent=1))


def pair_store_of(*, own_identity: bool) -> PairStore:
    """In the user's data directory; nowhere when there is none, or the program brings an identity of its own."""
    if own_identity:
        return ForgetfulPairStore()
    try:
        return FilePairStore(data_directory() / FILE_NAME)
    except ConfigError:
        return ForgetfulPairStore()


def _pair(row: _Row) -> FoundPair:
    """ValueError for rows that this program did not write."""
    own, peer = bytes.fromhex(row.own), bytes.fromhex(row.peer)
    base, remote = Endpoint.parse(row.base), Endpoint.parse(row.remote)
    places = (Scope.GLOBAL, Scope.SITE)
    if len(own) != KEY_SIZE or len(peer) != KEY_SIZE or scope_of(remote.ip) not in places:
        raise ValueError("no pair of ours")
    return FoundPair(own, peer, base, remote, float(row.seen))
