from __future__ import annotations

import asyncio
import threading
import time

import pytest

from warpgate_testing.clock import Deadlock, TimeLimit, run_virtual


def test_time_jumps_exactly_onto_timers_and_nobody_waits() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        seen: list[float] = []
        for delay in (0.1, 0.2, 0.3, 86_400 * 30):
            loop.call_later(delay, lambda: seen.append(loop.time()))
        await asyncio.sleep(86_400 * 31)
        return [*seen, loop.time()]

    started = time.monotonic()
    assert run_virtual(main(), limit=1e9) == [0.1, 0.2, 0.3, 86_400 * 30, 86_400 * 31]
    assert time.monotonic() - started < 5


def test_ready_callbacks_run_before_time_passes() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0.0


def test_timeouts_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 60.0


def test_a_deadlock_says_who_waits_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.sleep(1)
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"nothing is scheduled at 1\.000 s.*waits_for_ever.*test_clock\.py:\d+"):
        run_virtual(waits_for_ever())


def test_the_limit_ends_what_never_ends_and_cleanup_still_runs() -> None:
    cleaned: list[str] = []

    async def main() -> None:
        try:
            for _ in range(10_000):
                await asyncio.sleep(7)
        finally:
            await asyncio.sleep(1)
            cleaned.append("up")

    with pytest.raises(TimeLimit, match="not finished after 100 s"):
        run_virtual(main(), limit=100)
    assert cleaned == ["up"]


def test_calls_from_threads_that_are_there_already_are_taken() -> None:
    async def main() -> float:
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(called.set,))
        thread.start()
        thread.join()
        await called.wait()
        return loop.time()

    assert run_virtual(main()) == 0.0
