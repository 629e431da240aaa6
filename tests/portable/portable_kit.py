"""Programs and nodes on the loopback interface of whatever system this is, without servers.

These tests need nothing but Python and pytest: they run on Linux, macOS, Windows, and on Windows' Python under Wine.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
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
# Wine shuts a socket down before it closes it, so that there is no reset, and gives no port to two sockets.
WINE = WINDOWS and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def loopback() -> str:
    """What the system calls the interface."""
    return next(each.name for each in INTERFACES.assigned() if each.ip.is_loopback and each.ip.version == 4)


def quiet_config(**more: Any) -> Config:
    return Config(brokers=(), stun=(), interfaces=(loopback(),), port_map=False, **more)


class Program:
    """One warpgate process with a key of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        environment = {
            **os.environ,
            "WARPGATE_DATA": str(folder),
            "WARPGATE_INTERFACE": loopback(),
            "WARPGATE_BROKER": "",
            "WARPGATE_STUN": "",
            "WARPGATE_PORT_MAP": "no",
        }
        environment.pop("WARPGATE_CONFIG", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "warpgate", *words],
            env=environment,
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

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


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
