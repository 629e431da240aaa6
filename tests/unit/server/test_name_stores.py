"""Both storages carry out the rules alike: the same tests run against SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from names_kit import ALICE, BOB, NOW, UNLIMITED, Owner

from warpgate.errors import ConfigError
from warpgate.proto.name_record import NameRecord, open_record
from warpgate.server.limits import Limits
from warpgate.server.postgres import open_postgres, shown
from warpgate.server.rules import REMEMBERED, Code, Refusal, Step
from warpgate.server.sqlite import open_sqlite
from warpgate.server.store import Change, Store, StoreError, Tally

TOP = 2**64 - 1


async def apply(
    store: Store,
    owner: Owner,
    record: NameRecord,
    *,
    now: float = NOW,
    network: str = "192.0.2.1/32",
    limits: Limits = UNLIMITED,
) -> Step | Code:
    outcome = await store.apply(Change(record, owner.seal(record), network, now, limits))
    return outcome.code if isinstance(outcome, Refusal) else outcome


async def test_a_name_from_claim_to_release(store: Store) -> None:
    assert await store.lookup("alice", NOW) is None
    assert await apply(store, ALICE, ALICE.claim(sequence=10)) is Step.CREATE
    assert await apply(store, BOB, BOB.claim(sequence=99)) is Code.TAKEN
    newer = ALICE.claim(sequence=11, lifetime=60)
    assert await apply(store, ALICE, newer) is Step.UPDATE
    data = await store.lookup("alice", NOW)
    assert data is not None
    assert open_record(data) == newer
    assert await apply(store, ALICE, ALICE.claim(sequence=10)) is Code.STALE_SEQUENCE
    assert await apply(store, ALICE, ALICE.release(sequence=12)) is Step.RELEASE
    assert await store.lookup("alice", NOW) is None


async def test_the_same_bytes_twice(store: Store) -> None:
    record = ALICE.claim()
    change = Change(record, ALICE.seal(record), "192.0.2.1/32", NOW, UNLIMITED)
    assert [await store.apply(change) for _ in range(2)] == [Step.CREATE, Step.REPEATED]
    release = ALICE.release(sequence=2)
    change = Change(release, ALICE.seal(release), "192.0.2.1/32", NOW, UNLIMITED)
    assert [await store.apply(change) for _ in range(2)] == [Step.RELEASE, Step.REPEATED]


@pytest.mark.parametrize("sequence", [0, 2**63 - 1, 2**63, TOP - 1])
async def test_sequences_are_unsigned_64_bit_numbers(store: Store, sequence: int) -> None:
    assert await apply(store, ALICE, ALICE.claim(sequence=sequence)) is Step.CREATE
    assert await apply(store, ALICE, ALICE.claim(sequence=sequence, lifetime=7)) is Code.STALE_SEQUENCE
    assert await apply(store, ALICE, ALICE.release(sequence=TOP)) is Step.RELEASE
    outcome = await store.apply(Change(ALICE.claim(sequence=TOP), b"", "192.0.2.1/32", NOW, UNLIMITED))
    assert isinstance(outcome, Refusal)
    assert outcome.sequence == TOP


async def test_after_a_release_anybody_may_come_but_no_old_record(store: Store) -> None:
    old = ALICE.claim(sequence=10)
    await apply(store, ALICE, old)
    await apply(store, ALICE, ALICE.release(sequence=20))
    assert await apply(store, ALICE, old) is Code.STALE_SEQUENCE
    assert await apply(store, BOB, BOB.claim(sequence=1)) is Step.CREATE
    await apply(store, BOB, BOB.release(sequence=2))
    # Another owner in between does not make the first one's past good again.
    assert await apply(store, ALICE, old) is Code.STALE_SEQUENCE
    assert await apply(store, ALICE, ALICE.claim(sequence=21)) is Step.CREATE


async def test_expiry_frees_a_name_for_anybody_but_no_old_record(store: Store) -> None:
    long_lived = ALICE.claim(sequence=10, lifetime=100_000)
    await apply(store, ALICE, long_lived)
    await apply(store, ALICE, ALICE.claim(sequence=11, lifetime=10))
    assert await store.lookup("alice", NOW + 9.9) is not None
    assert await store.lookup("alice", NOW + 10) is None
    assert await apply(store, ALICE, long_lived, now=NOW + 10) is Code.STALE_SEQUENCE
    assert await apply(store, BOB, BOB.claim(), now=NOW + 9) is Code.TAKEN
    assert await apply(store, BOB, BOB.claim(), now=NOW + 10) is Step.CREATE
    assert await apply(store, BOB, BOB.release(sequence=2), now=NOW + 11) is Step.RELEASE
    assert await apply(store, ALICE, long_lived, now=NOW + 12) is Code.STALE_SEQUENCE


async def test_limits_count_names_that_are_registered_now(store: Store) -> None:
    limits = Limits(names_per_key=2, names_per_network=3)
    assert await apply(store, ALICE, ALICE.claim("one-a", lifetime=10), limits=limits) is Step.CREATE
    assert await apply(store, ALICE, ALICE.claim("two-a"), limits=limits) is Step.CREATE
    assert await apply(store, ALICE, ALICE.claim("three-a"), limits=limits) is Code.TOO_MANY_NAMES
    assert await apply(store, ALICE, ALICE.claim("two-a", 2), limits=limits) is Step.UPDATE
    assert await apply(store, BOB, BOB.claim("one-b"), limits=limits) is Step.CREATE
    assert await apply(store, BOB, BOB.claim("two-b"), limits=limits) is Code.TOO_MANY_NAMES
    elsewhere = "198.51.100.0/32"
    assert await apply(store, BOB, BOB.claim("two-b"), limits=limits, network=elsewhere) is Step.CREATE
    await apply(store, ALICE, ALICE.release("two-a", 3))
    assert await apply(store, ALICE, ALICE.claim("three-a"), limits=limits) is Step.CREATE
    assert await apply(store, ALICE, ALICE.claim("four-a"), limits=limits, now=NOW + 10) is Step.CREATE


async def test_updates_from_elsewhere_do_not_move_a_name_out_of_its_networks_count(store: Store) -> None:
    limits = Limits(names_per_network=1)
    await apply(store, ALICE, ALICE.claim("one-a"), limits=limits)
    await apply(store, ALICE, ALICE.claim("one-a", 2), limits=limits, network="198.51.100.0/32")
    assert await apply(store, BOB, BOB.claim("one-b"), limits=limits) is Code.TOO_MANY_NAMES


async def test_fifty_claims_at_once_make_one_owner(store: Store) -> None:
    owners = [Owner() for _ in range(50)]
    outcomes = await asyncio.gather(*(apply(store, owner, owner.claim()) for owner in owners))
    assert sorted(map(str, outcomes)) == sorted([str(Step.CREATE)] + [str(Code.TAKEN)] * 49)
    data = await store.lookup("alice", NOW)
    assert data is not None
    assert open_record(data).public_key == owners[outcomes.index(Step.CREATE)].identity.public_key


async def test_limits_hold_for_claims_at_once(store: Store) -> None:
    limits = Limits(names_per_key=5, names_per_network=None)
    claims = (apply(store, ALICE, ALICE.claim(f"name-{n}"), limits=limits) for n in range(20))
    outcomes = await asyncio.gather(*claims)
    assert outcomes.count(Step.CREATE) == 5
    assert outcomes.count(Code.TOO_MANY_NAMES) == 15


async def test_of_updates_at_once_the_highest_remains(store: Store) -> None:
    await apply(store, ALICE, ALICE.claim(sequence=1))
    sequences = [(n * 7) % 20 + 2 for n in range(20)]
    outcomes = await asyncio.gather(*(apply(store, ALICE, ALICE.claim(sequence=n)) for n in sequences))
    assert set(outcomes) <= {Step.UPDATE, Code.STALE_SEQUENCE}
    data = await store.lookup("alice", NOW)
    assert data is not None
    assert open_record(data).sequence == max(sequences)


async def test_tidying_forgets_what_can_no_longer_be_replayed(store: Store) -> None:
    await apply(store, ALICE, ALICE.claim("stays"))
    await apply(store, ALICE, ALICE.claim("short", lifetime=10))
    await apply(store, ALICE, ALICE.claim("gone"))
    await apply(store, ALICE, ALICE.release("gone", 2))
    assert await store.tidy(NOW) == Tally(names=2, purged=0)
    assert await store.tidy(NOW + REMEMBERED - 1) == Tally(names=1, purged=0)
    assert await store.tidy(NOW + REMEMBERED) == Tally(names=1, purged=1)  # the tombstone
    assert await store.tidy(NOW + REMEMBERED + 10) == Tally(names=1, purged=1)  # the expired row
    assert await store.lookup("stays", NOW) is not None


async def test_check_passes(store: Store) -> None:
    await store.check()
    await store.check()


async def test_sqlite_waits_for_the_disk(tmp_path: Path) -> None:
    """FULL: each commit is synced before it returns (NORMAL syncs at checkpoints, and loses what came after)."""
    async with open_sqlite(tmp_path / "names.sqlite") as store:
        pragmas = [store._write.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]


async def test_postgres_waits_for_the_disk_whatever_its_default_is(postgres: str) -> None:
    async with open_postgres(postgres) as store, store._connection() as connection:
        await connection.execute("ALTER ROLE warpgate SET synchronous_commit = off")
    try:
        async with open_postgres(postgres) as store, store._connection() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
            assert await connection.fetchval("SHOW fsync") == "on"
    finally:
        async with open_postgres(postgres) as store, store._connection() as connection:
            await connection.execute("ALTER ROLE warpgate RESET synchronous_commit")


async def test_those_who_ask_at_once_share_a_commit(tmp_path: Path) -> None:
    owners = [Owner() for _ in range(100)]
    async with open_sqlite(tmp_path / "names.sqlite") as store:
        wal = tmp_path / "names.sqlite-wal"
        commits = 0

        def counted(_statement: str) -> None:
            nonlocal commits
            commits += _statement == "COMMIT"

        store._write.set_trace_callback(counted)
        outcomes = await asyncio.gather(
            *(apply(store, owner, owner.claim(f"name-{n}")) for n, owner in enumerate(owners))
        )
        assert outcomes == [Step.CREATE] * 100
        assert commits <= 2
        assert wal.stat().st_size > 0


async def test_one_who_leaves_does_not_disturb_the_others(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "names.sqlite") as store:
        tasks = [asyncio.create_task(apply(store, ALICE, ALICE.claim(f"name-{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes.count(Step.CREATE) == 9


async def test_a_bug_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("warpgate.server.sqlite.decide", broken)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_sqlite(tmp_path / "names.sqlite"))
        with pytest.raises(StoreError, match="was not written"):
            await apply(store, ALICE, ALICE.claim())
        with pytest.raises(StoreError):
            await store.check()
        with pytest.raises(ZeroDivisionError):
            await stack.aclose()


@pytest.mark.parametrize("version", [2, 99])
async def test_databases_of_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "names.sqlite"
    async with open_sqlite(path) as store:
        await apply(store, ALICE, ALICE.claim())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(StoreError, match=f"version {version}, this program knows 1"):
        async with open_sqlite(path):
            pass


async def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photographs (id INTEGER)")
    with pytest.raises(StoreError, match="cannot be opened"):
        async with open_sqlite(path):
            pass


async def test_postgres_databases_of_other_versions_are_refused(postgres: str) -> None:
    async with open_postgres(postgres) as store, store._connection() as connection:
        await connection.execute("UPDATE warpgate_meta SET version = 7")
    with pytest.raises(StoreError, match="version 7, this program knows 1"):
        async with open_postgres(postgres):
            pass


def test_what_is_printed_of_a_database_has_no_password() -> None:
    assert shown("postgresql://me:secret@db.example:5432/names") == "postgresql://me@db.example:5432/names"
    assert shown("postgresql://me@db.example/names?password=x") == "postgresql://me@db.example/names"
    assert shown("names.sqlite") == "names.sqlite"


async def test_without_asyncpg_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"pip install 'warpgate\[postgres\]'"):
        async with open_postgres("postgresql://localhost/names"):
            pass
