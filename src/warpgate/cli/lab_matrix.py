"""`warpgate lab matrix`: connect every kind of site to every other one, and tell what won and what it cost.

warpgate lab matrix
warpgate lab matrix --kinds eim-apdf,edm --modes datagram --count 5 --svg matrix.svg
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from warpgate.cli.options import UsageError
from warpgate.cli.records import Record, milliseconds
from warpgate.cli.shell import Shell
from warpgate.errors import ConfigError
from warpgate.lab.kinds import kind_of
from warpgate.lab.matrix import DEFAULT_COUNT, DEFAULT_KINDS, DEFAULT_MODES, Cell, Matrix, measure
from warpgate.lab.matrix_picture import draw
from warpgate.model.endpoint import Mode

ROW = "{:10} {:16} {:16} {:14} {:>9} {:>11} {:>11} {:>8} {:>8}"
HEADING = ROW.format(
    "mode", "from", "to", "winner", "connected", "median", "slowest", "packets", "entries"
).rstrip()


@dataclass(frozen=True, slots=True)
class CellShown(Record):
    """One cell as `lab.matrix.Cell` has it; times in seconds, None when no connect succeeded."""

    event = "cell"
    initiator: str
    responder: str
    mode: str
    count: int
    connected: int
    winner: str
    transport: str
    relayed: bool
    seconds: float | None
    worst: float | None
    packets: int
    mappings: int
    flows: int
    failures: tuple[str, ...]

    @classmethod
    def of(cls, cell: Cell) -> CellShown:
        return cls(**{**asdict(cell), "mode": cell.mode.value})

    def text(self) -> str:
        row = ROW.format(
            self.mode,
            self.initiator,
            self.responder,
            self.winner + (" (relay)" if self.relayed and self.winner != "turn" else "") or "-",
            f"{self.connected} of {self.count}",
            "-" if self.seconds is None else milliseconds(self.seconds),
            "-" if self.worst is None else milliseconds(self.worst),
            self.packets,
            self.mappings + self.flows,
        )
        reasons = Counter(self.failures).items()
        return "\n".join((row, *(f"    {number} x {reason}" for reason, number in reasons)))


@dataclass(frozen=True, slots=True)
class MatrixDone(Record):
    """The end of the run, and where it was written ("" for nowhere)."""

    event = "matrix"
    cells: int
    connected: int
    json_file: str
    svg_file: str

    def text(self) -> str:
        files = " and ".join(file for file in (self.json_file, self.svg_file) if file)
        return f"\n{self.connected} of {self.cells} connected" + (f"; written to {files}" if files else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and where to write it (None: nowhere)."""

    kinds: tuple[str, ...]
    modes: tuple[Mode, ...]
    count: int
    relay: bool
    json_file: Path | None
    svg_file: Path | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        """Raises UsageError for kinds and modes that do not exist."""
        kinds = _words(arguments.kinds) or DEFAULT_KINDS
        try:
            for kind in kinds:
                kind_of(kind)
            modes = tuple(Mode(word) for word in _words(arguments.modes)) or DEFAULT_MODES
        except ConfigError as error:
            raise UsageError(f"--kinds: {error}") from error
        except ValueError:
            raise UsageError(f"--modes: {arguments.modes!r} is not datagram, stream or both") from None
        return cls(
            kinds=kinds,
            modes=modes,
            count=arguments.count or DEFAULT_COUNT,
            relay=not arguments.no_relay,
            json_file=_file(arguments.json_file),
            svg_file=_file(arguments.svg_file),
        )


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    plan = Plan.of(arguments)
    for file in (plan.json_file, plan.svg_file):
        if file is not None:
            file.open("a").close()  # an OSError now rather than after minutes of work
    return shell.run(_run(plan, shell))


async def _run(plan: Plan, shell: Shell) -> int:
    shell.output.heading(HEADING)
    matrix = await measure(
        plan.kinds,
        plan.modes,
        plan.count,
        relay=plan.relay,
        report=lambda cell: shell.output.show(CellShown.of(cell)),
    )
    _write(plan, matrix)
    connected = sum(cell.connected > 0 for cell in matrix.cells)
    files = (str(file or "") for file in (plan.json_file, plan.svg_file))
    shell.output.show(MatrixDone(len(matrix.cells), connected, *files))
    return 0


def _write(plan: Plan, matrix: Matrix) -> None:
    if plan.json_file is not None:
        plan.json_file.write_bytes(matrix.to_json())
    if plan.svg_file is not None:
        plan.svg_file.write_text(draw(matrix), encoding="utf-8")


def _words(text: str | None) -> tuple[str, ...]:
    """Comma-separated, each once."""
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def _file(name: str | None) -> Path | None:
    return None if name is None else Path(name)
