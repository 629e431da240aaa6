"""Who is where, as a picture: hosts, the NATs before them, what stands between, and the way that data takes.

The same places twice: in a row where there is room, below each other on a phone; the style shows one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from warpgate.cli.pages.markup import Markup, joined, tag
from warpgate.lazy_dataclass import dataclass

_LINE: Final = 18.0  # from one line of text to the next
_PAD: Final = 12.0
# Width of a letter, generously: fonts differ.
_NAME_LETTER, _SMALL_LETTER, _WHERE_LETTER = 8.3, 6.6, 7.5

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """`kind`: host, nat or server. Below the name come `lines`, then `where`: endpoints and URLs."""

    kind: str
    name: str
    lines: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    @property
    def height(self) -> float:
        return 2 * _PAD + _LINE * (1 + len(self.lines) + len(self.where)) - 3


@dataclass(frozen=True, slots=True)
class Side:
    """A host, and the router before it: None for none."""

    host: Box
    nat: Box | None

    @property
    def chain(self) -> tuple[Box, ...]:
        """From the inside out."""
        return (self.host,) if self.nat is None else (self.host, self.nat)


@dataclass(frozen=True, slots=True)
class Way:
    """Of data between the two sides. `label`: by what; `relay`: over this; `inside`: past the routers, in one network.
    `broken`: there is none.
    """

    label: str
    relay: Box | None = None
    inside: bool = False
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """Two sides and the way between them, or one side alone. `told`: the picture in words, for who cannot see it."""

    near: Side
    servers: Box
    told: str
    far: Side | None = None
    way: Way | None = None


@dataclass(frozen=True, slots=True)
class _Placed:
    box: Box
    x: float
    y: float
    width: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.box.height

    @property
    def middle(self) -> Point:
        return self.x + self.width / 2, self.y + self.box.height / 2


def draw(scene: Scene) -> Markup:
    """Both pictures."""
    if scene.far is None:
        return joined(_one_side_wide(scene), _one_side_tall(scene))
    return joined(_wide(scene, scene.far), _tall(scene, scene.far))


# -- in a row ----------------------------------------------------------------------------------------------------

_COLUMN: Final = 228.0
_BETWEEN: Final = 30.0
_GAP: Final = 160.0  # between the sides, for the label
_SERVERS: Final = 300.0
_RELAY: Final = 204.0


def _wide(scene: Scene, far: Side) -> Markup:
    way = scene.way
    relay = None if way is None else way.relay
    width = 2 * (2 * _COLUMN + _BETWEEN) + (_GAP if relay is None else _RELAY + 2 * _BETWEEN) + 2
    boxes = [*scene.near.chain, *far.chain, *(() if relay is None else (relay,))]
    row = max(box.height for box in boxes)
    centre = 1 + scene.servers.height + 44 + row / 2

    def put(box: Box, x: float, size: float = _COLUMN) -> _Placed:
        return _Placed(box, x, centre - box.height / 2, size)

    step = _COLUMN + _BETWEEN
    left = [put(box, 1 + step * number) for number, box in enumerate(scene.near.chain)]
    right = [put(box, width - 1 - _COLUMN - step * number) for number, box in enumerate(far.chain)][::-1]
    between = [] if relay is None else [put(relay, (width - _RELAY) / 2, _RELAY)]
    servers = _Placed(scene.servers, (width - _SERVERS) / 2, 1, _SERVERS)
    lines = [
        _line("signal", (left[-1].middle[0], left[-1].y), (servers.x + 50, servers.bottom)),
        _line("signal", (right[0].middle[0], right[0].y), (servers.right - 50, servers.bottom)),
    ]
    height = centre + row / 2 + 2
    if way is not None and way.inside:
        height += 40
        (x, _), (end, _), low = left[0].middle, right[-1].middle, height - 4
        lines.append(_path(f"M{x:g} {left[0].bottom:g}V{low:g}H{end:g}V{right[-1].bottom:g}"))
        lines.append(_say(width / 2, low - 10, end - x, way, "middle"))
    elif way is not None:
        css, stops = ("gap", [left[-1], right[0]]) if way.broken else ("way", [*left, *between, *right])
        lines += [_line(css, (one.right, centre), (other.x, centre)) for one, other in pairwise(stops)]
        room = right[0].x - left[-1].right
        under = centre + (between[0].box.height / 2 + 20 if between else -14)
        height = max(height, under + 8)
        lines += [_say(width / 2, under, room, way, "middle"), *_cross(way, width / 2, centre)]
    return _svg("wide", width, height, scene.told, [*lines, *_boxes([*left, *between, *right, servers])])


def _one_side_wide(scene: Scene) -> Markup:
    width = 2 * _COLUMN + 2 * 90 + 400
    height = max(box.height for box in (*scene.near.chain, scene.servers)) + 2
    places = [
        _Placed(box, 1 + number * (_COLUMN + 90), (height - box.height) / 2, _COLUMN)
        for number, box in enumerate(scene.near.chain)
    ]
    servers = _Placed(scene.servers, width - 401, (height - scene.servers.height) / 2, 400)
    lines = [
        _line("signal", (one.right, height / 2), (other.x, height / 2)) for one, other in pairwise([*places, servers])
    ]
    return _svg("wide", width, height, scene.told, [*lines, *_boxes([*places, servers])])


# -- below each other --------------------------------------------------------------------------------------------

_NARROW: Final = 326.0  # what a phone of 390 px leaves of its width
_LANE: Final = 36.0  # left of the servers, where the way passes
_BELOW: Final = 26.0


def _tall(scene: Scene, far: Side) -> Markup:
    way = scene.way
    inside = way is not None and way.inside
    indent = 30.0 if inside else 1.0
    lane = 10.0 if inside else _LANE
    y = 1.0
    places: list[_Placed] = []

    def put(box: Box, x: float = indent) -> _Placed:
        nonlocal y
        placed = _Placed(box, x, y, _NARROW - 1 - x)
        y = placed.bottom + _BELOW
        return placed

    places += [put(box) for box in scene.near.chain]
    outer = places[-1]
    servers = put(scene.servers, 2 * _LANE)
    label = y = y + 8
    y += 26
    places += [] if way is None or way.relay is None else [put(way.relay)]
    after = len(places)
    places += [put(box) for box in reversed(far.chain)]
    x = _NARROW - 40
    lines = [
        _line("signal", (x, outer.bottom), (x, servers.y)),
        _line("signal", (x, servers.bottom), (x, places[after].y)),
    ]
    if way is not None and inside:
        lines.append(_path(f"M{indent:g} {places[0].middle[1]:g}H{lane:g}V{places[-1].middle[1]:g}H{indent:g}"))
    elif way is not None:
        css, stops = ("gap", [outer, places[after]]) if way.broken else ("way", places)
        lines += [_line(css, (lane, one.bottom), (lane, other.y)) for one, other in pairwise(stops)]
    if way is not None:
        lines += [_say(lane + 18, label, x - lane - 30, way, ""), *_cross(way, lane, label - 4)]
    return _svg("tall", _NARROW, y - _BELOW + 2, scene.told, [*lines, *_boxes([*places, servers])])


def _one_side_tall(scene: Scene) -> Markup:
    y, places = 1.0, []
    for box in (*scene.near.chain, scene.servers):
        places.append(_Placed(box, 1, y, _NARROW - 2))
        y = places[-1].bottom + _BELOW
    x = _NARROW / 2
    lines = [_line("signal", (x, one.bottom), (x, other.y)) for one, other in pairwise(places)]
    return _svg("tall", _NARROW, y - _BELOW + 2, scene.told, [*lines, *_boxes(places)])


# -- strokes -----------------------------------------------------------------------------------------------------


def _svg(shape: str, width: float, height: float, told: str, parts: Sequence[Markup]) -> Markup:
    view = f"0 0 {width:g} {height:g}"
    return tag("svg", tag("title", told), *parts, class_=shape, viewBox=view, role="img")


def _line(css: str, start: Point, end: Point) -> Markup:
    return tag("line", class_=css, x1=start[0], y1=start[1], x2=end[0], y2=end[1])


def _path(course: str) -> Markup:
    return tag("path", class_="way", d=course)


def _say(x: float, y: float, room: float, way: Way, css: str) -> Markup:
    return tag(
        "text",
        _cut(way.label, int(room / _NAME_LETTER)),
        x=x,
        y=y,
        class_=f"{'no' if way.broken else 'say'} {css}".strip(),
    )


def _cross(way: Way, x: float, y: float) -> tuple[Markup, ...]:
    if not way.broken:
        return ()
    return (tag("path", class_="cross", d=f"M{x - 7:g} {y - 7:g}l14 14m0 -14l-14 14"),)


def _boxes(places: Sequence[_Placed]) -> list[Markup]:
    return [_box(placed) for placed in places]


def _box(placed: _Placed) -> Markup:
    box, room = placed.box, placed.width - 2 * _PAD
    rows = [("name", _cut(box.name, int(room / _NAME_LETTER)))]
    rows += [("small", _cut(line, int(room / _SMALL_LETTER))) for line in box.lines]
    rows += [("where", _shortened(where, int(room / _WHERE_LETTER))) for where in box.where]
    texts = (
        tag("text", text, x=_PAD, y=_PAD + 13 + _LINE * number, class_=css) for number, (css, text) in enumerate(rows)
    )
    edge = {"width": placed.width - 2, "height": box.height - 2, "rx": 14 if box.kind == "nat" else 6}
    shape = tag("rect", class_=box.kind, x=1, y=1, **edge)
    told = tag("title", "; ".join((box.name, *box.lines, *box.where)))
    # A picture in the picture: what is longer than all fonts that were thought of ends at its edge.
    return tag("svg", told, shape, *texts, x=placed.x, y=placed.y, width=placed.width, height=box.height)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "\u2026"


def _shortened(text: str, letters: int) -> str:
    """Of an endpoint both ends tell most: the network, and the port."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 2
    return f"{text[:head]}\u2026{text[len(text) - (letters - 1 - head) :]}"
