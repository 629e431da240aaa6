"""The race: several ways to the same thing at once, the first success wins. It knows nothing of networks.

The shape is that of trio's `open_tcp_stream` (RFC 8305): failures are collected, the first result ends the race, a
second one is discarded. A result may be asked to wait for a better one (`patience`), as a relayed link is.

Two traps of asyncio: a loser may succeed in the very tick in which it is cancelled, so results are discarded by a
synchronous function, wherever they turn up; and cancelling the race must not skip that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")
# How long a loser may take to clean up after its cancellation before the race is over without it.
UNWINDING = 1.0


class RaceLost(Exception):
    """Nobody succeeded; `failures` has every runner's exception by name."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in failures.items()) or "nobody ran")
        self.failures = dict(failures)


def heed(done: asyncio.Future[Any]) -> None:
    """A done callback of what may fail when nobody waits for it any more; else the loop would report that."""
    if not done.cancelled():
        done.exception()


def abandon(task: asyncio.Future[T], discard: Callable[[T], object]) -> None:
    """Cancel it: what it finds all the same is discarded, and why it fails is looked at, as nobody waits any more."""

    def ended(done: asyncio.Future[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            discard(done.result())

    task.add_done_callback(ended)
    task.cancel()


def no_patience(_: object) -> float:
    """Every result wins at once."""
    return 0.0


class Race(Generic[T]):
    """One race; `run` starts all runners in one tick."""

    def __init__(
        self,
        discard: Callable[[T], None],
        patience: Callable[[T], float] = no_patience,
        leader: str | None = None,
    ) -> None:
        """`discard` disposes of a result nobody wants; `patience` says how many seconds one waits for a better one.

        When the runner called `leader` fails, the race is lost: the others only wait for what it may bring about.
        """
        self._leader = leader
        self._discard = discard
        self._patience = patience
        self._failures: dict[str, Exception] = {}
        self._best: tuple[str, T] | None = None
        self._deadline = 0.0
        self._news: asyncio.Future[None] | None = None

    @property
    def won(self) -> bool:
        """Whether somebody has succeeded, who may still wait for a better one."""
        return self._best is not None

    def reconsider(self) -> None:
        """What `patience` goes by has changed: how long a result that waits is to wait from now on is asked again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def run(self, runners: Mapping[str, Callable[[], Awaitable[T]]]) -> tuple[str, T]:
        """The winner's name and result; RaceLost when all failed."""
        tasks: dict[asyncio.Future[T], str] = {
            asyncio.ensure_future(runner()): name for name, runner in runners.items()
        }
        pending = dict(tasks)  # in order, so that the same things always happen in the same order
        try:
            try:
                await self._until_won(pending)
            finally:
                await self._unwind(pending)
        except BaseException:  # of the unwinding as well: the race may be cancelled when it has been won
            if self._best is not None:
                self._discard(self._best[1])
            raise
        failures, self._failures = self._failures, {}  # whose tracebacks may lead to the owner of this race
        if self._best is None:
            raise RaceLost(failures)
        return self._best

    async def _until_won(self, pending: dict[asyncio.Future[T], str]) -> None:
        """Takes from `pending` whatever has been dealt with."""
        while pending:
            self._news = asyncio.get_running_loop().create_future()
            either: list[asyncio.Future[Any]] = [*pending, self._news]
            await asyncio.wait(either, timeout=self._remaining(), return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in pending if task.done()]:
                self._finish(pending.pop(task), task)
            if self._best is not None and self._news.done():
                self._deadline = asyncio.get_running_loop().time() + self._patience(self._best[1])
            if (self._best is not None and self._remaining() == 0.0) or self._leader in self._failures:
                return

    def _remaining(self) -> float | None:
        if self._best is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def _finish(self, name: str, task: asyncio.Future[T]) -> None:
        if task.cancelled():
            self._failures[name] = RuntimeError("cancelled from within")
        elif isinstance(error := task.exception(), Exception):
            self._failures[name] = error
        elif error is not None:
            raise error
        else:
            self._consider(name, task.result())

    def _consider(self, name: str, result: T) -> None:
        deadline = asyncio.get_running_loop().time() + self._patience(result)
        if self._best is None:
            self._best, self._deadline = (name, result), deadline
        elif deadline < self._deadline:
            self._discard(self._best[1])
            self._best, self._deadline = (name, result), deadline
        else:
            self._discard(result)

    async def _unwind(self, pending: Collection[asyncio.Future[T]]) -> None:
        for task in pending:
            abandon(task, self._discard)
        if pending:
            await asyncio.wait(pending, timeout=UNWINDING)


async def first_of(
    runners: Mapping[str, Callable[[], Awaitable[T]]], discard: Callable[[T], None], leader: str | None = None
) -> T:
    """The first success; RaceLost when there is none, or when the leader fails."""
    _, result = await Race(discard, leader=leader).run(runners)
    return result
