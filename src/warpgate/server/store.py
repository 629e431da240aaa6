"""What a name server needs of a database. `open_sqlite` and `open_postgres` make one, whole, and close it again."""

from __future__ import annotations

from typing import Protocol

from warpgate.errors import ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.proto.name_record import NameRecord
from warpgate.server.limits import Limits
from warpgate.server.rules import Refusal, Step

SCHEMA_VERSION = 1
# Databases have signed 64-bit integers, sequences are unsigned: moved down, they keep their order.
SEQUENCE_OFFSET = 2**63


class StoreError(ServiceError):
    """The database cannot do it now (full, read-only, away); what was asked for has not been acknowledged."""


@dataclass(frozen=True, slots=True)
class Change:
    """A verified record on its way into the database. `data` is its signed encoding, `now` Unix seconds."""

    record: NameRecord
    data: bytes
    network: str
    now: float
    limits: Limits


@dataclass(frozen=True, slots=True)
class Tally:
    """`names` that are registered, `purged` rows and tombstones that nobody needs any more."""

    names: int
    purged: int


class Store(Protocol):
    """All methods raise StoreError."""

    async def lookup(self, name: str, now: float) -> bytes | None:
        """The record of a folded name; None when it is not registered, or has expired."""

    async def apply(self, change: Change) -> Step | Refusal:
        """Decide by the rules and carry it out. When this returns, it is on the disk."""

    async def check(self) -> None:
        """Write something: raises when a registration would fail too."""

    async def tidy(self, now: float) -> Tally:
        """Forget what has been over for REMEMBERED seconds, and count the rest."""
