"""What --help and doctor say of the strategies there are."""

from __future__ import annotations

import argparse

import pytest

from warpgate.cli.main import main
from warpgate.cli.strategies import ViaAction, strategy_findings
from warpgate.cli.words import describe
from warpgate.events import PluginBroken
from warpgate.plugins import registry
from warpgate.plugins.registry import Registry


class Entry:
    """An entry point whose package cannot be imported."""

    name = "pigeon"
    value = "pigeons:Pigeon"
    dist = None

    @staticmethod
    def load() -> object:
        raise ImportError("no module named coo")


def test_doctor_lists_those_there_are_and_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", lambda: [Entry])
    good, bad = strategy_findings(Registry())
    assert (good.section, good.state) == ("strategies", "ok")
    assert good.message.startswith("direct, reverse, ")
    assert (bad.state, bad.message) == (
        "warning",
        "pigeon of an unknown package cannot be used: ImportError: no module named coo",
    )


def test_help_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "--help"]) == 0
    assert "there are direct, reverse," in " ".join(capsys.readouterr().out.split())


def test_they_are_looked_up_when_help_is_shown_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "registered_names", lambda: ("pigeon",))
    parser = argparse.ArgumentParser()
    parser.add_argument("--via", action=ViaAction, help="one of %(strategies)s")
    assert "one of pigeon" in parser.format_help()


def test_what_is_given_adds_up() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--via", action=ViaAction)
    assert parser.parse_args([]).via is None
    assert parser.parse_args(["--via", "a,b", "--via", "c"]).via == ["a,b", "c"]


def test_the_event_in_words() -> None:
    told = describe(PluginBroken("pigeon", "pigeons 1.0", "ImportError: coo"))
    assert told == "the strategy pigeon of pigeons 1.0 cannot be used: ImportError: coo"
