"""The pair matrix without a lab: what attempts come to, and how it is written and drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ConfigError, DecodeError
from warpgate.lab.matrix import MOST_ENTRIES, Ask, Attempt, Cell, Design, Matrix, Place, Spent
from warpgate.lab.matrix_picture import COLOURS, draw
from warpgate.lab.matrix_run import measure
from warpgate.lab.steered import Connected
from warpgate.lab.theory import Crossing
from warpgate.model.endpoint import Family

SVG = "{http://www.w3.org/2000/svg}"
KINDS = ("eim", "edm")


def won(plugin: str = "udp_punch", seconds: float = 0.07, *, relayed: bool = False) -> Connected:
    return Connected(plugin=plugin, transport="udp", relayed=relayed, seconds=seconds, echoed=True)


def lost(error: str = "no") -> Connected:
    return Connected(error=error)


def cell(
    *seen: Connected,
    kinds: tuple[str, str] = KINDS,
    ask: Ask = Ask.DATAGRAM,
    family: Family = Family.V4,
    entries: int = 2,
) -> Cell:
    attempts = [Attempt(one, Spent(10, n, entries * n), Spent(n, 0, 0)) for n, one in enumerate(seen)]
    return Cell.of(Place(family, ask, *kinds), attempts)


def design(*asks: Ask, kinds: tuple[str, ...] = KINDS, kinds6: tuple[str, ...] = ()) -> Design:
    return Design(kinds, kinds6, asks or (Ask.DATAGRAM,), 3, True, 15.0)


def matrix(*cells: Cell, kinds: tuple[str, ...] = KINDS) -> Matrix:
    asks = tuple(dict.fromkeys(cell.ask for cell in cells))
    return Matrix.of(design(*asks, kinds=kinds), 0.040, cells)


class TestCell:
    def test_times_and_costs(self) -> None:
        found = cell(won(seconds=0.1), won(seconds=0.3), won("turn", 0.2, relayed=True))
        assert (found.connected, found.direct, found.count, found.failures) == (3, 2, 3, ())
        assert (found.winner, found.transport, found.relayed) == ("udp_punch", "udp", False)
        assert (found.seconds, found.worst) == (0.2, 0.3)
        assert (found.packets, found.mappings, found.flows, found.entries) == (11, 1, 2, 3)
        assert found.most_entries == 4

    def test_failures_have_reasons_and_no_part_in_the_times(self) -> None:
        found = cell(won(), lost("no answer"), Connected(plugin="direct", seconds=9.0))
        assert (found.connected, found.count) == (1, 3)
        assert (found.seconds, found.worst) == (0.07, 0.07)
        assert found.failures == ("no answer", "connected, but no echo came back")

    def test_nothing_connected(self) -> None:
        found = cell(lost(), lost())
        assert (found.connected, found.winner, found.relayed) == (0, "", False)
        assert found.seconds is found.worst is None
        assert found.packets == 10

    def test_spent_is_a_difference(self) -> None:
        assert Spent(9, 8, 7).since(Spent(4, 2, 0)) == Spent(5, 6, 7)


RELAYED = won("turn", 0.3, relayed=True)


class TestProblems:
    @pytest.mark.parametrize(
        ("kinds", "seen", "told"),
        [
            (("eim", "eim"), [won(), won(), won()], None),
            (("eim", "eim"), [won(), won(), RELAYED], "1 of 3 relayed, though theory crosses it (direct)"),
            (("eim", "eim"), [won(), won(), lost()], "2 of 3 connected"),
            (("eim", "edm"), [won(), won(), RELAYED], None),
            (("eim", "edm"), [won(), RELAYED, RELAYED], "2 of 3 relayed, though theory crosses it (guess)"),
            (("edm", "edm"), [RELAYED] * 3, None),
            (("edm", "edm"), [RELAYED, RELAYED, won()], None),  # a stroke of luck
            (("edm", "edm"), [won()] * 3, "3 of 3 direct, which theory rules out"),
        ],
    )
    def test_a_cell_against_theory(self, kinds: tuple[str, str], seen: list[Connected], told: str | None) -> None:
        assert cell(*seen, kinds=kinds).problems() == (() if told is None else (told,))

    @pytest.mark.parametrize(
        ("kinds", "seen", "held"),
        [
            (("eim", "eim"), [won(), won(), lost()], False),
            (("eim", "edm"), [won(), won(), lost()], True),
            (("eim", "edm"), [won(), lost(), lost()], False),
            (("edm", "edm"), [lost()] * 3, True),
        ],
    )
    def test_without_a_relay(self, kinds: tuple[str, str], seen: list[Connected], held: bool) -> None:
        assert (cell(*seen, kinds=kinds).problems(relay=False) == ()) is held

    def test_a_connect_that_costs_too_much(self) -> None:
        (told,) = cell(won(), won(), entries=MOST_ENTRIES + 1).problems()
        assert f"the budget is {MOST_ENTRIES}" in told

    def test_of_a_whole_matrix(self) -> None:
        bad = cell(lost(), lost())
        made = matrix(bad, cell(won(), kinds=("eim", "eim")))
        assert made.problems() == ((bad, ("0 of 2 connected",)),)

    def test_either_transport_is_as_good_as_the_better(self) -> None:
        assert Place(Family.V4, Ask.TCP, "eim", "edm").expected is Crossing.RELAY
        assert Place(Family.V4, Ask.STREAM, "eim", "edm").expected is Crossing.GUESS


class TestDesign:
    def test_places_are_panel_by_panel_and_row_by_row(self) -> None:
        places = design(Ask.DATAGRAM, Ask.TCP, kinds6=("public",)).places()
        assert [(p.family, p.ask, p.initiator, p.responder) for p in places[:2]] == [
            (Family.V4, Ask.DATAGRAM, "eim", "eim"),
            (Family.V4, Ask.DATAGRAM, "eim", "edm"),
        ]
        assert len(places) == 2 * 4 + 2 * 1
        assert {place.family for place in places[8:]} == {Family.V6}

    def test_a_matrix_in_the_making_has_its_cells_in_order(self) -> None:
        first, last = cell(won(), kinds=("eim", "eim")), cell(won(), kinds=("edm", "edm"))
        stray = cell(won(), kinds=("cgn", "eim"))
        assert Matrix.of(design(), 0.04, [last, stray, first]).cells == (first, last)

    @pytest.mark.parametrize(
        ("kinds", "kinds6", "count"),
        [
            ((), (), 1),
            (("eim", "eim"), (), 1),
            (("conical",), (), 1),
            (("eim",), (), 0),
            ((), ("edm",) * 2, 1),
        ],
    )
    async def test_what_cannot_be_measured(self, kinds: tuple[str, ...], kinds6: tuple[str, ...], count: int) -> None:
        with pytest.raises(ConfigError):
            await measure(Design(kinds, kinds6, (Ask.TCP,), count, True, 15.0))

    async def test_what_is_known_is_not_measured_again(self) -> None:
        """Without a lab: there is nothing to measure."""
        known = cell(won(), kinds=("eim", "eim"))
        said: list[Cell] = []
        found = await measure(design(kinds=("eim",)), known=[known], report=said.append)
        assert (found.cells, said) == ((known,), [])


class TestJson:
    def test_there_and_back(self) -> None:
        made = matrix(cell(won()), cell(lost("\u2603"), ask=Ask.STREAM))
        assert Matrix.from_json(made.to_json()) == made
        assert b'"winner": "udp_punch"' in made.to_json()

    @given(st.binary() | st.text().map(str.encode))
    def test_garbage_is_told(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            Matrix.from_json(data)


class TestPicture:
    def test_a_cell_says_what_happened(self) -> None:
        texts, marks = drawn(matrix(cell(won(seconds=0.0714), won(seconds=0.0706))))
        assert {"0.07", "udp", "udp_punch"} <= texts
        assert COLOURS["udp_punch"][0] in marks
        assert not marks & {"url(#hatch)", "cross", "badge", "wrong"}

    def test_a_relayed_one_is_hatched(self) -> None:
        texts, marks = drawn(matrix(cell(won("turn", 1.0019, relayed=True), kinds=("edm", "edm"))))
        assert {"1.0", "turn", "relayed"} <= texts
        assert "url(#hatch)" in marks
        assert not marks & {"wrong", "guess"}

    def test_one_that_theory_would_cross_is_framed(self) -> None:
        texts, marks = drawn(matrix(cell(won("turn", 15.004, relayed=True))))
        assert {"15", "not as it should be"} <= texts
        assert "wrong" in marks
        assert any("though theory crosses it" in text for text in texts)

    def test_one_that_was_guessed_is_dashed(self) -> None:
        texts, marks = drawn(matrix(cell(won("random_probe", 2.31))))
        assert {"2.3", "guess", "a port to guess"} <= texts
        assert "guess" in marks

    def test_a_failed_one_is_crossed_out(self) -> None:
        texts, marks = drawn(matrix(cell(*[lost("no & <never>")] * 2)))
        assert {"0 of 2", "no pipe"} <= texts
        assert "cross" in marks
        assert "2 x no & <never>" in " ".join(texts)

    def test_one_that_fails_at_times_has_a_badge(self) -> None:
        texts, marks = drawn(matrix(cell(won(), won(), lost())))
        assert {"2/3", "not every time"} <= texts
        assert "badge" in marks

    def test_a_strategy_it_has_never_heard_of(self) -> None:
        assert {"<carrier pigeon>", "<carrier", "0.07"} <= drawn(matrix(cell(won("<carrier pigeon>"))))[0]

    def test_rows_are_initiators(self) -> None:
        """The cell from eim to edm stands beside the row's label and below the column's."""
        root = ElementTree.fromstring(draw(matrix(cell(won()))))
        label = {}
        for text in root.iter(f"{SVG}text"):
            label.setdefault(text.text, []).append((float(text.get("x", 0)), float(text.get("y", 0))))
        group = next(g for g in root.iter(f"{SVG}g") if (g.findtext(f"{SVG}title") or "").startswith("eim to edm"))
        x, y = map(float, re.findall(r"[\d.]+", group.get("transform", "")))
        row, column = min(label["eim"]), max(label["edm"])
        assert row[0] < x < column[0] < x + 50
        assert y < row[1] < y + 34
        assert column[1] < y

    @pytest.mark.parametrize(
        "kinds", [("eim",), ("eim-apdf-seq--12+hairpin", "edm", "adm", "cgn", "public", "edm-adf-block+rst")]
    )
    def test_nothing_hangs_over_the_edge_nor_lies_on_another(self, kinds: tuple[str, ...]) -> None:
        asks, families = (Ask.DATAGRAM, Ask.TCP), tuple(Family)
        cells = [
            cell(won(), kinds=(a, b), ask=ask, family=family)
            for family in families
            for ask in asks
            for a in kinds
            for b in kinds
        ]
        made = Matrix.of(design(*asks, kinds=kinds, kinds6=kinds), 0.04, cells)
        root = ElementTree.fromstring(draw(made))
        width, height = float(root.get("width", 0)), float(root.get("height", 0))
        places = [tuple(map(float, re.findall(r"[\d.]+", transform))) for transform in transforms(root)]
        drawn_cells = places[-len(cells) :]
        assert len(set(drawn_cells)) == len(cells)
        assert all(0 < x < width - 50 and 0 < y < height - 34 for x, y in drawn_cells)
        assert all(
            abs(x - u) >= 50 or abs(y - v) >= 34 for n, (x, y) in enumerate(drawn_cells) for u, v in drawn_cells[:n]
        )


def drawn(made: Matrix) -> tuple[set[str], set[str]]:
    """The words in the picture, and the fills and classes of its shapes (those of definitions aside)."""
    root = ElementTree.fromstring(draw(made))
    shapes = [element for element in root.iter() if element.tag != f"{SVG}pattern"]
    words = {element.text for element in shapes if element.text}
    return words, {mark for element in shapes for mark in (element.get("fill"), element.get("class")) if mark}


def transforms(root: ElementTree.Element) -> Iterator[str]:
    for group in root.iter(f"{SVG}g"):
        yield group.get("transform", "")
