"""Virtual time for asyncio: when nothing is ready the clock jumps to the next timer, so nobody ever waits.

A program that only waits for timers and for other tasks (`internet` is made of nothing else) runs as fast as it
computes, and takes exactly as long by `loop.time()` as its timers say.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# asyncio never asks its selector to wait longer than this (base_events.MAXIMUM_SELECT_TIMEOUT).
_LONGEST_WAIT = 24 * 3600


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: the program would wait for ever."""


class TimeLimit(RuntimeError):
    """Virtual time went past the limit given to `run_virtual`."""


class _JumpingSelector(selectors.BaseSelector):
    """Instead of waiting it moves the loop's clock. What is ready on real descriptors already (the loop's own
    pipe for threads) is honoured, but never waited for."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready and self.loop is not None:
            self.loop.pass_time(timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0. `limit` is the latest instant it will reach before it raises TimeLimit."""

    def __init__(self, limit: float = math.inf) -> None:
        self._now = 0.0
        self._limit = limit
        selector = _JumpingSelector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self._now

    def pass_time(self, timeout: float | None) -> None:
        """Called when nothing is ready: jump ahead by `timeout` seconds, exactly onto the next timer."""
        if timeout is None:
            raise Deadlock(f"nothing is scheduled at {self._now:.3f} s and nothing is ready; {self._waiting()}")
        if timeout <= 0:
            return
        # now + (when - now) is not always when, and a timer missed by one rounding error costs an idle turn.
        timers: list[asyncio.TimerHandle] = getattr(self, "_scheduled", [])
        target = timers[0].when() if timers and timeout < _LONGEST_WAIT else self._now + timeout
        if target > self._limit:
            limit, self._limit = self._limit, math.inf  # once: cleaning up may take its time
            raise TimeLimit(f"not finished after {limit:g} s of virtual time; {self._waiting()}")
        self._now = max(self._now, target)

    def _waiting(self) -> str:
        places = []
        for task in asyncio.all_tasks(self):
            where = "".join(f" at {f.f_code.co_filename}:{f.f_lineno}" for f in task.get_stack(limit=1))
            places.append(f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')}){where}")
        return "waiting: " + ("; ".join(sorted(places)) or "no task")


def run_virtual(main: Coroutine[Any, Any, T], *, limit: float = 3600.0) -> T:
    """`asyncio.run` in virtual time. `limit` in seconds; raises TimeLimit or Deadlock where a real loop would
    hang.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(limit)) as runner:
        return runner.run(main)
