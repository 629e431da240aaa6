"""How the scene with a move is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warpgate.cli.demo_move import BAR, flow, verdict
from warpgate.lab.scene import MoveScene, Place
from warpgate.lab.steered import Connected

PLACE = Place("bob", "eim", "192.168.1.2", "203.0.113.1")
OPENED = Connected(error="", echoed=True)
SCENE = MoveScene((PLACE, PLACE, PLACE), OPENED, 1.0, 4.4, 300, 300, "", ((1.6, 0.5),), ())


def test_the_gap_stands_where_it_was() -> None:
    drawn = flow(SCENE)
    assert len(drawn) == BAR
    assert (drawn.index("·"), drawn.rindex("·")) == (11, 15)
    assert flow(replace(SCENE, gaps=())) == "█" * BAR


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "went on after 500 ms"),
        ({"received": 299}, "counters are missing"),
        ({"sent": 0, "received": 0}, "counters are missing"),
        ({"fault": "counter 7 came as [bold]"}, "counter 7 came as \\\\[bold]"),
    ],
)
def test_only_a_whole_stream_is_praised(changed: dict[str, object], says: str) -> None:
    scene = replace(SCENE, **changed)
    assert says.replace("\\\\", "\\") in verdict(scene)
    assert scene.whole is (not changed)
