"""The one owner of a node's background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from warpgate.errors import ConfigError, WarpgateError


def running_loop() -> asyncio.AbstractEventLoop:
    """ConfigError where none runs: plain code, another thread, or trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError("no asyncio event loop runs here: call this from a coroutine under asyncio.run()") from None


class Tasks:
    """Tasks that end with their owner. Errors of ours end a task quietly; others reach the loop's exception handler."""

    def __init__(self, on_failure: Callable[[str, WarpgateError], None], within: Tasks | None = None) -> None:
        """`within`: a longer-lived owner, whose `close` ends and awaits these tasks, too."""
        self._on_failure = on_failure
        self._within = within
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order of their start
        self._closed = False

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run until it ends or `close`; None (and the coroutine is dropped) when already closed."""
        if self._closed or (self._within is not None and self._within._closed):
            coroutine.close()
            return None
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        if self._within is not None:
            self._within._tasks[task] = None
            task.add_done_callback(self._within._drop)
        return task

    def _drop(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._drop(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, WarpgateError):
            self._on_failure(task.get_name(), error)
        elif error is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"warpgate task {task.get_name()!r} crashed", "exception": error, "task": task}
            )

    def cancel(self) -> None:
        """Cancel all but the calling one, without waiting; nothing can be spawned afterwards."""
        self._closed = True
        for task in self._others():
            task.cancel()

    async def close(self) -> None:
        """Cancel all but the calling one and wait until they are done; nothing can be spawned afterwards."""
        self.cancel()
        if tasks := self._others():
            await asyncio.wait(tasks)

    def _others(self) -> list[asyncio.Task[None]]:
        current = asyncio.current_task()
        return [task for task in self._tasks if task is not current]
