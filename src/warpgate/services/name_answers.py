"""What name servers answered about one name, and what follows from it. No sockets, no clock."""

from __future__ import annotations

from dataclasses import field

from warpgate.errors import NameNotFound, ProtocolError, ServiceError, WarpgateError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.contact import Contact, key_changed
from warpgate.model.identity import node_id_of
from warpgate.proto.name_record import NameRecord, RecordKind, open_record


@dataclass(frozen=True, slots=True)
class Found:
    """A record that holds; `server` gave it, `seconds` after the question."""

    record: NameRecord
    address: NodeAddress
    server: str
    seconds: float


@dataclass(slots=True)
class NameAnswers:
    """`take` each answer or `failed` each failure, then the `verdict`.

    `known` is what earlier look-ups pinned: records of another key do not count as answers then, and neither do
    records that are older than the newest one seen.
    """

    name: str
    known: Contact | None
    _found: dict[bytes, Found] = field(default_factory=dict)  # the newest, by key
    _others: list[Found] = field(default_factory=list)  # of another key than the pinned one
    _failures: list[tuple[str, WarpgateError]] = field(default_factory=list)

    @property
    def found(self) -> bool:
        """Whether there is an answer to go by."""
        return bool(self._found)

    def take(self, server: str, data: bytes, seconds: float, now: float) -> None:
        """ServiceError or ProtocolError with what is wrong with it. `now` in Unix seconds."""
        found = Found(*_checked(data, self.name, now), server, seconds)
        record = found.record
        if self.known is not None and record.public_key != self.known.public_key:
            self._others.append(found)
            raise ServiceError(
                f"it says {self.name!r} is {node_id_of(record.public_key)}, but it was {self.known.node_id}"
            )
        if self.known is not None and record.sequence < self.known.sequence:
            raise ServiceError(
                f"its record of {self.name!r} is out of date: sequence {record.sequence}, after "
                f"{self.known.sequence} was seen"
            )
        best = self._found.get(record.public_key)
        if best is None or record.sequence > best.record.sequence:
            self._found[record.public_key] = found

    def failed(self, server: str, error: WarpgateError) -> None:
        """The server gave no answer, or one that `take` refused."""
        self._failures.append((server, error))

    def verdict(self) -> Found:
        """The newest record. PeerKeyChanged when all there is has another key than the pinned one; ServiceError when
        servers name different keys and none is pinned, or none answers; NameNotFound.
        """
        if len(self._found) > 1:
            told = "; ".join(f"{found.server} says {node_id_of(key)}" for key, found in sorted(self._found.items()))
            raise ServiceError(
                f"the name servers disagree about who {self.name!r} is: {told}. Configure only the one that you "
                "trust, or connect to an address"
            )
        for found in self._found.values():
            return found
        if self.known is not None and self._others:
            other = self._others[0]
            raise key_changed(self.known, other.record.public_key, other.server)
        reasons = "; ".join(f"{server}: {error}" for server, error in self._failures)
        if self._failures and all(isinstance(error, NameNotFound) for _, error in self._failures):
            raise NameNotFound(f"nobody has registered {self.name!r} ({reasons})")
        raise ServiceError(f"{self.name!r} could not be looked up: {reasons or 'no server answered'}")


def _checked(data: bytes, name: str, now: float) -> tuple[NameRecord, NodeAddress]:
    try:
        record = open_record(data)
    except ProtocolError as error:
        raise type(error)(f"its record of {name!r} is no good: {error}") from None
    if record.name != name:
        raise ServiceError(f"it answered with the record of {record.name!r} instead of {name!r}")
    if record.kind is not RecordKind.CLAIM:
        raise ServiceError(f"it answered with a release of {name!r}")
    if now >= record.expires:
        raise ServiceError(f"its record of {name!r} has expired {now - record.expires:.0f} s ago")
    address = NodeAddress.decode(record.address)
    if address.public_key != record.public_key:
        raise ServiceError(f"the address in its record of {name!r} is of another key")
    return record, address
