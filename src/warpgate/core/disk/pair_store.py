"""Found pairs on disk: one file for all identities of a user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from warpgate.core.disk.store import Store
from warpgate.core.found_pairs import MOST_PAIRS, MOST_PEERS, FoundPair
from warpgate.model.endpoint import Endpoint
from warpgate.model.scope import Scope, scope_of

# As many as there can be take 80 kB; whatever is much larger is some other file.
LARGEST_FILE = 256 * 1024
KEY_SIZE = 33


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    own: str
    peer: str
    base: str
    remote: str
    seen: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


_Rows = tuple[_Row, ...]


def pair_store(path: Path | None) -> Store[list[FoundPair]]:
    return Store(path, LARGEST_FILE, _Rows, read=_pairs, write=_rows, empty=list)


def _rows(pairs: Sequence[FoundPair]) -> _Rows:
    return tuple(
        _Row(pair.own.hex(), pair.peer.hex(), str(pair.base), str(pair.remote), int(pair.seen)) for pair in pairs
    )


def _pairs(rows: _Rows) -> list[FoundPair]:
    return [_pair(row) for row in rows[-MOST_PEERS * MOST_PAIRS :]]


def _pair(row: _Row) -> FoundPair:
    """ValueError for rows that this program did not write."""
    own, peer = bytes.fromhex(row.own), bytes.fromhex(row.peer)
    base, remote = Endpoint.parse(row.base), Endpoint.parse(row.remote)
    places = (Scope.GLOBAL, Scope.SITE)
    if len(own) != KEY_SIZE or len(peer) != KEY_SIZE or scope_of(remote.ip) not in places:
        raise ValueError("no pair of ours")
    return FoundPair(own, peer, base, remote, float(row.seen))
