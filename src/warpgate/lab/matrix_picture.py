"""The pair matrix as a picture: rows are what the initiator is behind, columns the responder; a panel for each family
and ask.

Colour and a short word say which strategy won, the number is the median time in seconds, hatching means relayed, a
dashed frame that a port had to be guessed, a red cross that no connect succeeded, a red frame that the cell is not as
it should be. SVG written by hand: a picture of rectangles and words needs no library.
"""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import Final

from warpgate.lab.matrix import Ask, Cell, Matrix, Panel
from warpgate.lab.theory import Crossing
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Family

# Okabe and Ito's palette, which colour-blind people can tell apart; black or white text as it reads better on it.
COLOURS: Final = {
    "direct": ("#009e73", "#ffffff"),
    "reverse": ("#56b4e9", "#10202c"),
    "udp_punch": ("#0067a5", "#ffffff"),
    "tcp_punch": ("#cc79a7", "#2a0f1f"),
    "random_probe": ("#e69f00", "#2b1d00"),
    "turn": ("#b0b5bb", "#111111"),
}
OTHER: Final = ("#d9d2c5", "#222222")  # a third party's strategy
SHORT: Final = {"udp_punch": "udp", "tcp_punch": "tcp", "random_probe": "guess"}
LONGEST: Final = 8  # letters of a word in a cell
ASKS: Final = {
    Ask.DATAGRAM: "datagrams over UDP",
    Ask.TCP: "streams over TCP",
    Ask.STREAM: "streams over either",
}

CELL_HEIGHT: Final = 34
CELL_WIDTH: Final = 50
LETTER: Final = 6.7  # width of a letter of 12 px, generously
MARGIN: Final = 22
GAP: Final = 34  # between panels
TOP: Final = 84  # title and legend
BOTTOM: Final = 34
SLOPE: Final = 0.72  # of a column's label, which rises at 45 degrees: its height for each pixel of its length

# The colours follow the reader's preference; the picture brings its own background, so that it is readable anyhow.
STYLE: Final = """
svg { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
.ground { fill: #ffffff; } .title { font-size: 19px; font-weight: 600; } .ink { fill: #1b1f24; }
.soft { fill: #57606a; } .label { font-size: 12px; } .panel { font-size: 14px; font-weight: 600; }
.number { font-size: 14px; font-weight: 600; } .unit { font-size: 9px; } .failed { fill: #f6e3e1; }
.cross { stroke: #c4271b; stroke-width: 3; stroke-linecap: round; } .bad { fill: #c4271b; font-weight: 700; }
.badge { fill: #c4271b; } .badge-text { fill: #ffffff; font-size: 9px; font-weight: 700; }
.wrong { fill: none; stroke: #c4271b; stroke-width: 3; }
.guess { fill: none; stroke: #1b1f24; stroke-opacity: 0.75; stroke-width: 1.2; stroke-dasharray: 3 2.4; }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; } .ink { fill: #e6edf3; } .soft { fill: #9aa4af; } .failed { fill: #34191a; }
.cross { stroke: #ff7b72; } .bad { fill: #ff7b72; } .wrong { stroke: #ff7b72; }
}
"""
HATCH: Final = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2.6" height="7" fill="#ffffff" fill-opacity="0.4"/></pattern></defs>'
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, in pixels: panels side by side while they fit into `wide`, then below each other."""

    label_width: float
    label_height: float
    places: tuple[tuple[Panel, float, float], ...]  # of the first cell's corner
    width: float
    height: float

    @classmethod
    def of(cls, matrix: Matrix) -> Layout:
        panels = matrix.design.panels
        longest = max(len(kind) for panel in panels for kind in panel.kinds) * LETTER
        label_width, label_height = longest + 16, longest * SLOPE + 40
        # As wide as the widest panel, and wide enough for title and legend, however few kinds there are.
        wide = max(920.0, *(label_width + len(panel.kinds) * CELL_WIDTH for panel in panels))
        places: list[tuple[Panel, float, float]] = []
        x, y, row_height = 0.0, float(TOP), 0.0
        for panel in panels:
            width, height = _size(panel, label_width, label_height)
            if x and x + width > wide:
                x, y, row_height = 0.0, y + row_height + GAP, 0.0
            places.append((panel, MARGIN + x + label_width, y + label_height))
            x, row_height = x + width + GAP, max(row_height, height)
        overhang = longest * SLOPE  # of the last column's label
        return cls(label_width, label_height, tuple(places), wide + overhang + 2 * MARGIN, y + row_height + BOTTOM)


def _size(panel: Panel, label_width: float, label_height: float) -> tuple[float, float]:
    count = len(panel.kinds)
    return label_width + count * CELL_WIDTH, label_height + count * CELL_HEIGHT


def draw(matrix: Matrix) -> str:
    """The SVG document."""
    layout = Layout.of(matrix)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width:g} {layout.height:g}" '
        f'width="{layout.width:g}" height="{layout.height:g}" role="img">',
        f"<title>{escape(_title(matrix))}</title><style>{STYLE}</style>{HATCH}",
        f'<rect class="ground" width="{layout.width:g}" height="{layout.height:g}" rx="8"/>',
        _text(MARGIN, 34, _title(matrix), "title ink"),
        *_legend(matrix),
    ]
    for panel, left, top in layout.places:
        parts += _labels(panel, left, top, layout)
        for cell in matrix.cells:
            if (cell.family, cell.ask) == (panel.family, panel.ask):
                x = left + panel.kinds.index(cell.responder) * CELL_WIDTH
                y = top + panel.kinds.index(cell.initiator) * CELL_HEIGHT
                parts.append(_cell(cell, x, y, relay=matrix.design.relay))
    parts.append(_text(MARGIN, layout.height - 13, _footnote(matrix), "label soft"))
    return "\n".join((*parts, "</svg>")) + "\n"


def _title(matrix: Matrix) -> str:
    cells = matrix.cells
    connected, direct = (
        sum(cell.connected == cell.count for cell in cells),
        sum(cell.direct == cell.count for cell in cells),
    )
    problems = len(matrix.problems())
    faults = f", {problems} wrong" if problems else ""
    return f"{connected} of {len(cells)} pairs connect every time, {direct} without a relay{faults}"


def _footnote(matrix: Matrix) -> str:
    count = matrix.design.count
    times = "1 connect" if count == 1 else f"{count} connects"
    return (
        f"Number: median seconds until the initiator can use the pipe, of {times} between fresh nodes; "
        f"{matrix.round_trip * 1000:.0f} ms round trip."
    )


def _legend(matrix: Matrix) -> list[str]:
    """The strategies that won something, in the order of COLOURS, then the marks that occur."""
    cells = matrix.cells
    winners = {cell.winner for cell in cells if cell.connected}
    names = [name for name in COLOURS if name in winners] + sorted(winners - COLOURS.keys())
    entries = [(name, _swatch(name)) for name in names]
    grey = '<rect width="18" height="14" rx="3" fill="#b0b5bb"/>'
    if any(cell.relayed for cell in cells):
        entries.append(("relayed", grey + _hatched(18, 14, 3)))
    if any(cell.expected is Crossing.GUESS for cell in cells):
        entries.append(("a port to guess", grey + '<rect width="18" height="14" rx="3" class="guess"/>'))
    if any(0 < cell.connected < cell.count for cell in cells):
        entries.append(("not every time", '<circle cx="9" cy="7" r="7" class="badge"/>'))
    if any(not cell.connected for cell in cells):
        cross = '<path class="cross" d="M5 3 l8 8 m0 -8 l-8 8"/>'
        entries.append(("no pipe", f'<rect width="18" height="14" rx="3" class="failed"/>{cross}'))
    if matrix.problems():
        entries.append(("not as it should be", '<rect width="18" height="14" rx="3" class="wrong"/>'))
    parts, x = [], float(MARGIN)
    for name, picture in entries:
        parts.append(f'<g transform="translate({x:g} 51)">{picture}{_text(25, 12, name, "label ink")}</g>')
        x += 25 + len(name) * LETTER + 14
    return parts


def _swatch(name: str) -> str:
    return f'<rect width="18" height="14" rx="3" fill="{COLOURS.get(name, OTHER)[0]}"/>'


def _hatched(width: float, height: float, radius: float) -> str:
    return f'<rect width="{width:g}" height="{height:g}" rx="{radius:g}" fill="url(#hatch)"/>'


def _labels(panel: Panel, left: float, top: float, layout: Layout) -> list[str]:
    """Family and ask and the responders' kinds above, the initiators' kinds at the left."""
    family = "IPv4" if panel.family is Family.V4 else "IPv6"
    parts = [
        _text(
            left - layout.label_width,
            top - layout.label_height + 16,
            f"{family}, {ASKS[panel.ask]}",
            "panel ink",
        ),
        _text(left - 10, top - 8, "from \u2193  to \u2192", "label soft", "end"),
    ]
    for number, kind in enumerate(panel.kinds):
        parts.append(_text(left - 10, top + number * CELL_HEIGHT + CELL_HEIGHT / 2 + 4, kind, "label ink", "end"))
        x = left + number * CELL_WIDTH + CELL_WIDTH / 2
        parts.append(_text(x, top - 8, kind, "label ink", turned=True))
    return parts


def _cell(cell: Cell, x: float, y: float, *, relay: bool) -> str:
    width, height, middle = CELL_WIDTH - 3, CELL_HEIGHT - 3, (CELL_WIDTH - 3) / 2
    problems = cell.problems(relay=relay)
    if cell.seconds is None:
        inner = (
            f'<rect width="{width}" height="{height}" rx="4" class="failed"/>'
            f'<path class="cross" d="M{middle - 5:g} 6 l10 10 m0 -10 l-10 10"/>'
            + _text(middle, 27, f"0 of {cell.count}", "unit bad", "middle")
        )
    else:
        ground, ink = COLOURS.get(cell.winner, OTHER)
        inner = (
            f'<rect width="{width}" height="{height}" rx="4" fill="{ground}"/>'
            + (_hatched(width, height, 4) if cell.relayed else "")
            + _text(middle, 16, _seconds(cell.seconds), "number", "middle", ink)
            + _text(middle, 27, SHORT.get(cell.winner, cell.winner)[:LONGEST], "unit", "middle", ink)
            + (_badge(cell, width) if cell.connected < cell.count else "")
        )
    if problems:
        inner += f'<rect width="{width}" height="{height}" rx="4" class="wrong"/>'
    elif cell.expected is Crossing.GUESS:
        inner += f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="3" class="guess"/>'
    told = escape(_told(cell, problems))
    return f'<g transform="translate({x:g} {y:g})"><title>{told}</title>{inner}</g>'


def _seconds(seconds: float) -> str:
    """Two digits that count."""
    if seconds < 0.995:
        return f"{seconds:.2f}"
    return f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:.0f}"


def _badge(cell: Cell, width: float) -> str:
    return f'<circle cx="{width - 6:g}" cy="6" r="9" class="badge"/>' + _text(
        width - 6, 9.5, f"{cell.connected}/{cell.count}", "badge-text", "middle"
    )


def _told(cell: Cell, problems: tuple[str, ...]) -> str:
    """What a pointer that rests on the cell is told."""
    head = f"{cell.initiator} to {cell.responder}, {cell.ask.value}: {cell.connected} of {cell.count}"
    if cell.seconds is not None:
        relayed = ", relayed" if cell.relayed else ""
        head += f" by {cell.winner}{relayed}, median {cell.seconds * 1000:.0f} ms"
    reasons = [f"{len(list(same))} x {reason}" for reason, same in groupby(sorted(cell.failures))]
    cost = f"{cell.packets} packets, {cell.entries} NAT entries; theory: {cell.expected.value}"
    return "; ".join((head, cost, *problems, *reasons))


def _text(
    x: float, y: float, text: str, css: str, anchor: str = "start", fill: str = "", *, turned: bool = False
) -> str:
    colour = f' fill="{fill}"' if fill else ""
    rising = f' transform="rotate(-45 {x:g} {y:g})"' if turned else ""
    return f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}"{colour}{rising}>{escape(text)}</text>'
