"""The service without HTTP: rates in virtual time, and storage that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from names_kit import ALICE, BOB, CAROL, NOW

from warpgate.server.limits import Limits
from warpgate.server.rules import Code, Refusal, Step
from warpgate.server.service import NameService
from warpgate.server.sqlite import open_sqlite
from warpgate.server.store import Change, Store, StoreError, Tally

HERE, THERE = "192.0.2.1/32", "198.51.100.1/32"


@dataclass
class World:
    """A service whose clocks stand still until they are moved."""

    store: Store
    limits: Limits = field(default_factory=Limits)
    now: float = NOW

    def __post_init__(self) -> None:
        self.service = NameService(self.store, self.limits, clock=lambda: self.now, timer=lambda: self.now - NOW)


@dataclass
class Failing:
    """A store that can be told to fail, and counts what it was asked."""

    fails: bool = True
    checks: int = 0

    def _maybe(self) -> None:
        if self.fails:
            raise StoreError("the disk is full")

    async def lookup(self, name: str, now: float) -> bytes | None:
        self._maybe()
        return None

    async def apply(self, change: Change) -> Step | Refusal:
        self._maybe()
        return Step.CREATE

    async def check(self) -> None:
        self.checks += 1
        self._maybe()

    async def tidy(self, now: float) -> Tally:
        self._maybe()
        return Tally(0, 0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_sqlite(tmp_path / "names.sqlite") as opened:
        yield opened


def code_of(outcome: object) -> object:
    return outcome.code if isinstance(outcome, Refusal) else outcome


async def test_look_ups_fold_what_was_typed(store: Store) -> None:
    world = World(store)
    data = ALICE.seal(ALICE.claim())
    assert await world.service.write("Alice", data, HERE) is Step.CREATE
    assert await world.service.lookup("ALICE", HERE) == data
    assert code_of(await world.service.lookup("bob", HERE)) is Code.NOT_FOUND
    assert code_of(await world.service.lookup("b--ob", HERE)) is Code.BAD_NAME


async def test_a_name_lives_as_long_as_its_record_says(store: Store) -> None:
    world = World(store)
    data = ALICE.seal(ALICE.claim(lifetime=3600))
    await world.service.write("alice", data, HERE)
    world.now += 3599
    assert await world.service.lookup("alice", HERE) == data
    world.now += 1
    assert code_of(await world.service.lookup("alice", HERE)) is Code.NOT_FOUND


async def test_look_ups_are_limited_for_each_network(store: Store) -> None:
    world = World(store, Limits(lookups_per_network=60))
    outcomes = [await world.service.lookup("bob", HERE) for _ in range(61)]
    assert [code_of(each) for each in outcomes] == [Code.NOT_FOUND] * 60 + [Code.RATE]
    last = outcomes[-1]
    assert isinstance(last, Refusal)
    assert last.retry_after == pytest.approx(1.0)
    assert code_of(await world.service.lookup("bob", THERE)) is Code.NOT_FOUND
    world.now += 1
    assert code_of(await world.service.lookup("bob", HERE)) is Code.NOT_FOUND


async def test_writes_are_limited_for_each_network(store: Store) -> None:
    world = World(store, Limits(writes_per_network=2))
    assert [code_of(world.service.admit_write(HERE)) for _ in range(3)] == [None, None, Code.RATE]
    assert world.service.admit_write(THERE) is None
    world.now += 30
    assert world.service.admit_write(HERE) is None


async def test_writes_are_limited_for_each_key_that_signed_them(store: Store) -> None:
    world = World(store, Limits(writes_per_key=2))

    async def write(sequence: int, network: str) -> object:
        data = ALICE.seal(ALICE.claim(sequence=sequence, issued=int(world.now)))
        return code_of(await world.service.write("alice", data, network))

    assert [await write(n, HERE) for n in (1, 2)] == [Step.CREATE, Step.UPDATE]
    assert await write(3, THERE) is Code.RATE
    bobs = BOB.seal(BOB.claim("bob"))
    assert await world.service.write("bob", bobs, THERE) is Step.CREATE
    world.now += 30
    assert await write(4, THERE) is Step.UPDATE


async def test_nobody_uses_up_anothers_writes(store: Store) -> None:
    """A record that names Alice's key but is not signed by it costs her nothing."""
    world = World(store, Limits(writes_per_key=1))
    data = ALICE.seal(ALICE.claim())
    forged = data[:-1] + bytes((data[-1] ^ 1,))
    for _ in range(5):
        assert code_of(await world.service.write("alice", forged, HERE)) is Code.BAD_SIGNATURE
    assert await world.service.write("alice", data, HERE) is Step.CREATE


async def test_a_failing_store_is_told_and_not_looked_at_more_than_once_a_second() -> None:
    failing = Failing()
    world = World(failing)
    assert [await world.service.health() for _ in range(3)] == ["the disk is full"] * 3
    assert failing.checks == 1
    write = await world.service.write("carol", CAROL.seal(CAROL.claim("carol")), HERE)
    lookup = await world.service.lookup("carol", HERE)
    for outcome in (write, lookup):
        assert isinstance(outcome, Refusal)
        assert (outcome.code, outcome.reason) == (Code.STORAGE, "the disk is full")
        assert outcome.retry_after is not None
    failing.fails = False
    world.now += 1
    assert await world.service.health() == ""
