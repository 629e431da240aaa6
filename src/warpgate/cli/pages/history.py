"""Which paths a durable connection had, and by which of them it went, as bars over the time that it was watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Final

from warpgate.cli.pages.markup import Markup, joined, tag
from warpgate.cli.pages.waterfall import Scale, Span, axis, bar, clock, colour_of, note_list
from warpgate.events import Event, PathChosen, PathLost, PathOpened, PathsMissing, PathsWork
from warpgate.lazy_dataclass import dataclass

Moment = tuple[float, Event]
PATH_EVENTS: Final = (PathOpened, PathChosen, PathLost, PathsMissing, PathsWork)
_OUTAGE: Final = "#c4271b"


@dataclass
class _Lane:
    """One path; `used` while the connection went by it: (from, until), until None for the last one."""

    plugin: str
    transport: str
    where: str
    remote: str
    relayed: bool
    opened: float
    lost: float | None = None
    used: list[tuple[float, float | None]] = field(default_factory=list)
    notes: list[tuple[float, str]] = field(default_factory=list)


@dataclass
class _History:
    lanes: list[_Lane] = field(default_factory=list)
    outages: list[tuple[float, float | None]] = field(default_factory=list)
    current: _Lane | None = None

    def take(self, at: float, event: Event) -> None:
        match event:
            case PathOpened():
                lane = self._lane(event, at)
                lane.notes.append((at, "found"))
            case PathChosen(gap=gap, reason=reason):
                self._leave(at)
                self.current = lane = self._lane(event, at)
                lane.used.append((at, None))
                waited = f", {clock(gap)} after the last answer" if gap else ""
                lane.notes.append((at, f"chosen{waited}: {reason}"))
            case PathLost(plugin=plugin, remote=remote, reason=reason):
                for lane in self.lanes:
                    if (lane.plugin, lane.remote, lane.lost) == (plugin, remote, None):
                        lane.lost = at
                        lane.notes.append((at, f"lost: {reason}"))
                        if lane is self.current:
                            self._leave(at)
            case PathsMissing():
                self.outages.append((at, None))
            case PathsWork() if self.outages and self.outages[-1][1] is None:
                self.outages[-1] = self.outages[-1][0], at

    def _lane(self, event: PathOpened | PathChosen, at: float) -> _Lane:
        where = f"{event.local} - {event.remote}"
        for lane in self.lanes:
            same = (lane.plugin, lane.transport, lane.where) == (event.plugin, event.transport, where)
            if same and lane.lost is None:
                return lane
        self.lanes.append(_Lane(event.plugin, event.transport, where, event.remote, event.relayed, at))
        return self.lanes[-1]

    def _leave(self, at: float) -> None:
        if self.current is not None:
            self.current.used[-1] = self.current.used[-1][0], at
            self.current = None


def history(moments: Sequence[Moment], last: float) -> Markup:
    """`moments`: events of PATH_EVENTS with seconds after the attempt began; `last`: until when it was watched."""
    told = _History()
    for at, event in moments:
        told.take(at, event)
    scale = Scale(0.0, max([0.001, last, *(at for at, _ in moments)]), ruled=True)
    rows = [_row(lane, scale, current=lane is told.current) for lane in told.lanes]
    if told.outages:
        spans = [Span(start, scale.last if end is None else end, _OUTAGE, strong=True) for start, end in told.outages]
        lengths = ", ".join(clock(span.end - span.start) for span in spans)
        why = tag("span", f"for {lengths}", class_="why")
        head = tag("div", tag("b", "no path worked", class_="bad"), why, class_="head")
        rows.append(tag("section", head, bar(scale, spans), class_="row"))
    return joined(axis(scale), *rows)


def _row(lane: _Lane, scale: Scale, *, current: bool) -> Markup:
    state, css = ("in use", "good") if current else ("lost", "bad") if lane.lost is not None else ("in reserve", "soft")
    more = ", relayed" * lane.relayed
    head = tag(
        "div",
        tag("b", lane.plugin),
        tag("span", state, class_=f"badge {css}"),
        tag("span", f"{lane.transport.upper()}{more}", class_="soft"),
        tag("span", lane.where, class_="why"),
        class_="head",
    )
    colour = colour_of(lane.plugin)
    spans = [Span(lane.opened, scale.last if lane.lost is None else lane.lost, colour, strong=False)]
    spans += [Span(start, scale.last if end is None else end, colour, strong=True) for start, end in lane.used]
    return tag("section", head, bar(scale, spans, lane.notes), note_list(lane.notes, shown=True), class_="row")
