"""One contact: the key that a nickname stood for when it was first looked up, as a line of the contact book.

    alice dxjfsnhw4f3wqewkw7gms32x24 02c0ffee...(66 hexadecimal digits) 1795392000123 2026-11-22T23:59:00Z

that is: name, node id, public key, the highest sequence seen in its records, first seen (UTC).
"""

from __future__ import annotations

from datetime import UTC, datetime

from warpgate.errors import AuthenticationError, ConfigError, PeerKeyChanged
from warpgate.lazy_dataclass import dataclass
from warpgate.model.identity import check_public_key, node_id_of

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LARGEST_SEQUENCE = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Contact:
    """`first_seen` in Unix seconds."""

    name: str
    public_key: bytes
    sequence: int
    first_seen: int

    @property
    def node_id(self) -> str:
        return node_id_of(self.public_key)

    @property
    def since(self) -> str:
        """When it was first seen, for people."""
        return datetime.fromtimestamp(self.first_seen, UTC).strftime(_TIME)

    def to_line(self) -> str:
        return f"{self.name} {self.node_id} {self.public_key.hex()} {self.sequence} {self.since}"

    @classmethod
    def from_line(cls, line: str) -> Contact:
        """ConfigError with the reason for anything that `to_line` did not make."""
        words = line.split()
        if len(words) != 5:
            raise ConfigError(f"it has {len(words)} words, not name, node id, public key, sequence and time")
        name, node_id, key, sequence, since = words
        try:
            public_key = bytes.fromhex(key)
            check_public_key(public_key)
        except (ValueError, AuthenticationError) as error:
            raise ConfigError(f"the third word is no public key: {error}") from None
        if node_id != node_id_of(public_key):
            raise ConfigError(f"{node_id} is not the node id of the key beside it")
        if not (sequence.isascii() and sequence.isdigit() and len(sequence) <= 20):
            raise ConfigError(f"{sequence!r} is no sequence number")
        if int(sequence) > _LARGEST_SEQUENCE:
            raise ConfigError(f"{sequence!r} is no sequence number of 64 bits")
        try:
            seen = datetime.strptime(since, _TIME).replace(tzinfo=UTC)
        except ValueError:
            raise ConfigError(f"{since!r} is no time like 2026-11-22T23:59:00Z") from None
        return cls(name, public_key, int(sequence), int(seen.timestamp()))


def key_changed(known: Contact, public_key: bytes, told_by: str = "") -> PeerKeyChanged:
    """The refusal to take another key for a known contact, with what to do about it."""
    by = f", says {told_by}" if told_by else ""
    return PeerKeyChanged(
        f"the key behind {known.name!r} has changed: it was {known.node_id} (first seen {known.since}), now it is "
        f"{node_id_of(public_key)}{by}. The name has another owner, the owner a new key, or somebody lies: ask the "
        f"owner. To trust the new key: warpgate name forget {known.name}"
    )
