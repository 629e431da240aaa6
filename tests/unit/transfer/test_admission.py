"""Who holds a receiver's places without moving makes room; who moves, however slowly, keeps his. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from transfer_kit import Exchange, PipeInMemory, tree_of

from warpgate.errors import WarpgateError
from warpgate.proto.transfer_names import ENTRY_COST
from warpgate.proto.transfer_wire import (
    BATCH,
    MAX_LIST,
    Begin,
    Busy,
    Data,
    Deframer,
    Entries,
    Entry,
    Offer,
    encode,
)
from warpgate.transfer import admission, receiver, sender
from warpgate.transfer.admission import (
    STALLED_AFTER,
    TRANSFERS_AT_ONCE,
    TRANSFERS_OF_ONE,
    VISITORS,
    VISITORS_OF_ONE,
)
from warpgate.transfer.receiver import Receiver
from warpgate_testing.clock import run_virtual

SIZE = 1_000_000
T = Any


class AtOnce:
    """A thread's work done in the loop: virtual time does not wait for real threads."""

    def __init__(self, name: str) -> None:
        pass

    async def call(self, function: Callable[[], T]) -> T:
        return function()

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        last()


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "SerialThread", AtOnce)
    monkeypatch.setattr(sender, "SerialThread", AtOnce)


class Stranger:
    """A peer with a key of its own that says what it is told to, and Busy every 5 s."""

    def __init__(self, house: Receiver, peer: str) -> None:
        self.near, far = PipeInMemory.pair()
        far.peer = peer
        self.taking = asyncio.create_task(self._take(house, far))
        self.signs = asyncio.create_task(self._give_signs())
        self.outcome: object = None

    async def _take(self, house: Receiver, far: PipeInMemory) -> None:
        try:
            self.outcome = await house.take(far)  # type: ignore[arg-type]
        except WarpgateError as error:
            self.outcome = error

    async def _give_signs(self) -> None:
        while not self.taking.done():
            await asyncio.sleep(5)
            try:
                await self.near.send(encode(Busy()))
            except WarpgateError:
                return

    @property
    def inside(self) -> bool:
        return not self.taking.done()

    async def offer(self, name: str) -> None:
        entry = Entry((), False, SIZE, 0, False)
        await self.near.send(
            encode(Offer(1, name.encode().ljust(16), name, False, 1, SIZE)) + encode(Entries((entry,)))
        )

    async def begin(self) -> None:
        await self.near.send(encode(Begin(0, 0)))

    async def trickle(self, rate: int, seconds: float) -> None:
        """Bytes of data at a pace, in frames cut anywhere."""
        frame = encode(Data(bytes(50_000)))
        for second in range(int(seconds)):
            start = second * rate % len(frame)
            await self.near.send(frame[start : start + rate])
            await asyncio.sleep(1)


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def to_the_end() -> None:
        try:
            await main()
        finally:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    run_virtual(to_the_end(), limit=5000)


async def send_honestly(house: Receiver, folder: Path, name: str = "honest") -> None:
    (folder / name).write_bytes(b"x" * 100)
    exchange = Exchange(folder)
    exchange.receiver = house
    await exchange.send(folder / name, patience=120.0)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


@pytest.mark.parametrize("begins", [False, True])
def test_transfers_that_only_say_busy(folders: tuple[Path, Path], begins: bool) -> None:
    here, there = folders

    async def main() -> None:
        house = Receiver(there)
        attackers = [Stranger(house, f"key{number}") for number in range(TRANSFERS_AT_ONCE)]
        for number, attacker in enumerate(attackers):
            await attacker.offer(f"file{number}")
            if begins:
                await attacker.begin()
        await asyncio.sleep(300)
        assert all(attacker.inside for attacker in attackers)
        await send_honestly(house, here)
        assert "honest" in tree_of(there)
        assert sum(attacker.inside for attacker in attackers) == TRANSFERS_AT_ONCE - 1

    virtually(main)


def test_pipes_that_say_nothing_of_substance(folders: tuple[Path, Path]) -> None:
    here, there = folders

    async def main() -> None:
        house = Receiver(there)
        attackers = [Stranger(house, f"key{number}") for number in range(VISITORS)]
        await asyncio.sleep(STALLED_AFTER + 1)
        assert all(attacker.inside for attacker in attackers)
        await send_honestly(house, here)
        assert "honest" in tree_of(there)
        await asyncio.sleep(60)
        assert not any(attacker.inside for attacker in attackers), "nothing was offered for 30 s"

    virtually(main)


@pytest.mark.parametrize(("keys", "most"), [(1, VISITORS_OF_ONE), (2 * VISITORS, VISITORS)], ids=["one", "many"])
def test_pipes_without_an_offer_are_bounded_of_one_peer_and_in_all(
    folders: tuple[Path, Path], keys: int, most: int
) -> None:
    async def main() -> None:
        house = Receiver(folders[1])
        pipes = [Stranger(house, f"key{number % keys}") for number in range(2 * VISITORS)]
        await asyncio.sleep(1)
        assert sum(pipe.inside for pipe in pipes) == most

    virtually(main)


def test_slow_ones_that_move_are_not_sent_away(folders: tuple[Path, Path]) -> None:
    """At 100 bytes a second; a piece takes minutes. Newcomers take the places of those who stand still."""
    here, there = folders

    async def main() -> None:
        house = Receiver(there)
        slow = Stranger(house, "slow")
        await slow.offer("slow")
        await slow.begin()
        trickling = asyncio.create_task(slow.trickle(100, 400))
        attackers = [Stranger(house, f"key{number}") for number in range(TRANSFERS_AT_ONCE - 1)]
        for number, attacker in enumerate(attackers):
            await attacker.offer(f"file{number}")
        for round_ in range(5):
            await asyncio.sleep(60)
            await send_honestly(house, here, f"honest{round_}")
        assert slow.inside
        assert not trickling.done()

    virtually(main)


def test_when_all_move_who_comes_is_told_so(folders: tuple[Path, Path]) -> None:
    _, there = folders

    async def main() -> None:
        house = Receiver(there)
        movers = [Stranger(house, f"key{number}") for number in range(TRANSFERS_AT_ONCE)]
        for number, mover in enumerate(movers):
            await mover.offer(f"file{number}")
            await mover.begin()
        moving = [asyncio.create_task(mover.trickle(200, 100)) for mover in movers]
        await asyncio.sleep(50)
        late = Stranger(house, "late")
        await late.offer("late")
        await asyncio.sleep(10)
        assert getattr(late.outcome, "reason", "") == "busy"
        assert all(mover.inside for mover in movers)
        await asyncio.gather(*moving)

    virtually(main)


def test_one_peer_has_a_share(folders: tuple[Path, Path]) -> None:
    here, there = folders

    async def main() -> None:
        house = Receiver(there)
        greedy = [Stranger(house, "greedy") for _ in range(VISITORS_OF_ONE + 1)]
        for number, pipe in enumerate(greedy):
            await pipe.offer(f"file{number}")
        await asyncio.sleep(10)
        assert sum(pipe.inside for pipe in greedy) == TRANSFERS_OF_ONE
        assert {getattr(pipe.outcome, "reason", "") for pipe in greedy if not pipe.inside} == {"busy"}
        await send_honestly(house, here)

    virtually(main)


def test_a_sender_that_compares_what_is_there_is_not_stalled(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing but Busy while it hashes what the receiver has already."""
    _, there = folders
    monkeypatch.setattr(admission, "COMPARING_PACE", 30_000)

    async def main() -> None:
        house = Receiver(there)
        first = Stranger(house, "honest")
        await first.offer("big")
        await first.begin()
        await first.near.send(b"".join(encode(Data(bytes(50_000))) for _ in range(18)))
        await asyncio.sleep(1)
        first.near.abort()
        await asyncio.sleep(1)
        again = Stranger(house, "honest")
        await again.offer("big")
        others = [Stranger(house, f"key{number}") for number in range(TRANSFERS_AT_ONCE - 1)]
        for number, other in enumerate(others):
            await other.offer(f"file{number}")
            await other.begin()
        moving = [asyncio.create_task(other.trickle(200, 90)) for other in others]
        await asyncio.sleep(STALLED_AFTER + 25)  # 900 kB take 30 s
        early = Stranger(house, "early")
        await early.offer("early")
        await asyncio.sleep(10)
        assert getattr(early.outcome, "reason", "") == "busy"
        assert again.inside
        late = Stranger(house, "late")
        await late.offer("late")
        await asyncio.sleep(1)
        assert late.inside
        assert not again.inside
        await asyncio.gather(*moving)

    virtually(main)


def test_a_transfer_that_is_sent_away_can_be_continued(folders: tuple[Path, Path]) -> None:
    _, there = folders

    async def main() -> None:
        house = Receiver(there)
        first = [Stranger(house, f"key{number}") for number in range(TRANSFERS_AT_ONCE)]
        for number, stranger in enumerate(first):
            await stranger.offer(f"file{number}")
            await stranger.begin()
            await stranger.near.send(encode(Data(b"x" * 60_000)))
        await asyncio.sleep(60)
        late = Stranger(house, "late")
        await late.offer("late")
        await asyncio.sleep(1)
        gone = next(number for number, stranger in enumerate(first) if not stranger.inside)
        back = Stranger(house, f"key{gone}")
        await back.offer(f"file{gone}")
        await asyncio.sleep(1)
        answers = list(Deframer().feed(await back.near.recv()))
        assert [part.size for part in getattr(answers[0], "parts", ())] == [60_000]

    virtually(main)


# -- lists ------------------------------------------------------------------------------------------------------------


async def list_names(stranger: Stranger, name: str, count: int) -> None:
    """Of a directory that has one more, so that the list stays open."""
    entries = [Entry((f"{number:05}".ljust(100, "x"),), False, 0, 0, False) for number in range(count)]
    said = encode(Offer(1, name.encode().ljust(16), name, True, count + 1, 0))
    for start in range(0, count, BATCH):
        said += encode(Entries(tuple(entries[start : start + BATCH])))
    await stranger.near.send(said)


COST = 100 + ENTRY_COST  # of one name


@pytest.fixture
def small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LIST_OF_ANYBODY", 64 * COST)
    monkeypatch.setattr(admission, "LISTS_AT_ONCE", 512 * COST)


@pytest.mark.usefixtures("small_lists")
def test_lists_of_all_transfers_together_are_bounded(folders: tuple[Path, Path]) -> None:
    here, there = folders

    async def main() -> None:
        house = Receiver(there)
        attackers = [Stranger(house, f"key{number}") for number in range(TRANSFERS_AT_ONCE - 1)]
        for number, attacker in enumerate(attackers):
            await list_names(attacker, f"list{number}", 320)
        await asyncio.sleep(2)
        held = [visitor.incoming.list_cost for visitor in house._admission._visitors if visitor.offer]
        assert sum(max(0, cost - 64 * COST) for cost in held) <= (512 + 64) * COST
        refused = [attacker.outcome for attacker in attackers if attacker.outcome is not None]
        assert refused
        assert all("long lists" in str(outcome) for outcome in refused)
        await send_honestly(house, here)
        assert (there / "honest").read_bytes() == b"x" * 100

    virtually(main)


@pytest.mark.usefixtures("small_lists")
def test_a_list_that_has_come_to_a_stop_makes_room(folders: tuple[Path, Path]) -> None:
    _, there = folders

    async def main() -> None:
        house = Receiver(there)
        first, second = Stranger(house, "first"), Stranger(house, "second")
        await list_names(first, "one", 500)
        await asyncio.sleep(STALLED_AFTER + 1)
        assert first.inside
        await list_names(second, "two", 500)
        await asyncio.sleep(1)
        assert (first.inside, second.inside) == (False, True)

    virtually(main)


def test_one_list_of_the_longest_kind_always_fits() -> None:
    assert admission.LISTS_AT_ONCE >= MAX_LIST - admission.LIST_OF_ANYBODY
