"""Programs and nodes on the loopback interface of whatever system this is, without servers.

These tests need nothing but Python and pytest: they run on Linux, macOS, Windows, and on Windows' Python under Wine.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from warpgate.config import Config
from warpgate.platform import INTERFACES, PROCESSES

PATIENCE = 60.0
WINDOWS = os.name == "nt"
# Wine shuts a socket down before it closes it, so that there is no reset.
WINE = WINDOWS and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def loopback() -> str:
    """What the system calls the interface."""
    return next(each.name for each in INTERFACES.assigned() if each.ip.is_loopback and each.ip.version == 4)


def quiet_config(**more: Any) -> Config:
    return Config(brokers=(), stun=(), interfaces=(loopback(),), port_map=False, **more)


def environment(folder: Path) -> dict[str, str]:
    """Of a program that is not to leave this machine."""
    found = {
        **os.environ,
        "WARPGATE_DATA": str(folder),
        "WARPGATE_INTERFACE": loopback(),
        "WARPGATE_BROKER": "",
        "WARPGATE_STUN": "",
        "WARPGATE_PORT_MAP": "no",
    }
    found.pop("WARPGATE_CONFIG", None)
    return found


# Tells its child to end, once that has said something: by a signal, or by making the file of this name. Ctrl-C is for
# all programs of a console but those in a group of their own, Ctrl-Break for a group.
TELLER = """
import os, signal, subprocess, sys
how, *command = sys.argv[1:]
pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if how == "CTRL_BREAK_EVENT" else {}
child = subprocess.Popen(command, **pipes, **group)
child.stdin.write(b"up\\n")
child.stdin.flush()
child.stdout.readline()
signal.signal(signal.SIGINT, lambda *_: None)  # we are told, too
if (number := getattr(signal, how, None)) is not None:  # that of Ctrl-C is 0
    os.kill(0 if how == "CTRL_C_EVENT" else child.pid, number)
else:
    open(how, "w").close()
child.wait(30)
sys.stderr.buffer.write(child.stderr.read())
sys.exit(child.returncode)
"""


# Runs warpgate, and does what Windows' C library does at Ctrl-Break when there is a file of this name: it has the
# signal in a thread of the console's. Wine's consoles know Ctrl-C alone.
BREAKING = """
import os, runpy, signal, sys, threading, time
name = sys.argv.pop(1)
def wait():
    while not os.path.exists(name):
        time.sleep(0.05)
    signal.raise_signal(signal.SIGBREAK)
threading.Thread(target=wait, daemon=True).start()
runpy.run_module("warpgate", run_name="__main__", alter_sys=True)
"""


def told_to_end(folder: Path, *words: str, by_user: bool) -> tuple[int, bytes]:
    """Status and stderr of a program that Ctrl-C ends, or else whoever ends programs. On Windows it has a console."""
    how = ("CTRL_C_EVENT" if by_user else "CTRL_BREAK_EVENT") if WINDOWS else ("SIGINT" if by_user else "SIGTERM")
    program = [sys.executable, "-m", "warpgate"]
    if WINE and not by_user:
        how = str(folder) + "-break"
        program = [sys.executable, "-c", BREAKING, how]
    done = subprocess.run(
        [sys.executable, "-c", TELLER, how, *program, *words],
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        creationflags=getattr(subprocess, "CREATE_NEW_CONSOLE", 0),
        check=False,
    )
    return done.returncode, done.stderr


class Program:
    """One warpgate process with a key of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "warpgate", *words],
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **PROCESSES.own_group(),
        )

    def read_event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate(timeout=PATIENCE))
        found: dict[str, Any] = json.loads(line)
        return found

    def ready(self) -> str:
        """The address, once the listener is up."""
        event = self.read_event()
        assert event["event"] == "ready", event
        return str(event["address"])

    def finish(self, data: bytes | None = None) -> tuple[int, bytes, bytes]:
        output, errors = self.process.communicate(data, timeout=PATIENCE)
        return self.process.returncode, output, errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Program] = []

    def start(name: str, *words: str) -> Program:
        started.append(Program(tmp_path / name, *words))
        return started[-1]

    yield start
    for program in started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            program.process.kill()
        program.process.wait()
        for stream in (program.process.stdin, program.process.stdout, program.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
