"""`warpgate send` to `warpgate receive` between two NATs, and a receiver that is killed in the middle of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
from programs import PATIENCE, Seat, seats

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

SIZE = 16_000_000


async def started(seat: Seat, *words: str) -> Process:
    """A warpgate that speaks JSON."""
    command = ("warpgate", *words, "--json")
    return await seat.host.popen(command, env=seat.env, stdout=PIPE, stderr=asyncio.subprocess.STDOUT)


async def next_event(process: Process, *kinds: str) -> dict[str, Any]:
    """The next of these; what is none fails the test, unless it is progress."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while True:
            found: dict[str, Any] = json.loads(await process.stdout.readline())
            if found["event"] in kinds:
                return found
            assert found["event"] in ("progress", "offered", "interrupted"), found


async def test_a_receiver_that_is_killed_and_started_again(lab: Lab, tmp_path: Path) -> None:
    """Over TCP, where its kernel says so at once; over UDP its silence would be noticed after 30 s."""
    sent = random.Random(4).randbytes(SIZE)
    (tmp_path / "blob").write_bytes(sent)
    (incoming := tmp_path / "incoming").mkdir()
    a, b = await seats(lab, tmp_path)
    receiver = await started(b, "receive", str(incoming))
    address = (await next_event(receiver, "ready"))["address"]
    sender = await started(a, "send", str(tmp_path / "blob"), address, "--transport", "tcp")
    progress = await next_event(sender, "progress")
    while progress["done"] < SIZE // 4:
        progress = await next_event(sender, "progress")
    await b.host.stop(receiver, kill=True)
    assert not (incoming / "blob").exists()
    receiver = await started(b, "receive", str(incoming))
    await next_event(receiver, "ready")
    done = await next_event(sender, "sent")
    received = await next_event(receiver, "received")
    assert await sender.wait() == 0
    digest = hashlib.sha256(sent).hexdigest()
    assert done["sha256"] == received["sha256"] == digest
    assert done["resumed"] == received["resumed"] >= 1_000_000
    assert [path.name for path in incoming.iterdir()] == ["blob"]
    assert hashlib.sha256((incoming / "blob").read_bytes()).hexdigest() == digest
    await b.host.stop(receiver)
    await a.host.stop(sender)
