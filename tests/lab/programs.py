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


async def seats(lab: Lab, folder: Path, kind_a: str = "eim-apdf", kind_b: str = "eim-apdf") -> tuple[Seat, Seat]:
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


async def started(seat: Seat, *words: str) -> Process:
    """A warpgate that speaks JSON."""
    command = ("warpgate", *words, "--json")
    return await seat.host.popen(command, env=seat.env, stdout=PIPE, stderr=STDOUT)


async def next_event(process: Process, *kinds: str) -> dict[str, Any]:
    """The next of these; a failure, or the end, before it fails the test."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while line := await process.stdout.readline():
            found: dict[str, Any] = json.loads(line)
            if found["event"] in kinds:
                return found
            assert found["event"] != "failed", found
    raise AssertionError(f"ended without {kinds}")


async def sent_although_the_receiver_is_killed(
    here: Seat, there: Seat, file: str, folder: str, size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its events "sent" and "received" at the end. `file` and `folder` as each seat writes them."""
    receiver = await started(there, "receive", folder)
    address = (await next_event(receiver, "ready"))["address"]
    sender = await started(here, "send", file, address)
    while (await next_event(sender, "progress"))["done"] < size // 4:
        pass
    await there.host.stop(receiver, kill=True)
    receiver = await started(there, "receive", folder)
    await next_event(receiver, "ready")
    sent, received = await next_event(sender, "sent"), await next_event(receiver, "received")
    assert await sender.wait() == 0
    await there.host.stop(receiver)
    await here.host.stop(sender)
    return sent, received


def events(output: bytes) -> list[dict[str, Any]]:
    """The objects that --json has printed."""
    return [json.loads(line) for line in output.splitlines()]


def script(text: str) -> Sequence[str]:
    """A command that runs this Python program."""
    return (sys.executable, "-c", text)
