"""The pair matrix as a picture: rows are what the initiator is behind, columns the responder; one panel a mode.

Colour says which strategy won, the number is the median time in milliseconds, hatching means relayed, a red cross
that no connect succeeded. SVG written by hand: a picture of rectangles and words needs no library.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Final

from warpgate.lab.matrix import Cell, Matrix

# Okabe and Ito's palette, which colour-blind people can tell apart; black or white text as it reads better on it.
COLOURS: Final = {
    "direct": ("#009e73", "#ffffff"),
    "reverse": ("#56b4e9", "#10202c"),
    "udp_punch": ("#0067a5", "#ffffff"),
    "tcp_punch": ("#cc79a7", "#2a0f1f"),
    "random_probe": ("#e69f00", "#2b1d00"),
    "port_map": ("#f0e442", "#2b2900"),
    "turn": ("#b0b5bb", "#111111"),
}
OTHER: Final = ("#d9d2c5", "#222222")  # a third party's strategy

CELL_HEIGHT: Final = 46
CELL_WIDTH: Final = 66
LETTER: Final = 6.7  # width of a letter of 12 px, generously
SMALL_LETTER: Final = 6.0  # of 10 px
MARGIN: Final = 22
GAP: Final = 30  # between panels
TOP: Final = 134  # title, legend and column labels
BOTTOM: Final = 40

# The colours follow the reader's preference; the picture brings its own background, so that it is readable anyhow.
STYLE: Final = """
svg { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
.ground { fill: #ffffff; } .title { font-size: 19px; font-weight: 600; } .ink { fill: #1b1f24; }
.soft { fill: #57606a; } .label { font-size: 12px; } .panel { font-size: 14px; font-weight: 600; }
.number { font-size: 16px; font-weight: 600; } .unit { font-size: 10px; } .failed { fill: #f6e3e1; }
.cross { stroke: #c4271b; stroke-width: 3; stroke-linecap: round; } .bad { fill: #c4271b; font-weight: 700; }
.badge { fill: #c4271b; } .badge-text { fill: #ffffff; font-size: 10px; font-weight: 700; }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; } .ink { fill: #e6edf3; } .soft { fill: #9aa4af; } .failed { fill: #34191a; }
.cross { stroke: #ff7b72; } .bad { fill: #ff7b72; }
}
"""
HATCH: Final = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2.6" height="7" fill="#ffffff" fill-opacity="0.4"/></pattern></defs>'
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, in pixels."""

    label_width: float
    cell_width: float
    kinds: int
    panels: int

    @classmethod
    def of(cls, matrix: Matrix) -> Layout:
        longest = max(len(kind) for kind in matrix.kinds) * LETTER
        winner = max(len(cell.winner) for cell in matrix.cells) * SMALL_LETTER
        width = max(CELL_WIDTH, longest + 6, winner + 8)
        return cls(longest + 26, width, len(matrix.kinds), len(matrix.modes))

    @property
    def panel_width(self) -> float:
        return self.kinds * self.cell_width

    @property
    def width(self) -> float:
        # Wide enough for title and legend, however few kinds there are.
        panels = self.panels * self.panel_width + (self.panels - 1) * GAP
        return max(self.label_width + panels + 2 * MARGIN, 860)

    @property
    def height(self) -> float:
        return TOP + self.kinds * CELL_HEIGHT + BOTTOM

    def left(self, panel: int, column: int = 0) -> float:
        return MARGIN + self.label_width + panel * (self.panel_width + GAP) + column * self.cell_width

    def top(self, row: int) -> float:
        return TOP + row * CELL_HEIGHT


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
        *_labels(matrix, layout),
    ]
    for cell in matrix.cells:
        x = layout.left(matrix.modes.index(cell.mode), matrix.kinds.index(cell.responder))
        y = layout.top(matrix.kinds.index(cell.initiator))
        parts.append(_cell(cell, x, y, layout.cell_width))
    parts.append(_text(MARGIN, layout.height - 15, _footnote(matrix), "label soft"))
    return "\n".join((*parts, "</svg>")) + "\n"


def _title(matrix: Matrix) -> str:
    counts = []
    for mode in matrix.modes:
        cells = [cell for cell in matrix.cells if cell.mode is mode]
        counts.append(f"{mode.value}s {sum(cell.connected > 0 for cell in cells)} of {len(cells)}")
    return f"Who gets a pipe to whom: {', '.join(counts)} pairs"


def _footnote(matrix: Matrix) -> str:
    times = "1 connect" if matrix.count == 1 else f"{matrix.count} connects"
    return (
        f"Number: median milliseconds until the initiator can use the pipe, of {times} between fresh nodes; "
        f"{matrix.round_trip * 1000:.0f} ms round trip."
    )


def _legend(matrix: Matrix) -> list[str]:
    """The strategies that won something, in the order of COLOURS, then the marks that occur."""
    cells = matrix.cells
    winners = {cell.winner for cell in cells if cell.connected}
    names = [name for name in COLOURS if name in winners] + sorted(winners - COLOURS.keys())
    entries = [(name, _swatch(name)) for name in names]
    if any(cell.relayed for cell in cells):
        entries.append(
            ("relayed", '<rect width="18" height="14" rx="3" fill="#b0b5bb"/>' + _hatched(18, 14, 3))
        )
    if any(0 < cell.connected < cell.count for cell in cells):
        entries.append(("not every time", '<circle cx="9" cy="7" r="7" class="badge"/>'))
    if any(not cell.connected for cell in cells):
        cross = '<path class="cross" d="M5 3 l8 8 m0 -8 l-8 8"/>'
        entries.append(("no pipe", f'<rect width="18" height="14" rx="3" class="failed"/>{cross}'))
    parts, x = [], float(MARGIN)
    for name, picture in entries:
        parts.append(f'<g transform="translate({x:g} 51)">{picture}{_text(25, 12, name, "label ink")}</g>')
        x += 25 + len(name) * LETTER + 18
    return parts


def _swatch(name: str) -> str:
    return f'<rect width="18" height="14" rx="3" fill="{COLOURS.get(name, OTHER)[0]}"/>'


def _hatched(width: float, height: float, radius: float) -> str:
    return f'<rect width="{width:g}" height="{height:g}" rx="{radius:g}" fill="url(#hatch)"/>'


def _labels(matrix: Matrix, layout: Layout) -> list[str]:
    """Mode and responders' kinds above each panel, initiators' kinds at the left."""
    parts = [
        _text(layout.left(0) - 10, layout.top(row) + CELL_HEIGHT / 2 + 4, kind, "label ink", "end")
        for row, kind in enumerate(matrix.kinds)
    ]
    parts.append(_text(layout.left(0) - 10, TOP - 12, "from \u2193  to \u2192", "label soft", "end"))
    for panel, mode in enumerate(matrix.modes):
        parts.append(_text(layout.left(panel) + 1, TOP - 34, f"{mode.value} mode", "panel ink"))
        parts += [
            _text(layout.left(panel, column) + layout.cell_width / 2, TOP - 12, kind, "label ink", "middle")
            for column, kind in enumerate(matrix.kinds)
        ]
    return parts


def _cell(cell: Cell, x: float, y: float, cell_width: float) -> str:
    width, height, middle = cell_width - 3, CELL_HEIGHT - 3, (cell_width - 3) / 2
    if cell.seconds is None:
        inner = (
            f'<rect width="{width:g}" height="{height}" rx="5" class="failed"/>'
            f'<path class="cross" d="M{middle - 7:g} 8 l14 14 m0 -14 l-14 14"/>'
            + _text(middle, 36, f"0 of {cell.count}", "unit bad", "middle")
        )
    else:
        ground, ink = COLOURS.get(cell.winner, OTHER)
        inner = (
            f'<rect width="{width:g}" height="{height}" rx="5" fill="{ground}"/>'
            + (_hatched(width, height, 5) if cell.relayed else "")
            + _text(middle, 22, f"{cell.seconds * 1000:.0f}", "number", "middle", ink)
            + _text(middle, 36, cell.winner, "unit", "middle", ink)
            + (_badge(cell, width) if cell.connected < cell.count else "")
        )
    return f'<g transform="translate({x:g} {y:g})"><title>{escape(_told(cell))}</title>{inner}</g>'


def _badge(cell: Cell, width: float) -> str:
    return f'<circle cx="{width - 9:g}" cy="9" r="10.5" class="badge"/>' + _text(
        width - 9, 12.5, f"{cell.connected}/{cell.count}", "badge-text", "middle"
    )


def _told(cell: Cell) -> str:
    """What a pointer that rests on the cell is told."""
    head = f"{cell.initiator} to {cell.responder}, {cell.mode.value}: {cell.connected} of {cell.count}"
    if cell.seconds is not None:
        relayed = ", relayed" if cell.relayed else ""
        head += f" by {cell.winner}{relayed}, median {cell.seconds * 1000:.0f} ms"
    reasons = [f"{len(list(same))} x {reason}" for reason, same in groupby(sorted(cell.failures))]
    return "; ".join((head, f"{cell.packets} packets, {cell.entries} NAT entries", *reasons))


def _text(x: float, y: float, text: str, css: str, anchor: str = "start", fill: str = "") -> str:
    colour = f' fill="{fill}"' if fill else ""
    return f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}"{colour}>{escape(text)}</text>'
