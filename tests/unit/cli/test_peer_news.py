"""What a command says of peers by itself: one that is silent, and those that were turned away, but not for ever."""

from __future__ import annotations

import pytest
from cli_fakes import FakeWorld

from warpgate.cli.output import Output
from warpgate.cli.settings import Settings
from warpgate.cli.shell import TELL_AGAIN, TELL_AT_MOST, Shell, Sparingly
from warpgate.config import Config
from warpgate.events import Event, PeerSilent, PeerTwinned, SignalRefused, StrangerRefused

GONE = "node x answered none of 7 offers over broker mqtt://b: it is not running, or not at these brokers"


def said(capsys: pytest.CaptureFixture[str], *events: Event, json: bool = False) -> str:
    shell = Shell(Settings(Config()), Output(json=json), FakeWorld().node_maker)
    observer = shell.node(accept=True).observer  # type: ignore[attr-defined]
    for event in events:
        observer(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_silent_peer_is_named_while_the_attempt_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, PeerSilent("00" * 16, "x", GONE)) == f"warpgate: {GONE}\n"
    twice = [PeerSilent(session * 16, "x", GONE) for session in ("00", "11")]  # a durable pipe: two searches
    assert said(capsys, *twice) == f"warpgate: {GONE}\n"
    assert said(capsys, PeerSilent("00" * 16, "x", GONE), json=True) == ""


def test_the_owner_is_told_whom_a_rule_keeps_out_once(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "x is not among those allowed in\x1b[2J\nwarpgate: all is well"
    told = said(capsys, *[SignalRefused("x" * 26, reason, told=True)] * 5)
    assert told.count("\n") == 1
    assert told.startswith(f"warpgate: refused {'x' * 26}: x is not among those allowed in")
    assert "\x1b" not in told


def test_by_whichever_way_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "x is not among those allowed in"
    told = f"warpgate: refused x: {reason}\n"
    came = StrangerRefused("192.0.2.1:7", reason, "x")
    assert said(capsys, came, SignalRefused("x", reason, told=True), came) == told


def test_that_a_peer_has_a_twin_is_told_once_and_not_for_each_pipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reason = "another node runs with the same key"
    told = said(capsys, *(PeerTwinned(session * 16, "x", reason) for session in ("00", "11", "22")))
    assert told == f"warpgate: x says: {reason}\n"


def test_what_proves_no_key_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, SignalRefused("?", "nonsense"), StrangerRefused("192.0.2.1:7", "nonsense")) == ""


def test_strangers_fill_no_terminal() -> None:
    sparingly = Sparingly()
    told = [peer for peer in range(1000) if sparingly.may_tell(str(peer), 0.0)]
    assert len(told) == TELL_AT_MOST
    assert not sparingly.may_tell("0", TELL_AGAIN - 1)
    assert sparingly.may_tell("0", TELL_AGAIN)
