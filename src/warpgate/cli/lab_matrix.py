"""`warpgate lab matrix`: connect every kind of site to every other one, and tell what won and what it cost.

warpgate lab matrix --json matrix.json --svg matrix.svg
warpgate lab matrix --kinds eim-apdf,edm --modes datagram --count 5
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from warpgate.cli.options import UsageError
from warpgate.cli.records import Record, milliseconds
from warpgate.cli.shell import Shell
from warpgate.errors import ConfigError, DecodeError
from warpgate.lab.kinds import kind_of
from warpgate.lab.matrix import Ask, Cell, Design, Matrix
from warpgate.lab.matrix_picture import draw
from warpgate.lab.matrix_run import (
    DEFAULT_ASKS,
    DEFAULT_COUNT,
    DEFAULT_KINDS,
    DEFAULT_KINDS6,
    RELAY_PATIENCE,
    ROUND_TRIP,
    measure,
)
from warpgate.lazy_dataclass import dataclass

ROW = "{:4} {:9} {:18} {:18} {:14} {:7} {:>9} {:>11} {:>11} {:>8} {:>8}"
HEADING = ROW.format(
    "IPv", "mode", "from", "to", "winner", "theory", "connected", "median", "slowest", "packets", "entries"
).rstrip()


@dataclass(frozen=True, slots=True)
class CellShown(Record):
    """One cell, with its own fields in JSON, and what is wrong with it."""

    event = "cell"
    cell: Cell
    problems: tuple[str, ...]

    def members(self) -> dict[str, Any]:
        cell = self.cell
        told = {"ask": cell.ask.value, "expected": cell.expected.value}
        return {**asdict(cell), **told, "problems": self.problems}

    def text(self) -> str:
        cell = self.cell
        row = ROW.format(
            cell.family,
            cell.ask.value,
            cell.initiator,
            cell.responder,
            cell.winner + (" (relay)" if cell.relayed and cell.winner != "turn" else "") or "-",
            cell.expected.value,
            f"{cell.connected} of {cell.count}",
            "-" if cell.seconds is None else milliseconds(cell.seconds),
            "-" if cell.worst is None else milliseconds(cell.worst),
            cell.packets,
            cell.entries,
        )
        reasons = (f"{number} x {reason}" for reason, number in Counter(cell.failures).items())
        return "\n    ".join((row, *(f"WRONG: {problem}" for problem in self.problems), *reasons))


@dataclass(frozen=True, slots=True)
class MatrixDone(Record):
    """The end of the run, and where it was written ("" for nowhere)."""

    event = "matrix"
    cells: int
    connected: int
    wrong: int
    seconds: float
    json_file: str
    svg_file: str

    def text(self) -> str:
        files = " and ".join(file for file in (self.json_file, self.svg_file) if file)
        wrong = f", {self.wrong} not as they should be" if self.wrong else ""
        return f"\n{self.connected} of {self.cells} connected{wrong}, in {self.seconds / 60:.0f} min" + (
            f"; written to {files}" if files else ""
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and where to write it (None: nowhere); `resume`: what is there already is kept."""

    design: Design
    json_file: Path | None
    svg_file: Path | None
    resume: bool

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        """Raises UsageError for kinds and modes that do not exist."""
        kinds, kinds6 = _words(arguments.kinds), _words(arguments.kinds6)
        if not kinds and not kinds6:
            kinds, kinds6 = DEFAULT_KINDS, DEFAULT_KINDS6
        try:
            for kind in (*kinds, *kinds6):
                kind_of(kind)
            asks = tuple(Ask(word) for word in _words(arguments.modes)) or DEFAULT_ASKS
        except ConfigError as error:
            raise UsageError(f"--kinds: {error}") from error
        except ValueError:
            known = ", ".join(ask.value for ask in Ask)
            raise UsageError(f"--modes: {arguments.modes!r} has something else than {known}") from None
        patience = RELAY_PATIENCE if arguments.relay_patience is None else arguments.relay_patience
        if arguments.resume and arguments.json_file is None:
            raise UsageError("--resume needs --json FILE, to go on from")
        return cls(
            Design(kinds, kinds6, asks, arguments.count or DEFAULT_COUNT, not arguments.no_relay, patience),
            json_file=_file(arguments.json_file),
            svg_file=_file(arguments.svg_file),
            resume=arguments.resume,
        )

    def known(self) -> tuple[Cell, ...]:
        """The cells of an earlier run. ConfigError when the file holds something else, or another design's."""
        if not self.resume or self.json_file is None or not self.json_file.exists():
            return ()
        try:
            earlier = Matrix.from_json(self.json_file.read_bytes())
        except DecodeError as error:
            raise ConfigError(f"{self.json_file}: {error}") from error
        ours, same = self.design, earlier.design
        if replace(same, kinds=ours.kinds, kinds6=ours.kinds6, asks=ours.asks) != ours:
            raise ConfigError(f"{self.json_file} was measured with another --count, relay or patience")
        return Matrix.of(ours, ROUND_TRIP, earlier.cells).cells


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    plan = Plan.of(arguments)
    known = plan.known()
    for file in (plan.json_file, plan.svg_file):
        if file is not None:
            file.open("a").close()  # an OSError now rather than after minutes of work
    return shell.run(_run(plan, known, shell))


async def _run(plan: Plan, known: tuple[Cell, ...], shell: Shell) -> int:
    design, cells, began = plan.design, list(known), time.monotonic()

    def report(cell: Cell) -> None:
        cells.append(cell)
        shell.output.show(CellShown(cell, cell.problems(relay=design.relay)))
        _write_json(plan, Matrix.of(design, ROUND_TRIP, cells))  # for --resume, should we be stopped

    shell.output.heading(HEADING)
    matrix = await measure(design, known=known, report=report)
    _write_json(plan, matrix)
    if plan.svg_file is not None:
        plan.svg_file.write_text(draw(matrix), encoding="utf-8")
    wrong = matrix.problems()
    shell.output.show(
        MatrixDone(
            cells=len(matrix.cells),
            connected=sum(cell.connected == cell.count for cell in matrix.cells),
            wrong=len(wrong),
            seconds=time.monotonic() - began,
            json_file=str(plan.json_file or ""),
            svg_file=str(plan.svg_file or ""),
        )
    )
    return 1 if wrong else 0


def _write_json(plan: Plan, matrix: Matrix) -> None:
    """Whole or not at all."""
    if plan.json_file is not None:
        fresh = plan.json_file.with_name(plan.json_file.name + ".new")
        fresh.write_bytes(matrix.to_json())
        os.replace(fresh, plan.json_file)


def _words(text: str | None) -> tuple[str, ...]:
    """Comma-separated, each once."""
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def _file(name: str | None) -> Path | None:
    return None if name is None else Path(name)
