"""Blocking calls in daemon threads, never in the loop's executor.

`asyncio.run` waits at exit for the executor's threads, and the executor has few (six on two cores): names
that a dead resolver takes 5 s each to refuse would hold up the program's end, and whoever needs a thread.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T], *, daemon: bool = True) -> T:
    """What `function` returns or raises. Cancelling abandons the thread; its result is then dropped.

    The program's end waits for one that is no daemon. It has to where native code comes back for the GIL: Python ends a
    thread that does so too late by unwinding its stack, which Rust answers by aborting the process.
    """
    run, outcome = _carried(function)
    threading.Thread(target=run, daemon=daemon, name="warpgate").start()
    return await outcome


async def imported(name: str) -> None:
    """The module is imported, in a thread if it was not yet: what else the loop has to do goes on."""
    if name not in sys.modules:
        await in_thread(partial(import_module, name), daemon=False)  # some are Rust: see there


class SerialThread:
    """One daemon thread for many blocking calls, one after the other: files, terminals, hashes of what is large."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises. Cancelling does not stop the call; its result is then dropped."""
        run, outcome = _carried(function)
        self._calls.put(run)
        return await outcome

    def close(self, last: Callable[[], None] | None = None) -> None:
        """The thread ends after the calls that wait, and `last`; there must be no others after this."""
        if last is not None:
            self._calls.put(last)
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _carried(function: Callable[[], T]) -> tuple[Callable[[], None], asyncio.Future[T]]:
    """What to run in the thread, and the future that then has the result."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():  # the waiting task was cancelled meanwhile
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]  # None only when T allows it

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:  # noqa: BLE001 - carried over to the waiting task, whatever it is
            error = caught
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    return run, outcome
