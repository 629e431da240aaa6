"""The race, with runners that are a few lines each, in virtual time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any
from weakref import ref

import pytest

from warpgate.net.race import UNWINDING, Race, RaceLost, first_of
from warpgate_testing.clock import run_virtual

Runner = Callable[[], Awaitable[str]]


def wins(result: str, after: float = 0.0) -> Runner:
    async def run() -> str:
        await asyncio.sleep(after)
        return result

    return run


def fails(error: Exception, after: float = 0.0) -> Runner:
    async def run() -> str:
        await asyncio.sleep(after)
        raise error

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run; afterwards no task may be left, and no error may have gone to the loop."""
    complaints: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await main()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(guarded(), limit=100)
    assert complaints == []


def test_the_first_success_wins_and_the_others_are_cancelled() -> None:
    cancelled: list[str] = []

    async def loser() -> str:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append("loser")
            raise
        return "too late"

    async def main() -> None:
        discarded: list[str] = []
        race = Race(discarded.append)
        assert await race.run({"loser": loser, "slow": wins("b", 0.2), "fast": wins("a", 0.1)}) == (
            "fast",
            "a",
        )
        assert now() == 0.1
        assert cancelled == ["loser"]
        assert discarded == []

    virtually(main)


def test_all_runners_start_in_one_tick() -> None:
    async def main() -> None:
        started: list[tuple[str, float]] = []

        async def note(name: str) -> str:
            started.append((name, now()))
            await asyncio.sleep(1)
            return name

        await first_of({name: lambda name=name: note(name) for name in "abc"}, discard=lambda _: None)
        assert started == [("a", 0.0), ("b", 0.0), ("c", 0.0)]

    virtually(main)


def test_failures_are_collected_and_do_not_end_the_race() -> None:
    async def main() -> None:
        runners = {"bad": fails(ValueError("no"), 0.1), "good": wins("a", 0.2)}
        assert await Race[str](lambda _: None).run(runners) == ("good", "a")
        with pytest.raises(RaceLost, match="one: no; other: never") as lost:
            await Race[str](lambda _: None).run({"one": fails(ValueError("no")), "other": fails(OSError("never"), 1)})
        assert {name: type(error) for name, error in lost.value.failures.items()} == {
            "one": ValueError,
            "other": OSError,
        }
        with pytest.raises(RaceLost, match="nobody ran"):
            await Race[str](lambda _: None).run({})

    virtually(main)


@pytest.mark.parametrize("won", [False, True])
def test_a_race_that_is_over_leaves_nothing_behind_for_the_collector(won: bool) -> None:
    """Its owner's methods ran in it, and are in the tracebacks of its failures."""

    class Owner:
        def __init__(self) -> None:
            self.race: Race[str] = Race(lambda result: None)

        async def run(self) -> None:
            with suppress(RaceLost):
                await self.race.run({"one": self.fail, "two": wins("two", 1.0) if won else self.fail})

        async def fail(self) -> str:
            raise OSError("no")

    async def main() -> None:
        owner = Owner()
        left = ref(owner)
        await owner.run()
        del owner
        await asyncio.sleep(1.0)
        assert left() is None

    gc.collect()
    gc.disable()
    try:
        virtually(main)
    finally:
        gc.enable()


def test_ties_in_one_tick_go_to_the_one_that_was_named_first_and_the_rest_is_discarded() -> None:
    async def main() -> None:
        for _ in range(20):  # sets of tasks have no order: a race that relied on it would fail now and then
            discarded: list[str] = []
            runners = {name: wins(name, 0.1) for name in ("z", "a", "m", "b")}
            assert await Race(discarded.append).run(runners) == ("z", "z")
            assert sorted(discarded) == ["a", "b", "m"]

    virtually(main)


def test_a_loser_that_wins_while_it_is_cancelled_is_discarded() -> None:
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        await asyncio.sleep(0.3)
        return "stubborn"

    async def main() -> None:
        discarded: list[str] = []
        assert await Race(discarded.append).run({"stubborn": stubborn, "fast": wins("a", 0.1)}) == (
            "fast",
            "a",
        )
        assert now() == pytest.approx(0.4)  # it was waited for
        assert discarded == ["stubborn"]

    virtually(main)


def test_a_runner_that_ignores_cancellation_does_not_hang_the_race() -> None:
    async def main() -> None:
        release = asyncio.Event()
        refused = 0

        async def deaf() -> str:
            nonlocal refused
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    refused += 1
            return "deaf"

        discarded: list[str] = []
        assert await Race(discarded.append).run({"deaf": deaf, "fast": wins("a", 0.1)}) == ("fast", "a")
        assert refused == 1
        assert now() == pytest.approx(0.1 + UNWINDING)
        assert discarded == []
        release.set()  # much later it succeeds after all: nobody wants that any more
        await asyncio.sleep(1)
        assert discarded == ["deaf"]

    virtually(main)


def test_a_patient_result_waits_for_a_better_one_and_is_then_discarded() -> None:
    async def main() -> None:
        discarded: list[str] = []
        race = Race(discarded.append, patience=lambda result: 1.0 if result == "relay" else 0.0)
        assert await race.run({"relay": wins("relay", 0.1), "direct": wins("direct", 0.9)}) == (
            "direct",
            "direct",
        )
        assert now() == 0.9
        assert discarded == ["relay"]

    virtually(main)


def test_a_patient_result_wins_when_its_time_is_up_or_nobody_else_is_left() -> None:
    async def main() -> None:
        discarded: list[str] = []
        race = Race(discarded.append, patience=lambda result: 1.0 if result == "relay" else 0.0)
        assert await race.run({"relay": wins("relay", 0.1), "direct": wins("direct", 2.0)}) == (
            "relay",
            "relay",
        )
        assert now() == pytest.approx(1.1)
        race = Race(discarded.append, patience=lambda _: 1.0)
        assert await race.run({"relay": wins("relay"), "direct": fails(OSError("no"), 0.2)}) == (
            "relay",
            "relay",
        )
        assert now() == pytest.approx(1.3)
        assert discarded == []

    virtually(main)


def test_a_more_patient_result_does_not_replace_the_one_there_is() -> None:
    async def main() -> None:
        discarded: list[str] = []
        race = Race(discarded.append, patience=lambda result: {"slow relay": 5.0, "relay": 1.0}[result])
        runners = {"relay": wins("relay"), "other": wins("slow relay", 0.5)}
        assert await race.run(runners) == ("relay", "relay")
        assert discarded == ["slow relay"]

    virtually(main)


def test_cancelling_the_race_from_outside_discards_what_was_won_and_cancels_the_rest() -> None:
    async def main() -> None:
        discarded: list[str] = []
        race = Race(discarded.append, patience=lambda _: 10.0)
        task = asyncio.ensure_future(race.run({"relay": wins("relay", 0.1), "never": wins("x", 50)}))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert discarded == ["relay"]
        assert now() == 1.0

    virtually(main)


def test_cancelling_in_the_very_tick_of_the_win_discards_it() -> None:
    async def main() -> None:
        discarded: list[str] = []
        win = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(Race(discarded.append).run({"one": lambda: win, "other": wins("x", 50)}))
        await asyncio.sleep(1)
        win.set_result("won")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert discarded == ["won"]

    virtually(main)


def test_cancelling_while_the_losers_unwind_discards_the_winner() -> None:
    async def slow_to_leave() -> str:
        try:
            await asyncio.sleep(50)
        finally:
            await asyncio.sleep(0.5)
        return "never"

    async def main() -> None:
        discarded: list[str] = []
        task = asyncio.ensure_future(Race(discarded.append).run({"a": wins("a", 0.1), "b": slow_to_leave}))
        await asyncio.sleep(0.3)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert discarded == ["a"]
        await asyncio.sleep(1)

    virtually(main)


@pytest.mark.parametrize("ticks", range(12))
def test_whatever_the_tick_of_the_cancellation_nothing_is_lost(ticks: int) -> None:
    """The result is either returned or discarded, exactly once."""

    async def main() -> None:
        discarded: list[str] = []
        task = asyncio.ensure_future(Race(discarded.append).run({"a": wins("a"), "b": wins("b"), "c": wins("c", 9)}))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
        returned = [result[1] for result in results if isinstance(result, tuple)]
        made = sorted(returned + discarded)
        assert made in ([], ["a"], ["a", "b"]), made
        assert len(set(made)) == len(made)

    virtually(main)


def test_when_the_leader_fails_the_race_is_lost() -> None:
    """The others only wait for what it may bring about."""

    async def main() -> None:
        runners = {"leader": fails(OSError("gave up"), 1.0), "waiting": wins("never", 50)}
        with pytest.raises(RaceLost, match="leader: gave up"):
            await first_of(runners, discard=lambda _: None, leader="leader")
        assert now() == 1.0

    virtually(main)


def test_when_another_than_the_leader_fails_or_wins_it_is_as_ever() -> None:
    async def main() -> None:
        runners = {"leader": wins("a", 1.0), "other": fails(OSError("no"), 0.5)}
        assert await first_of(runners, discard=lambda _: None, leader="leader") == "a"
        runners = {"leader": fails(OSError("no"), 5.0), "other": wins("b", 0.5)}
        assert await first_of(runners, discard=lambda _: None, leader="leader") == "b"
        race = Race[str](lambda _: None, patience=lambda _: 9.0, leader="leader")
        runners = {"leader": fails(OSError("no"), 1.0), "other": wins("patient", 0.5)}
        assert await race.run(runners) == ("other", "patient")

    virtually(main)


def test_a_timeout_around_the_race_stays_a_timeout() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await first_of({"never": wins("x", 50)}, discard=lambda _: None)
        assert now() == 1.0

    virtually(main)


def test_a_discard_or_patience_that_raises_does_not_leave_runners_behind() -> None:
    def impatient(_: str) -> float:
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await Race[str](lambda _: None, patience=impatient).run({"a": wins("a"), "b": wins("b", 50)})

    virtually(main)


def test_a_runner_that_cancels_itself_has_just_failed() -> None:
    async def gives_up() -> str:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(RaceLost, match="cancelled from within"):
            await Race[str](lambda _: None).run({"a": gives_up})

    virtually(main)


@pytest.mark.parametrize(("wait", "until"), [(0.0, 2.0), (1.0, 3.0), (10.0, 6.0)])
def test_how_long_a_result_waits_may_be_asked_again(wait: float, until: float) -> None:
    async def main() -> None:
        patience = 5.0
        race: Race[str] = Race(lambda _: None, lambda result: patience if result == "second best" else 0.0)

        async def news() -> str:
            nonlocal patience
            await asyncio.sleep(2)
            patience = wait
            race.reconsider()
            await asyncio.sleep(4)
            return "best"

        name, result = await race.run({"early": wins("second best", after=1), "late": news})
        assert (name, result) == (("late", "best") if until == 6.0 else ("early", "second best"))
        assert now() == until
        race.reconsider()  # too late: nothing happens

    virtually(main)
