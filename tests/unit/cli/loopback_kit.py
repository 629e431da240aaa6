"""Real programs on the loopback interface, without brokers or STUN, each with an identity of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

PATIENCE = 30


@dataclass
class Program:
    """One warpgate process with its own identity."""

    process: subprocess.Popen

    def read_event(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def ready(self) -> str:
        """The address, once the listener is up."""
        event = self.read_event()
        assert event["event"] == "ready", event
        return event["address"]

    def finish(self, data: bytes | None = None) -> tuple[int, bytes, bytes]:
        output, errors = self.process.communicate(data, timeout=PATIENCE)
        return self.process.returncode, output, errors


def _own_the_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def start(tmp_path) -> Iterator:
    started = []

    def start(
        name: str,
        *words: str,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        session=False,
        program=("-m", "warpgate"),
        redirected="",
    ) -> Program:
        """`session`: its stdin is the terminal of a session of its own, as a shell's is. `redirected`: as a shell has
        it, such as ">&-".
        """
        environment = {
            **os.environ,
            "WARPGATE_DATA": str(tmp_path / name),
            "WARPGATE_INTERFACE": "lo",
            "WARPGATE_BROKER": "",
            "WARPGATE_STUN": "",
        }
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, *program, *words],
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=_own_the_terminal if session else None,  # noqa: PLW1509 - no threads here
        )
        started.append(process)
        return Program(process)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what a test wrote and nobody read
                    stream.close()
