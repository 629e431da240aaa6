"""What commands report about nicknames."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from warpgate.cli.records import Record, milliseconds
from warpgate.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from warpgate.model.contact import Contact
    from warpgate.services.name_answers import Found


@dataclass(frozen=True, slots=True)
class Named(Record):
    """`servers` have the name registered for this node."""

    event = "named"
    name: str
    node_id: str
    servers: tuple[str, ...]

    def text(self) -> str:
        return f"registered as {self.name} at {' and '.join(self.servers)}"


@dataclass(frozen=True, slots=True)
class Unnamed(Record):
    """One server was not reached, or refused the name; it is asked again after `retry` seconds."""

    event = "unnamed"
    name: str
    server: str
    error: str
    refused: bool
    retry: float

    def text(self) -> str:
        again = "" if self.refused else f" (next try in {self.retry:.0f} s)"
        return f"{self.name} is not registered at {self.server}: {self.error}{again}"


@dataclass(frozen=True, slots=True)
class Released(Record):
    event = "released"
    name: str
    servers: tuple[str, ...]

    def text(self) -> str:
        return f"{self.name} is free again at {' and '.join(self.servers)}"


@dataclass(frozen=True, slots=True)
class Forgotten(Record):
    """What the contact book had of a name, which the next look-up will pin anew; `node_id` "" for nothing."""

    event = "forgotten"
    name: str
    node_id: str

    def text(self) -> str:
        if not self.node_id:
            return f"{self.name} was not in the contact book"
        return f"{self.name} was {self.node_id}; the next connect pins whatever key it has then"


@dataclass(frozen=True, slots=True)
class NameShown(Record):
    """A record as the servers have it. Times in Unix seconds; `seconds` is what the look-up took, `pinned` whether the
    contact book has this very key.
    """

    event = "name"
    name: str
    node_id: str
    address: str
    sequence: int
    issued: int
    expires: int
    server: str
    seconds: float
    pinned: bool

    @classmethod
    def of_found(cls, found: Found, known: Contact | None) -> NameShown:
        return cls.of(
            found.record,
            node_id=found.address.node_id,
            address=found.address.to_text(),
            server=found.server,
            seconds=round(found.seconds, 6),
            pinned=known is not None,
        )

    def text(self) -> str:
        book = "in your contact book with this key" if self.pinned else "not in your contact book yet"
        return (
            f"{self.name} is {self.node_id}\n{self.address}\n"
            f"signed {_day(self.issued)}, good until {_day(self.expires)} unless refreshed; {book}\n"
            f"told by {self.server} in {milliseconds(self.seconds)}"
        )


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
