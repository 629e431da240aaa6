"""What `connect --durable` tells of its connection."""

from __future__ import annotations

import json

import pytest

from warpgate.cli.outages import Outages
from warpgate.cli.output import Output
from warpgate.events import PathChosen, PathsMissing, PathsWork

CHOSEN = PathChosen(
    "00" * 16,
    "a" * 26,
    "udp_punch",
    "udp",
    "192.168.1.2:1",
    "203.0.113.2:2",
    False,
    4.25,
    0.5,
    "a newer path",
)
MISSING = PathsMissing("00" * 16, "a" * 26)
WORKS = PathsWork("00" * 16, "a" * 26, "udp_punch", 0.4)


def test_people_are_told_of_outages(capsys: pytest.CaptureFixture[str]) -> None:
    observe = Outages(Output()).observe
    for event in (CHOSEN, WORKS, MISSING, CHOSEN, WORKS):
        observe(event)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "warpgate: connection lost, searching ...",
        "warpgate: back after 0.4 s, by udp_punch",
    ]


def test_programs_are_told_of_each_path(capsys: pytest.CaptureFixture[str]) -> None:
    observe = Outages(Output(json=True)).observe
    for event in (CHOSEN, MISSING, WORKS):
        observe(event)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "event": "path",
        "plugin": "udp_punch",
        "transport": "udp",
        "relayed": False,
        "local": "192.168.1.2:1",
        "remote": "203.0.113.2:2",
        "seconds": 4.25,
        "gap": 0.5,
        "reason": "a newer path",
    }
