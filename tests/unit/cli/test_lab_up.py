"""`warpgate lab up`: what is run where, and what comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from warpgate.cli.lab_up import DEFAULT_B, split_commands
from warpgate.cli.main import main
from warpgate.cli.options import UsageError


@pytest.mark.parametrize(
    ("words", "first", "second"),
    [
        ((), (), ()),
        (("a", "-b"), ("a", "-b"), ()),
        (("a", "::", "b", "--", "::"), ("a",), ("b", "--", "::")),
        (("warpgate", "connect", "@b"), ("warpgate", "connect", "@b"), DEFAULT_B),
        (("a", "@b", "::", "b"), ("a", "@b"), ("b",)),
    ],
)
def test_commands_are_split(words, first, second):
    assert split_commands(words) == (first, second)


@pytest.mark.parametrize("words", [("::",), ("a", "::"), ("::", "b")])
def test_both_sides_want_a_command(words):
    with pytest.raises(UsageError):
        split_commands(words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--a", "eim"), "--b"),
        (("--a", "eim", "--b", "conical"), "conical"),
        (("--a", "eim", "--b", "eim", "--delay", "-1"), "--delay"),
        (("--a", "eim", "--b", "eim", "--delay", "inf"), "--delay"),
        (("--a", "eim", "--b", "eim", "--loss", "101"), "probabilities"),
        (("--a", "eim", "--b", "eim", "stray"), "stray"),
    ],
)
def test_a_lab_that_cannot_be_is_refused(words, says, capsys):
    assert main(["lab", "up", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert says in captured.err


def test_kinds_are_listed(capsys):
    assert main(["lab", "kinds", "--json"]) == 0
    kinds = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"event": "kind", "name": "public", "description": "no router: a host on the internet"} in kinds
    assert main(["lab", "kinds"]) == 0
    assert "+rst" in capsys.readouterr().out


def lab(*words: str) -> list[str]:
    return [sys.executable, "-m", "warpgate", "lab", "up", "--a", "eim", "--b", "edm", *words]


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(lab(*words), input="typed", capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def possible() -> None:
    """Skip where this machine cannot have a lab; fail where everything is meant to be there."""
    tried = run("--", "true")
    if tried.returncode and "the lab needs" in tried.stderr:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(tried.stderr)


@pytest.mark.lab
@pytest.mark.usefixtures("possible")
def test_commands_run_in_their_hosts():
    address = "wg1" + "A" * 60
    second = f"echo here: {address}; env | grep WARPGATE_DATA; exec sleep 60"
    done = run("--", "sh", "-c", "cat; echo; echo $0; env | grep WARPGATE_; exit 7", "@b", "::", "sh", "-c", second)
    assert done.returncode == 7
    typed, told, *variables = done.stdout.splitlines()
    assert (typed, told) == ("typed", address)
    assert "WARPGATE_BROKER=mqtt://198.51.100.1:1883" in variables
    assert "WARPGATE_STUN=198.51.100.1:3478" in variables
    assert done.stderr.splitlines()[0] == f"b| here: {address}"
    assert done.stderr.splitlines()[1] not in variables  # each host has a key of its own


@pytest.mark.lab
@pytest.mark.usefixtures("possible")
def test_a_second_command_without_an_address_is_told():
    done = run("--", "true", "@b", "::", "echo", "nothing")
    assert done.returncode == 1
    assert "without printing an address" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.lab
@pytest.mark.usefixtures("possible")
def test_a_program_that_is_not_there_is_told():
    done = run("--", "no-such-program")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no-such-program" in done.stderr


@pytest.mark.lab
@pytest.mark.usefixtures("possible")
def test_a_lab_stands_until_interrupted_and_can_be_entered():
    process = subprocess.Popen(lab("--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    hosts = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [host["name"] for host in hosts] == ["server", "a", "b"]
    assert (hosts[1]["kind"], hosts[2]["kind"]) == ("eim", "edm")
    assert hosts[1]["outside"] == ["203.0.113.1"]
    entered = subprocess.run(
        hosts[1]["enter"].replace("$SHELL", "ip addr"), shell=True, capture_output=True, text=True, check=True
    )
    assert hosts[1]["addresses"][0] in entered.stdout
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130
