"""Whose a name is: a signed record, what is stored under its name, and a time in; what to do about it out.

Pure, and the same for every storage. A storage tells what it holds (`Stored`, and the sequence of the key's tombstone)
and carries out the step.

A *tombstone* outlives a name's registration and remembers up to which sequence its former owner had got. It is kept
for as long as an older record of that owner would still pass the clock check: without it, whoever has seen one could
register a released name again by sending it once more.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto

from warpgate.lazy_dataclass import dataclass
from warpgate.model.identity import node_id_of
from warpgate.proto.name_record import NameRecord, RecordKind
from warpgate.server.limits import Limits

# Clocks of machines without NTP drift by minutes; a recorded request is good for as long.
CLOCK_SKEW = 300
# A record may be issued CLOCK_SKEW in our future and is then accepted until CLOCK_SKEW in its own past.
REMEMBERED = 2 * CLOCK_SKEW


class Code(StrEnum):
    """The `error` of a refusal; clients decide by it, people read the reason."""

    MALFORMED = "malformed"
    BAD_NAME = "bad_name"
    NAME_MISMATCH = "name_mismatch"
    BAD_SIGNATURE = "bad_signature"
    NOT_FOUND = "not_found"
    TAKEN = "taken"
    STALE_SEQUENCE = "stale_sequence"
    TOO_LARGE = "too_large"
    CLOCK = "clock"
    RATE = "rate"
    TOO_MANY_NAMES = "too_many_names"
    STORAGE = "storage"


class Step(Enum):
    """What a storage has to do with an accepted record."""

    REPEATED = auto()  # nothing: this very record is in effect already
    CREATE = auto()  # store it; a former owner's row becomes a tombstone
    UPDATE = auto()  # put it in the place of the same key's row
    RELEASE = auto()  # remove the key's row, if there is one, and leave a tombstone


@dataclass(frozen=True, slots=True)
class Refusal:
    """`sequence`: the stored one, of STALE_SEQUENCE. `retry_after`: seconds."""

    code: Code
    reason: str
    sequence: int | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A name's row. `network` is that from which it was registered, `expires` in Unix seconds."""

    public_key: bytes
    sequence: int
    expires: int
    network: str
    record: bytes


@dataclass(frozen=True, slots=True)
class Counts:
    """Names that have not expired: of one key, and registered from one network."""

    of_key: int
    of_network: int


def check_time(record: NameRecord, now: float) -> Refusal | None:
    off = record.issued - now
    if abs(off) > CLOCK_SKEW:
        when = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this server's clock"
        return Refusal(Code.CLOCK, f"the record was issued {when}; at most {CLOCK_SKEW} s are allowed")
    if record.expires <= now:
        return Refusal(Code.CLOCK, f"the record expired {now - record.expires:.0f} s ago")
    return None


def decide(record: NameRecord, data: bytes, stored: Stored | None, tombstone: int | None, now: float) -> Step | Refusal:
    """`data` is the signed record, `stored` the row of its name, `tombstone` the sequence of its key's tombstone.

    The caller has checked signature and time, and counts names before it carries out CREATE (`check_counts`).
    """
    own = stored if stored is not None and stored.public_key == record.public_key else None
    if stored is not None and own is None and stored.expires > now:
        owner = node_id_of(stored.public_key)
        return Refusal(Code.TAKEN, f"{record.name!r} is registered by another key (node {owner})")
    if own is not None and own.record == data:
        return Step.REPEATED
    known = max((-1 if tombstone is None else tombstone), (-1 if own is None else own.sequence))
    if record.sequence <= known:
        if record.kind is RecordKind.RELEASE and own is None and record.sequence == known:
            return Step.REPEATED
        return Refusal(
            Code.STALE_SEQUENCE,
            f"sequence {record.sequence} is not above {known}, which this server has seen",
            sequence=known,
        )
    if record.kind is RecordKind.RELEASE:
        return Step.RELEASE
    return Step.UPDATE if own is not None and own.expires > now else Step.CREATE


def check_counts(counts: Counts, limits: Limits) -> Refusal | None:
    """Before a name is created: `counts` is without it."""
    if limits.names_per_key is not None and counts.of_key >= limits.names_per_key:
        return Refusal(
            Code.TOO_MANY_NAMES,
            f"this key holds {counts.of_key} names, and {limits.names_per_key} is the limit: release one",
        )
    if limits.names_per_network is not None and counts.of_network >= limits.names_per_network:
        return Refusal(
            Code.TOO_MANY_NAMES,
            f"{counts.of_network} names were registered from this network, and {limits.names_per_network} is the limit",
        )
    return None
