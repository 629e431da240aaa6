"""`warpgate lab matrix`: what is asked for, what is printed and written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from warpgate.cli.lab_matrix import HEADING, CellShown, Plan
from warpgate.cli.main import main
from warpgate.cli.options import CommonOptions
from warpgate.cli.parser import build_parser
from warpgate.lab.matrix import DEFAULT_KINDS, Cell, Matrix
from warpgate.model.endpoint import Mode

FAILED = Cell(
    "eim", "edm", Mode.STREAM, 3, 0, "", "", False, None, None, 90, 8, 9, ("no way", "no way", "no echo")
)
RELAYED = Cell("eim", "edm", Mode.DATAGRAM, 3, 3, "turn", "udp", True, 1.0019, 1.0302, 48, 3, 4, ())


def plan(*words: str) -> tuple[Plan, CommonOptions]:
    arguments = build_parser().parse_args(["lab", "matrix", *words])
    return Plan.of(arguments), CommonOptions.gather(arguments)


def test_what_is_measured_unless_told_otherwise() -> None:
    usual, common = plan()
    assert usual.kinds == DEFAULT_KINDS
    assert set(usual.modes) == set(Mode)
    assert (usual.relay, usual.json_file, usual.svg_file, common.json) == (True, None, None, None)


def test_what_was_asked_for() -> None:
    asked, _ = plan(
        "--kinds", "eim, edm+rst,eim", "--modes", "stream", "--count", "7", "--svg", "s", "--no-relay"
    )
    assert asked == Plan(("eim", "edm+rst"), (Mode.STREAM,), 7, False, None, Path("s"))


@pytest.mark.parametrize(
    ("words", "file", "lines"),
    [(("--json",), None, True), (("--json", "f"), Path("f"), None), (("--json", "--svg", "s"), None, True)],
)
def test_json_is_a_file_or_the_form_of_the_lines(words, file, lines) -> None:
    asked, common = plan(*words)
    assert (asked.json_file, common.json) == (file, lines)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--kinds", "conical"), 2, "conical"),
        (("--modes", "stream,telegram"), 2, "telegram"),
        (("--count", "0"), 2, "--count"),
        (("--svg", "no/such/folder/matrix.svg"), 1, "no/such/folder"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused(words, status, says, capsys) -> None:
    assert main(["lab", "matrix", *words]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert says in captured.err


def test_rows_stand_below_their_headings() -> None:
    row = CellShown.of(RELAYED).text()
    assert row.split() == [
        "datagram",
        "eim",
        "edm",
        "turn",
        "3",
        "of",
        "3",
        "1001.9",
        "ms",
        "1030.2",
        "ms",
        "48",
        "7",
    ]
    for heading, value in (("winner", "turn"), ("to", "edm")):
        assert HEADING.index(f" {heading} ") == row.index(f" {value} ")
    for heading, value in (
        ("connected", "3 of 3"),
        ("median", "1001.9 ms"),
        ("packets", "48"),
        ("entries", "7"),
    ):
        assert HEADING.index(heading) + len(heading) == row.rindex(value) + len(value)


def test_each_reason_is_told_once() -> None:
    row, *reasons = CellShown.of(FAILED).text().splitlines()
    assert "0 of 3" in row
    assert reasons == ["    2 x no way", "    1 x no echo"]


@pytest.mark.lab
def test_two_kinds_in_the_lab(tmp_path) -> None:
    svg, file = tmp_path / "m.svg", tmp_path / "m.json"
    command = [sys.executable, "-m", "warpgate", "--json", "lab", "matrix", "--kinds", "public,eim-apdf"]
    command += ["--count", "1", "--json", str(file), "--svg", str(svg)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode and "the lab needs" in lines[-1]["error"]:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(lines[-1]["error"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["event"] for line in lines] == ["cell"] * 8 + ["matrix"]
    assert lines[-1]["connected"] == 8, done.stdout
    matrix = Matrix.from_json(file.read_bytes())
    ways = {(cell.initiator, cell.responder, cell.mode.value): cell for cell in matrix.cells}
    assert len(ways) == 8
    for (initiator, responder, mode), cell in ways.items():
        if responder == "public":
            assert cell.winner == "direct"
        elif initiator == "eim-apdf":
            assert cell.winner == "udp_punch" if mode == "datagram" else cell.winner
        assert not cell.relayed
        assert (cell.entries > 0) == (initiator != "public" or responder != "public")
        assert cell.packets > 5
    assert ElementTree.fromstring(svg.read_text()).tag.endswith("svg")
