"""Whose a name is: the rules as a table, without storage and clock."""

from __future__ import annotations

import pytest
from names_kit import ALICE, BOB, NOW, UNLIMITED, Owner

from warpgate.proto.name_record import NameRecord
from warpgate.server.limits import Limits
from warpgate.server.rules import (
    CLOCK_SKEW,
    Code,
    Counts,
    Refusal,
    Step,
    Stored,
    check_counts,
    check_time,
    decide,
)

LATER = NOW + 100_000


def row(owner: Owner, sequence: int, *, expires: int = LATER, data: bytes = b"other bytes") -> Stored:
    return Stored(owner.identity.public_key, sequence, expires, "192.0.2.1/32", data)


ALICES, ALICES_OVER = row(ALICE, 5), row(ALICE, 5, expires=NOW)
BOBS, BOBS_OVER = row(BOB, 50), row(BOB, 50, expires=NOW)


@pytest.mark.parametrize(
    ("record", "stored", "tombstone", "outcome"),
    [
        (ALICE.claim(), None, None, Step.CREATE),
        (ALICE.claim(sequence=0), None, None, Step.CREATE),
        (ALICE.claim(sequence=6), ALICES, None, Step.UPDATE),
        (ALICE.claim(sequence=5), ALICES, None, Code.STALE_SEQUENCE),
        (ALICE.claim(sequence=4), ALICES, None, Code.STALE_SEQUENCE),
        (ALICE.claim(sequence=6), BOBS, None, Code.TAKEN),
        (ALICE.claim(sequence=99), BOBS, None, Code.TAKEN),
        # expired: free for anybody, but its last owner does not go back in time
        (ALICE.claim(sequence=1), BOBS_OVER, None, Step.CREATE),
        (ALICE.claim(sequence=6), ALICES_OVER, None, Step.CREATE),
        (ALICE.claim(sequence=5), ALICES_OVER, None, Code.STALE_SEQUENCE),
        # released: the same
        (ALICE.claim(sequence=8), None, 7, Step.CREATE),
        (ALICE.claim(sequence=7), None, 7, Code.STALE_SEQUENCE),
        (ALICE.claim(sequence=1), None, 7, Code.STALE_SEQUENCE),
        (ALICE.claim(sequence=8), BOBS_OVER, 7, Step.CREATE),
        (ALICE.claim(sequence=7), BOBS_OVER, 7, Code.STALE_SEQUENCE),
        (ALICE.claim(sequence=8), BOBS, 7, Code.TAKEN),
        # releases
        (ALICE.release(sequence=6), ALICES, None, Step.RELEASE),
        (ALICE.release(sequence=6), ALICES_OVER, None, Step.RELEASE),
        (ALICE.release(sequence=5), ALICES, None, Code.STALE_SEQUENCE),
        (ALICE.release(sequence=6), BOBS, None, Code.TAKEN),
        (ALICE.release(sequence=6), None, None, Step.RELEASE),
        (ALICE.release(sequence=7), None, 7, Step.REPEATED),
        (ALICE.release(sequence=6), None, 7, Code.STALE_SEQUENCE),
        (ALICE.release(sequence=8), None, 7, Step.RELEASE),
    ],
)
def test_decisions(record: NameRecord, stored: Stored | None, tombstone: int | None, outcome: Step | Code) -> None:
    decided = decide(record, ALICE.seal(record), stored, tombstone, NOW)
    assert (decided.code if isinstance(decided, Refusal) else decided) is outcome


def test_the_same_bytes_again_change_nothing() -> None:
    record = ALICE.claim(sequence=5)
    data = ALICE.seal(record)
    assert decide(record, data, row(ALICE, 5, data=data), None, NOW) is Step.REPEATED


def test_a_stale_sequence_is_told_the_stored_one() -> None:
    for stored, tombstone, known in ((ALICES, None, 5), (None, 7, 7), (ALICES_OVER, 7, 7)):
        refusal = decide(ALICE.claim(sequence=3), b"", stored, tombstone, NOW)
        assert isinstance(refusal, Refusal)
        assert refusal.sequence == known


@pytest.mark.parametrize("off", [-CLOCK_SKEW, 0, CLOCK_SKEW])
def test_clocks_may_differ(off: int) -> None:
    assert check_time(ALICE.claim(issued=NOW + off), NOW) is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (ALICE.claim(issued=NOW - CLOCK_SKEW - 1), "301 s behind this server's clock"),
        (ALICE.claim(issued=NOW + CLOCK_SKEW + 1), "301 s ahead of this server's clock"),
        (ALICE.claim(issued=NOW - 100, lifetime=60), "expired 40 s ago"),
        (ALICE.claim(issued=NOW - 60, lifetime=60), "expired 0 s ago"),
    ],
)
def test_records_of_another_time(record: NameRecord, reason: str) -> None:
    refusal = check_time(record, NOW)
    assert refusal is not None
    assert refusal.code is Code.CLOCK
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (Counts(1, 2), None),
        (Counts(2, 0), "this key holds 2 names"),
        (Counts(0, 3), "3 names were registered from this network"),
    ],
)
def test_counts(counts: Counts, reason: str | None) -> None:
    refusal = check_counts(counts, Limits(names_per_key=2, names_per_network=3))
    if reason is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.code is Code.TOO_MANY_NAMES
        assert reason in refusal.reason
    assert check_counts(counts, UNLIMITED) is None
