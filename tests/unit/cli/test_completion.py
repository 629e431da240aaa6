"""Completion in the real shells, the manual page in the real formatter, the unit in the real checker."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loopback_kit import PATIENCE
from need_kit import need_programs

from warpgate.cli.grammar import all_commands
from warpgate.cli.install_service import quoted, unit_text
from warpgate.cli.main import main
from warpgate.cli.options import UsageError
from warpgate.platform import PROCESSES

COMPLETED = [
    ("warpgate lis", "warpgate listen "),
    ("warpgate listen --forw", "warpgate listen --forward "),
    ("warpgate --json lab matr", "warpgate --json lab matrix "),
    ("warpgate lab matrix --no-rel", "warpgate lab matrix --no-relay "),
    ("warpgate connect wg1x --transport u", "warpgate connect wg1x --transport udp "),
    ("warpgate send fi", "warpgate send file-to-send "),
    ("warpgate connect @fi", "warpgate connect @file-to-send "),
    ("warpgate id --identity work --verb", "warpgate id --identity work --verbose "),
]
START = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
LOAD = {
    "bash": "source {script}",
    "zsh": "autoload -U compinit; compinit -u -D; unsetopt automenu; source {script}",
}


@pytest.fixture(params=["bash", "zsh", "fish"])
def script(request, tmp_path, capsys):
    need_programs(request.param)
    assert main(["completion", request.param]) == 0
    (tmp_path / request.param).write_text(capsys.readouterr().out)
    (tmp_path / "file-to-send").touch()
    return tmp_path / request.param


class Screen:
    """A shell at a terminal."""

    def __init__(self, script: Path) -> None:
        self.screen, terminal = pty.openpty()
        environment = {
            "PATH": os.environ["PATH"],
            "TERM": "dumb",
            "HOME": str(script.parent),
            "PS1": "> ",
            "LC_ALL": "C",
        }
        self.process = subprocess.Popen(
            START[script.name],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment,
            cwd=script.parent,
            start_new_session=True,
        )
        os.close(terminal)

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def until(self, wanted: str) -> None:
        shown, deadline = "", time.monotonic() + PATIENCE
        while wanted not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([self.screen], [], [], 1.0)[0]:
                shown += os.read(self.screen, 65536).decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)


def test_what_is_begun_is_completed(script):
    """bash and zsh at a terminal, a Tab behind each; fish says itself what it would offer."""
    if script.name == "fish":
        for begun, completed in COMPLETED:
            told = subprocess.run(
                ["fish", "--no-config", "-c", f'source {script}; complete -C"{begun}"'],
                capture_output=True,
                cwd=script.parent,
                text=True,
                check=True,
                timeout=PATIENCE,
            )
            assert completed.split()[-1] in told.stdout, (begun, told)
        return
    with contextlib.closing(Screen(script)) as screen:
        screen.type(LOAD[script.name].format(script=script) + "; echo lo''aded\n")
        screen.until("loaded")
        for begun, completed in COMPLETED:
            # What follows the Tab goes to the command line that the shell has made of it.
            screen.type(f"{begun}\t")
            screen.until(completed.rstrip().split()[-1][len(begun.split()[-1]) :])
            screen.type("\x15")


def test_every_option_of_every_command_is_in_the_script(script):
    text = script.read_text()
    for command in all_commands():
        for option in command.options + command.common:
            for flag in option.flags:
                named = flag.lstrip("-") if script.name == "fish" else flag
                assert named in text


def test_the_manual_page_is_formatted_without_a_warning(capsys):
    need_programs("groff")
    assert main(["manual"]) == 0
    page = capsys.readouterr().out
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", "-P-cbou"], input=page, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    shown = " ".join(done.stdout.split())
    for command in all_commands():
        for option in command.options:
            assert all(flag in shown for flag in option.flags)
        assert " ".join(command.words) in shown
    assert "ssh -o ProxyCommand='warpgate connect %h' user@HOST" in shown


WORDS = ["listen", "--forward", "22", "--name", "my-node", "--allow", "a" * 26]


@pytest.mark.parametrize("words", [WORDS, ["listen", "--exec", "echo \"$HOME\" 100% 'a\\b'"]])
def test_the_unit_passes_systemds_own_check(tmp_path, words):
    need_programs("systemd-analyze")
    (tmp_path / "warpgate-test.service").write_text(unit_text(words, {"WARPGATE_BROKER": "mqtt://h:1 mqtt://i:2"}))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", tmp_path / "warpgate-test.service"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_systemd_no_unit_is_written(own_home, monkeypatch, capsys):
    monkeypatch.setattr(PROCESSES, "may_have_systemd", False)
    assert main(["install-service", "receive", ".", "--yes"]) == 2
    assert "this system has no systemd" in capsys.readouterr().err
    assert not (own_home / "config" / "systemd").exists()


def test_the_unit_is_written_once_and_runs_this_program(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("WARPGATE_DATA", "/keys")
    assert main(["install-service", "--unit", "inbox", "receive", ".", "--yes"]) == 0
    assert "systemctl --user enable --now inbox.service" in capsys.readouterr().out
    unit = (tmp_path / "systemd" / "user" / "inbox.service").read_text()
    assert f'ExecStart="{sys.executable}" "-m" "warpgate" "receive" "." "--yes"\n' in unit
    assert 'Environment="WARPGATE_DATA=/keys"\n' in unit
    assert main(["install-service", "--unit", "inbox", "listen", "--echo"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["install-service", "--unit", "inbox", "--replace", "listen", "--echo"]) == 0
    assert "--echo" in (tmp_path / "systemd" / "user" / "inbox.service").read_text()


def test_the_unit_of_a_zipapp_runs_the_zipapp(tmp_path, monkeypatch):
    """Whose modules no other interpreter finds."""
    archive = tmp_path / "warpgate.pyz"
    archive.touch()
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(archive / "__main__.py"), raising=False)
    assert f'ExecStart="{sys.executable}" "{archive}" "listen"\n' in unit_text(["listen"], {})


@pytest.mark.parametrize(
    "words",
    [[], ["connect", "wg1"], ["listen", "--fly"], ["--unit", "../x", "listen"], ["listen", "--exec", "a\nb"]],
)
def test_what_is_no_service(words, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["install-service", *words]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_line_feed_cannot_bring_in_a_setting():
    with pytest.raises(UsageError):
        quoted("a\nExecStartPre=/bin/evil")
