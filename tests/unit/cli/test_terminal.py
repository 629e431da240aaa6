"""Nothing that somebody else chose steers the terminal or looks like a line of ours."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import pty
import select
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from cli_fakes import FakeWorld, target_text

from warpgate.cli import asking
from warpgate.cli.main import main
from warpgate.cli.output import Output
from warpgate.cli.records import Failed, PipeOpen
from warpgate.cli.terminal import Door, guarded_streams, in_one_line
from warpgate.errors import ConnectFailed, ProtocolError
from warpgate.events import PluginReport, ServerFailed, StrangerRefused
from warpgate.platform import TERMINAL
from warpgate.transfer.reports import Announced

ATTACK = "x\x1b]0;owned\x07\x1b[2J\r\nwarpgate: fine\x9b1m\u202eb\u2028\x7f"


def harmless(text: str) -> bool:
    """All that is no visible character is a line feed, and no line is the one that the attack brings."""
    lines = text.split("\n")
    return all(line.isprintable() for line in lines) and not any(line.startswith("warpgate: fine") for line in lines)


def test_what_a_door_lets_through() -> None:
    stream = io.StringIO()
    door = Door(stream)
    door.write("line\n\x1b[2J")
    door.writelines(["ü\x07"])
    door.flush()
    assert stream.getvalue() == "line\n\\x1b[2Jü\\x07"


def test_a_letter_that_the_terminal_lacks_ends_nothing() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "latin-1", write_through=True)
    Door(stream).write("ü☃")
    assert raw.getvalue() == b"\xfc\\u2603"


def test_streams_are_guarded_in_the_block_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with guarded_streams():
        sys.stdout.write("\x1b[2J")
        sys.stderr.write("\x1b[3J")
    assert (sys.stdout, sys.stderr) == before
    captured = capsys.readouterr()
    assert captured.out == "\\x1b[2J"
    assert captured.err == "\\x1b[3J"


def test_a_program_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with guarded_streams():
        Output().note("nobody reads this")
    assert sys.stdout is None


@dataclass(frozen=True)
class Nested:
    text: str
    rows: tuple[tuple[float, str], ...]
    others: list[str]
    number: int = 3


def test_every_text_in_a_value() -> None:
    shown = in_one_line(Nested("a\nb", ((0.5, "\x1b"),), ["\r"]))
    assert shown == Nested("a\\nb", ((0.5, "\\x1b"),), ["\\r"])


@pytest.mark.parametrize(
    "say",
    [
        lambda output: output.note(ATTACK),
        lambda output: output.fail(Failed(ATTACK)),
        lambda output: output.show(PipeOpen(ATTACK, "stream", ATTACK, True, 0.1, ATTACK, ATTACK, ATTACK, True)),
        lambda output: output.observe(ServerFailed("broker", ATTACK, ATTACK)),
        lambda output: output.observe(StrangerRefused(ATTACK, ATTACK)),
        lambda output: output.trace(ValueError(ATTACK)),
    ],
)
def test_records_events_and_errors(say, capsys: pytest.CaptureFixture[str]) -> None:
    with guarded_streams():
        say(Output(verbose=True))
    captured = capsys.readouterr()
    assert captured.out + captured.err
    assert harmless(captured.out)
    assert harmless(captured.err)


@pytest.mark.parametrize("words", [("connect",), ("explain",), ("-v", "connect")])
@pytest.mark.parametrize(
    "refusal",
    [
        ConnectFailed(ATTACK, (PluginReport(ATTACK, "failed", ATTACK, 0.0, 0.1, ((0.1, ATTACK),)),)),
        ProtocolError(ATTACK),
        RuntimeError(ATTACK),
    ],
)
def test_what_a_peer_says_when_it_refuses(words, refusal, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, target_text()], FakeWorld(refusal=refusal).node_maker) == 1
    captured = capsys.readouterr()
    assert "owned" in captured.err
    assert harmless(captured.out)
    assert harmless(captured.err)


def test_what_libraries_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def blunder(*_: object, **__: object) -> None:
        logging.getLogger("somebody").error("bad packet: %s", ATTACK)
        await asyncio.sleep(0)

    # pytest has handlers of its own; a program has none.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with guarded_streams():
        from warpgate.cli.settings import Settings  # noqa: PLC0415
        from warpgate.cli.shell import Shell  # noqa: PLC0415
        from warpgate.config import Config  # noqa: PLC0415

        Shell(Settings(Config()), Output(), FakeWorld().node_maker).run(blunder())  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert shown.startswith("warpgate: log: bad packet: x\\x1b")
    assert harmless(shown)
    assert shown.count("\n") == 1


async def test_what_was_typed_before_a_question_does_not_answer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        person, terminal = pty.openpty()
        for descriptor in (person, terminal):
            stack.callback(os.close, descriptor)
        monkeypatch.setattr(asking, "_STDIN", terminal)
        monkeypatch.setattr(type(TERMINAL), "is_ours", lambda self, descriptor: True)
        asked = asyncio.Event()
        output = SimpleNamespace(prompt=lambda text: asked.set(), note=lambda text: None)
        keeper = asking.Doorkeeper(output, contextlib.nullcontext)  # type: ignore[arg-type]
        os.write(person, b"y\n")
        select.select([terminal], [], [], 10.0)  # there it is: a whole line
        agreed = asyncio.ensure_future(keeper.consent(Announced("a" * 26, "file", False, 1, 10)))
        await asyncio.wait_for(asked.wait(), 10.0)
        os.write(person, b"n\n")
        assert await asyncio.wait_for(agreed, 10.0) is False
