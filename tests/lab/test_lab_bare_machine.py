"""The command where there is nothing yet: no interface that is up, no place for a key."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from needs import need_programs
from programs import BIN, PATIENCE

pytestmark = pytest.mark.lab

# The address is that of a time when loopback was up, with the same port, which follows from the key.
COMES_UP_LATER = """
ip link set lo up
warpgate address >address
ip link set lo down
warpgate listen --echo --json -v >log &
until grep ready log; do kill -0 $! && sleep 0.1; done
ip link set lo up
until grep address_changed log | grep '"attachments": [12]'; do kill -0 $! && sleep 0.1; done
WARPGATE_IDENTITY=other warpgate connect @address --ping 1 --json
kill $!
wait $!
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WARPGATE_", "XDG_"))}
    servers = {"WARPGATE_BROKER": "", "WARPGATE_STUN": "", "WARPGATE_NAMES": ""}
    return {**kept, **servers, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def test_a_node_starts_without_any_interface_and_is_reached_when_one_is_up(tmp_path: Path) -> None:
    need_programs("unshare", "ip")
    done = subprocess.run(
        ["unshare", "-npf", "--kill-child", "sh", "-ec", COMES_UP_LATER],
        cwd=tmp_path,
        env=environment(WARPGATE_DATA=str(tmp_path / "data")),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines if line["event"] in ("ready", "pipe", "pong")] == [
        "ready",
        "pipe",
        "pong",
    ]


def test_doctor_says_of_a_machine_without_a_network_what_is_the_matter_once(tmp_path: Path) -> None:
    """With the servers that come with the package, all of which it would look up."""
    need_programs("unshare", "ip")
    known = environment(WARPGATE_DATA=str(tmp_path / "data"), XDG_CONFIG_HOME=str(tmp_path))
    del known["WARPGATE_BROKER"], known["WARPGATE_STUN"]
    done = subprocess.run(
        ["unshare", "-n", "sh", "-ec", "ip link set lo up; exec warpgate doctor --json"],
        env=known,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    told = {
        section: [finding["message"] for finding in findings if finding["section"] == section]
        for section in ("interfaces", "brokers", "STUN")
    }
    assert "no default route: this machine reaches its own networks alone" in told["interfaces"]
    for section in ("brokers", "STUN"):
        reason, consequence = told[section]
        assert reason.endswith(" not reached: no default route")
        assert not consequence.startswith("resolve")


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """Mounted read-only, so that root cannot write either; an identity that is there already will do."""
    need_programs("unshare", "mount")
    script = f"mount --bind -r {tmp_path} {tmp_path} && exec warpgate id"
    command = ["unshare", "-m", "sh", "-c", script]
    refused = subprocess.run(
        command, env=environment(HOME=str(tmp_path)), capture_output=True, timeout=PATIENCE, check=False
    )
    assert (refused.returncode, refused.stdout) == (2, b"")
    (line,) = refused.stderr.decode().splitlines()
    assert "Read-only file system" in line
    assert "set WARPGATE_DATA" in line
    made = subprocess.run(["warpgate", "id"], env=environment(HOME=str(tmp_path)), capture_output=True, check=True)
    found = subprocess.run(command, env=environment(HOME=str(tmp_path)), capture_output=True, check=True)
    assert found.stdout == made.stdout


@pytest.mark.parametrize("home", ["", "/proc", "/dev/null"])
def test_a_home_that_is_none(home: str) -> None:
    refused = subprocess.run(
        ["warpgate", "id"], env=environment(HOME=home), capture_output=True, timeout=PATIENCE, check=False
    )
    assert (refused.returncode, refused.stdout) == (2, b"")
    (line,) = refused.stderr.decode().splitlines()
    assert "set WARPGATE_DATA" in line


def test_no_home_and_no_such_user() -> None:
    """As in a container that runs as a number."""
    need_programs("setpriv")
    given = environment()
    del given["HOME"]
    command = ["setpriv", "--reuid", "54321", "--clear-groups", str(BIN / "warpgate"), "id"]
    refused = subprocess.run(command, env=given, capture_output=True, timeout=PATIENCE, check=False)
    assert refused.returncode == 2, refused
    (line,) = refused.stderr.decode().splitlines()
    assert "there is no home directory" in line
    assert "set WARPGATE_DATA" in line
