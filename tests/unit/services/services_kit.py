"""A real mosquitto on loopback, and what else the service tests share."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from warpgate.services.portmap_board import Remembered


def free_port() -> int:
    """One whose neighbour is free, too, below the range from which the system takes ports for connections."""
    for port in random.sample(range(20000, 32000), 1000):
        with (
            socket.socket() as tcp,
            socket.socket() as next_tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            try:
                tcp.bind(("", port))
                next_tcp.bind(("", port + 1))
                udp.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


class Mosquitto:
    """One broker process; `kill` is SIGKILL, `start` again comes up on the same port with no memory."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.port = free_port()
        self._config = directory / f"mosquitto-{self.port}.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n"
            f"log_dest none\n{extra}"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(["mosquitto", "-c", str(self._config)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "mosquitto did not come up"
                time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


async def until(condition: Callable[[], object], patience: float = 10.0) -> None:
    """Turns of the loop until the condition holds: for what a real process does meanwhile."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - a process has no event to wait for
            await asyncio.sleep(0.002)


class Leases:
    """A `LeaseStore` in memory."""

    def __init__(self) -> None:
        self.leases: tuple[Remembered, ...] = ()

    def load(self) -> tuple[Remembered, ...]:
        return self.leases

    def save(self, leases: tuple[Remembered, ...]) -> None:
        self.leases = leases
