"""What each strategy did and when, as a waterfall: a bar a strategy, a tick for whatever it noted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from warpgate.cli.pages.markup import Markup, joined, tag
from warpgate.events import PluginReport
from warpgate.lab.matrix_picture import COLOURS
from warpgate.lazy_dataclass import dataclass

# What is over within seconds is drawn by a ruler. An attempt that took longer had its events in the first fractions of
# one: then each tenfold time is as far from the one before, from `_EARLY` on.
_RULER: Final = 2.0
_EARLY: Final = 0.01
_WIDTH: Final = 1000.0
_ROOM: Final = 130.0  # of a number, on a phone
_MANY: Final = 8  # notes; more are folded, but for the winner's
_OTHER: Final = "#8b929b"  # a third party's strategy, between light and dark
_GOOD: Final = ("won",)
_BAD: Final = ("failed", "crashed", "timed out")


@dataclass(frozen=True, slots=True)
class Span:
    """Of a bar, in seconds; `strong`: it is what counts."""

    start: float
    end: float
    colour: str
    strong: bool


@dataclass(frozen=True, slots=True)
class Scale:
    """Seconds after the start, from `first` (0, or less: what came before) to `last`, to a place of 1000. `ruled`: by a
    ruler, however long.
    """

    first: float
    last: float
    ruled: bool = False

    @classmethod
    def of(cls, report: Sequence[PluginReport], last: float = 0.0) -> Scale:
        """`last`: what must be on it too."""
        times = [at for row in report for at, _ in row.notes]
        times += [at for row in report for at in (row.started, row.ended) if at is not None]
        return cls(min([0.0, *times]), max([0.001, last, *times]))

    @property
    def _by_ruler(self) -> bool:
        return self.ruled or self.last - self.first <= _RULER

    def place(self, at: float) -> float:
        at = min(max(at, self.first), self.last)
        if self._by_ruler:
            return min(_WIDTH * (at - self.first) / (self.last - self.first), _WIDTH)
        first, last = _bent(self.first), _bent(self.last)
        return min(_WIDTH * (_bent(at) - first) / (last - first), _WIDTH)  # sums of floats may exceed it

    @property
    def marks(self) -> tuple[float, ...]:
        """Round times, the start among them, not closer than their numbers have room for on a phone."""
        if not self._by_ruler:
            tens = (10.0**power for power in range(-2, 3))
            found = [0.0]
            for mark in tens:
                if mark <= self.last and self.place(mark) - self.place(found[-1]) >= _ROOM:
                    found.append(mark)
        else:
            rough = self.last / 4
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
            found = [step * number for number in range(int(self.last / step) + 1)]
        return tuple(found)


def _bent(at: float) -> float:
    return math.copysign(math.log10(1 + abs(at) / _EARLY), at)


def waterfall(report: Sequence[PluginReport], connected: float) -> Markup:
    """`connected`: when the pipe was there, seconds; 0 when it never was."""
    if not report:
        return tag("p", "No strategy was tried.")
    scale = Scale.of(report, connected)
    rows = [_row(row, scale) for row in sorted(report, key=_order)]
    return joined(axis(scale), *rows)


def _order(row: PluginReport) -> tuple[bool, float]:
    """What was at work first; what was skipped last."""
    began = [at for at in (row.started, *(at for at, _ in row.notes)) if at is not None]
    return row.outcome == "skipped", min(began, default=math.inf)


def axis(scale: Scale) -> Markup:
    labels = (tag("span", clock(mark), style=f"left:{scale.place(mark) / 10:.2f}%") for mark in scale.marks)
    return tag("div", *labels, class_="scale")


def _row(row: PluginReport, scale: Scale) -> Markup:
    css = "good" if row.outcome in _GOOD else "bad" if row.outcome in _BAD else "soft"
    badge = tag("span", "what was said" if row.outcome == "info" else row.outcome, class_=f"badge {css}")
    head = [tag("b", row.plugin), badge]
    if row.started is not None:
        until = "" if row.ended is None else f" to {clock(row.ended)}"
        head.append(tag("span", f"{clock(row.started)}{until}", class_="soft"))
    if row.reason:
        head.append(tag("span", row.reason, class_="why"))
    parts = [tag("div", *head, class_="head")]
    if row.started is not None or row.notes:
        spans: tuple[Span, ...] = ()
        if row.started is not None:
            end = scale.last if row.ended is None else row.ended
            spans = (Span(row.started, end, colour_of(row.plugin), strong=row.outcome in _GOOD),)
        parts.append(bar(scale, spans, row.notes))
    if row.notes:
        parts.append(note_list(row.notes, shown=row.outcome in _GOOD or len(row.notes) <= _MANY))
    return tag("section", *parts, class_="row")


def bar(scale: Scale, spans: Sequence[Span], notes: Sequence[tuple[float, str]] = ()) -> Markup:
    """Spans one over the other, a tick for each note, and the scale's marks behind all."""
    marks = map(scale.place, scale.marks)
    parts = [tag("rect", class_="track", width=_WIDTH, height=16)]
    parts += [tag("line", class_="grid", x1=x, x2=x, y1=0, y2=16) for x in marks]
    for span in spans:
        start, end = scale.place(span.start), scale.place(span.end)
        opacity = None if span.strong else 0.55
        width = max(end - start, 6)
        parts.append(tag("rect", x=start, y=4, width=width, height=8, fill=span.colour, fill_opacity=opacity))
    parts += [
        tag("line", tag("title", f"{clock(at)} {text}"), class_="tick", x1=x, x2=x, y1=0, y2=16)
        for at, text in notes
        for x in (scale.place(at),)
    ]
    return tag("svg", *parts, class_="bar", viewBox="0 0 1000 16", preserveAspectRatio="none", aria_hidden="true")


def note_list(notes: Sequence[tuple[float, str]], *, shown: bool) -> Markup:
    """Folded unless `shown`; a reader unfolds it."""
    lines = (tag("tr", tag("td", clock(at), class_="at"), tag("td", text)) for at, text in notes)
    count = f"{len(notes)} note{'' if len(notes) == 1 else 's'}"
    return tag("details", tag("summary", count), tag("table", *lines), open="" if shown else None)


def colour_of(plugin: str) -> str:
    return COLOURS[plugin][0] if plugin in COLOURS else _OTHER


def clock(seconds: float) -> str:
    """Milliseconds while they are few."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.3g} ms" if abs(seconds) < 0.1 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.3g} s"
