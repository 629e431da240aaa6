"""Two hosts behind NATs in which users type commands: the lab's servers and a key each, `warpgate` on the path."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from needs import need_programs

from warpgate.lab.host import Completed, Host
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab

BIN = Path(sys.executable).parent
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Seat:
    """A host, and a user's environment in it."""

    host: Host
    env: dict[str, str]

    async def run(self, *command: str | os.PathLike[str]) -> Completed:
        return await self.host.run(command, env=self.env, timeout=PATIENCE)

    @asynccontextmanager
    async def running(self, *command: str, says: bytes) -> AsyncIterator[tuple[Process, bytes]]:
        """A program, once it has said this (on stdout or stderr), and the line that it said it in."""
        process = await self.host.popen(command, env=self.env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
        try:
            yield process, await line_with(process, says)
        finally:
            await self.host.stop(process)


async def seats(
    lab: Lab, folder: Path, kind_a: str = "eim-apdf", kind_b: str = "eim-apdf"
) -> tuple[Seat, Seat]:
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2)
    broker, stun = await asyncio.gather(start_mosquitto(server), start_coturn(server))
    path = f"{BIN}:{os.environ['PATH']}"
    known = {"WARPGATE_BROKER": broker.mqtt_url, "WARPGATE_STUN": str(stun.endpoint), "PATH": path}
    a, b = (
        Seat(lab.add_host(name, kind), {**known, "WARPGATE_DATA": str(folder / name)})
        for name, kind in (("a", kind_a), ("b", kind_b))
    )
    return a, b


async def line_with(process: Process, words: bytes) -> bytes:
    assert process.stdout is not None
    heard = b""
    async with asyncio.timeout(PATIENCE):
        while words not in (line := await process.stdout.readline()):
            assert line, heard
            heard += line
    return line


def events(output: bytes) -> list[dict[str, Any]]:
    """The objects that --json has printed."""
    return [json.loads(line) for line in output.splitlines()]


def script(text: str) -> Sequence[str]:
    """A command that runs this Python program."""
    return (sys.executable, "-c", text)
