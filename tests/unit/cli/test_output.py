"""Events in words and as JSON lines."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re

import pytest

from warpgate import events
from warpgate.cli.output import Output
from warpgate.cli.records import Ready
from warpgate.cli.words import describe

VALUES = {"str": "text", "int": 3, "float": 0.25, "bool": True, "tuple[str, ...]": ("one", "two")}


def one_of_each() -> list[events.Event]:
    kinds = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, events.Event)]
    return [
        kind(**{field.name: VALUES[field.type] for field in dataclasses.fields(kind)})
        for kind in kinds
        if kind is not events.Event
    ]


@pytest.mark.parametrize("event", one_of_each(), ids=lambda event: type(event).__name__)
def test_every_event_has_its_words(event, capsys):
    words = describe(event)
    assert "\n" not in words
    assert "(" + type(event).__name__ not in words
    assert not words.startswith(type(event).__name__), "fell through to the repr"
    Output(verbose=True).observe(event)
    assert re.fullmatch(rf"warpgate: \d\d:\d\d:\d\d\.\d\d\d {re.escape(words)}\n", capsys.readouterr().err)


@pytest.mark.parametrize("event", one_of_each(), ids=lambda event: type(event).__name__)
def test_every_event_is_a_json_object(event, capsys):
    Output(json=True, verbose=True).observe(event)
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("event").replace("_", "") == type(event).__name__.lower()
    assert shown == json.loads(json.dumps(dataclasses.asdict(event)))


def test_events_are_silent_without_v(capsys):
    for output in (Output(), Output(json=True)):
        for event in one_of_each():
            output.observe(event)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_what_the_owner_must_know_is_told_once_to_people_and_to_programs(capsys):
    refused = events.StrangerRefused("192.0.2.1:7", "not wanted", "someone")
    for verbose in (False, True):
        output = Output(json=True, verbose=verbose)
        output.observe(refused)
        output.notice(refused, "turned away")
        told = capsys.readouterr()
        assert json.loads(told.out) == {"event": "stranger_refused", **dataclasses.asdict(refused)}
        assert told.err == ""
    Output().notice(refused, "turned away")
    assert capsys.readouterr() == ("", "warpgate: turned away\n")


def test_stdout_that_belongs_to_a_pipe_stays_clean(capsys):
    Output(bytes_on_stdout=True).show(Ready("id", "wg1x"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "wg1x" in captured.err


def test_json_lines_stay_lines(capsys):
    Output(json=True).show(Ready("id", "a\nb\u2028c"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["address"] == "a\nb\u2028c"
