"""How a transfer looks while it goes on: a bar on a terminal, objects with --json, else nothing but what matters."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from warpgate.cli.output import Output
from warpgate.cli.terminal import guarded, unguarded
from warpgate.cli.transfer_records import InterruptedShown, OfferedShown, ProgressShown, Skipped
from warpgate.model.text import printable
from warpgate.transfer.reports import Advanced, Announced, Interrupted, LeftOut, Report, Stopped, Transferred

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Seconds between two "progress" objects of one transfer.
PROGRESS_INTERVAL = 0.5
_LONGEST_LABEL = 30

Key = tuple[str, str]  # peer and name


class TransferView:
    """`with TransferView(output) as view`, and `view.watch` as a watcher of transfers."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bars: Bars | None = None
        self._told_at: dict[Key, float] = {}

    def __enter__(self) -> Self:
        if not self._output.json and sys.stderr is not None and sys.stderr.isatty():
            self._bars = make_bars()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is drawn in this block."""
        bars = self._bars
        if bars is not None:
            bars.close()
        try:
            yield
        finally:
            if bars is not None:
                bars.resume()

    def watch(self, report: Report) -> None:
        match report:
            case Announced():
                self._output.show(OfferedShown.of(report))
            case Advanced():
                self._advanced(report)
            case Interrupted():
                self._output.warn(InterruptedShown.of(report))
            case LeftOut(path=path, reason=reason):
                self._output.warn(Skipped(path, reason))
            case Transferred(peer=peer, name=name) | Stopped(peer=peer, name=name):
                self._told_at.pop((peer, name), None)
                if self._bars is not None:
                    self._bars.remove((peer, name))

    def _advanced(self, report: Advanced) -> None:
        key, now = (report.peer, report.name), time.monotonic()
        if self._bars is not None:
            self._bars.update(key, report)
        elif self._output.json and now - self._told_at.get(key, 0.0) >= PROGRESS_INTERVAL:
            self._told_at[key] = now
            self._output.show(ProgressShown.of(report))


class Bars:
    """One line for each transfer, on stderr."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Key, TaskID] = {}
        self.resume()

    def update(self, key: Key, report: Advanced) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task("", total=report.size)
        label = printable(report.current, _LONGEST_LABEL)
        self._progress.update(self._tasks[key], completed=report.done, total=report.size, description=label)

    def remove(self, key: Key) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            self._progress.remove_task(task)

    def resume(self) -> None:
        """Draw. What is printed meanwhile comes out above the bars; it goes through a door as well."""
        self._progress.start()
        sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr)

    def close(self) -> None:
        """Give the screen back, for ever or until `resume`."""
        self._progress.stop()


def make_bars() -> Bars:
    from rich import progress  # noqa: PLC0415 - 60 ms, and only for terminals
    from rich.console import Console  # noqa: PLC0415

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    return Bars(progress.Progress(*columns, console=Console(file=unguarded(sys.stderr)), transient=True))
