"""The pair matrix without a lab: what attempts come to, and how it is written and drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ConfigError, DecodeError
from warpgate.lab.matrix import Attempt, Cell, Matrix, measure
from warpgate.lab.matrix_picture import COLOURS, draw
from warpgate.lab.steered import Connected
from warpgate.model.endpoint import Mode

SVG = "{http://www.w3.org/2000/svg}"


def won(plugin: str = "udp_punch", seconds: float = 0.07, *, relayed: bool = False) -> Connected:
    return Connected(plugin=plugin, transport="udp", relayed=relayed, seconds=seconds, echoed=True)


def cell(*seen: Connected, kinds: tuple[str, str] = ("eim", "edm"), mode: Mode = Mode.DATAGRAM) -> Cell:
    return Cell.of(*kinds, mode, [Attempt(one, 10 + n, n, 2 * n) for n, one in enumerate(seen)])


def matrix(*cells: Cell, kinds: tuple[str, ...] = ("eim", "edm")) -> Matrix:
    modes = tuple(dict.fromkeys(cell.mode for cell in cells))
    return Matrix(kinds, modes, 3, 0.040, cells)


class TestCell:
    def test_times_and_costs(self) -> None:
        found = cell(won(seconds=0.1), won(seconds=0.3), won("turn", 0.2, relayed=True))
        assert (found.connected, found.count, found.failures) == (3, 3, ())
        assert (found.winner, found.transport, found.relayed) == ("udp_punch", "udp", False)
        assert (found.seconds, found.worst) == (0.2, 0.3)
        assert (found.packets, found.mappings, found.flows, found.entries) == (11, 1, 2, 3)

    def test_failures_have_reasons_and_no_part_in_the_times(self) -> None:
        found = cell(won(), Connected(error="no answer"), Connected(plugin="direct", seconds=9.0))
        assert (found.connected, found.count) == (1, 3)
        assert (found.seconds, found.worst) == (0.07, 0.07)
        assert found.failures == ("no answer", "connected, but no echo came back")

    def test_nothing_connected(self) -> None:
        found = cell(Connected(error="no"), Connected(error="no"))
        assert (found.connected, found.winner, found.relayed) == (0, "", False)
        assert found.seconds is found.worst is None
        assert found.packets == 10

    @pytest.mark.parametrize(
        ("kinds", "count"), [((), 1), (("eim", "eim"), 1), (("conical",), 1), (("eim",), 0)]
    )
    async def test_what_cannot_be_measured(self, kinds: tuple[str, ...], count: int) -> None:
        with pytest.raises(ConfigError):
            await measure(kinds, count=count)


class TestJson:
    def test_there_and_back(self) -> None:
        made = matrix(cell(won()), cell(Connected(error="\u2603"), mode=Mode.STREAM))
        assert Matrix.from_json(made.to_json()) == made
        assert b'"winner": "udp_punch"' in made.to_json()

    @given(st.binary() | st.text().map(str.encode))
    def test_garbage_is_told(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            Matrix.from_json(data)


class TestPicture:
    def test_a_cell_says_what_happened(self) -> None:
        texts, marks = drawn(matrix(cell(won(seconds=0.0714), won(seconds=0.0706))))
        assert {"71", "udp_punch"} <= texts
        assert COLOURS["udp_punch"][0] in marks
        assert not marks & {"url(#hatch)", "cross", "badge"}

    def test_a_relayed_one_is_hatched(self) -> None:
        texts, marks = drawn(matrix(cell(won("turn", 1.0019, relayed=True))))
        assert {"1002", "turn", "relayed"} <= texts
        assert "url(#hatch)" in marks

    def test_a_failed_one_is_crossed_out(self) -> None:
        texts, marks = drawn(matrix(cell(*[Connected(error="no & <never>")] * 2)))
        assert {"0 of 2", "no pipe"} <= texts
        assert "cross" in marks
        assert "2 x no & <never>" in " ".join(texts)

    def test_one_that_fails_at_times_has_a_badge(self) -> None:
        texts, marks = drawn(matrix(cell(won(), won(), Connected(error="no"))))
        assert {"2/3", "not every time"} <= texts
        assert "badge" in marks

    def test_a_strategy_it_has_never_heard_of(self) -> None:
        assert {"<carrier pigeon>", "70"} <= drawn(matrix(cell(won("<carrier pigeon>"))))[0]

    def test_rows_are_initiators(self) -> None:
        """The cell from eim to edm stands beside the row's label and below the column's."""
        root = ElementTree.fromstring(draw(matrix(cell(won()))))
        label = {}
        for text in root.iter(f"{SVG}text"):
            label.setdefault(text.text, []).append((float(text.get("x", 0)), float(text.get("y", 0))))
        group = next(
            g for g in root.iter(f"{SVG}g") if (g.findtext(f"{SVG}title") or "").startswith("eim to edm")
        )
        x, y = map(float, re.findall(r"[\d.]+", group.get("transform", "")))
        row, column = min(label["eim"]), max(label["edm"])
        assert row[0] < x < column[0]
        assert y < row[1] < y + 46
        assert column[1] < y

    @pytest.mark.parametrize("kinds", [("eim",), tuple(f"a-rather-long-kind-{n}" for n in range(9))])
    def test_nothing_hangs_over_the_edge(self, kinds: tuple[str, ...]) -> None:
        cells = [
            cell(won(), kinds=(a, b), mode=mode) for mode in Mode for a in kinds for b in reversed(kinds)
        ]
        root = ElementTree.fromstring(draw(matrix(*cells, kinds=kinds)))
        width, height = float(root.get("width", 0)), float(root.get("height", 0))
        places = [tuple(map(float, re.findall(r"[\d.]+", transform))) for transform in transforms(root)]
        assert len(set(places)) == len(places) >= 2 * len(kinds) ** 2
        assert all(0 < x < width - 60 and 0 < y < height - 46 for x, y in places)


def drawn(made: Matrix) -> tuple[set[str], set[str]]:
    """The words in the picture, and the fills and classes of its shapes (those of definitions aside)."""
    root = ElementTree.fromstring(draw(made))
    shapes = [element for element in root.iter() if element.tag != f"{SVG}pattern"]
    words = {element.text for element in shapes if element.text}
    return words, {mark for element in shapes for mark in (element.get("fill"), element.get("class")) if mark}


def transforms(root: ElementTree.Element) -> Iterator[str]:
    for group in root.iter(f"{SVG}g"):
        yield group.get("transform", "")
