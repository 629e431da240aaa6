"""`warpgate send` to `warpgate receive` between two NATs, a receiver that is killed, hosts that move in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path
from typing import Any

import pytest
from programs import (
    PATIENCE,
    Seat,
    next_event,
    script,
    seats,
    sent_although_the_receiver_is_killed,
    started,
)

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

SIZE = 16_000_000


async def test_a_receiver_that_is_killed_and_started_again(lab: Lab, tmp_path: Path) -> None:
    content = random.Random(4).randbytes(SIZE)
    (tmp_path / "blob").write_bytes(content)
    (incoming := tmp_path / "incoming").mkdir()
    a, b = await seats(lab, tmp_path)
    sent, received = await sent_although_the_receiver_is_killed(a, b, str(tmp_path / "blob"), str(incoming), SIZE)
    digest = hashlib.sha256(content).hexdigest()
    assert sent["sha256"] == received["sha256"] == digest
    assert sent["resumed"] == received["resumed"] >= 1_000_000
    assert [path.name for path in incoming.iterdir()] == ["blob"]
    assert hashlib.sha256((incoming / "blob").read_bytes()).hexdigest() == digest


async def last_of(process: Process, kind: str) -> dict[str, Any]:
    """The event of this kind, whatever has failed before it."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while (found := json.loads(await process.stdout.readline()))["event"] != kind:
            pass
    return dict(found)


# Both print a line for each event; the first one's says where it is.
RECEIVE = """
import asyncio, json, sys
from pathlib import Path
import warpgate
from warpgate.transfer.receiver import Receiver

async def main():
    async with warpgate.Node(warpgate.Config.from_user()) as node:
        print(json.dumps({"event": "ready", "address": node.address.to_text()}), flush=True)
        done = await Receiver(Path(sys.argv[1])).take(await node.accept())
        print(json.dumps({"event": "received", "sha256": done.sha256, "resumed": done.resumed}), flush=True)
        await asyncio.sleep(1)

asyncio.run(main())
"""
SEND = """
import asyncio, json, sys
from pathlib import Path
import warpgate
from warpgate.transfer.sender import send
from warpgate.transfer.source import scan

async def main():
    async with warpgate.Node(warpgate.Config.from_user()) as node:
        pipes = []
        async def connect():
            pipes.append(await node.connect(sys.argv[2], durable=True))
            return pipes[-1]
        def watch(report):
            print(json.dumps({"event": "progress", "done": getattr(report, "done", 0)}), flush=True)
        done = await send(scan(Path(sys.argv[1])), connect, patience=60.0, watcher=watch)
        moves = pipes[0].connection.moves
        print(json.dumps(
            {"event": "sent", "sha256": done.sha256, "resumed": done.resumed, "pipes": len(pipes), "moves": moves}
        ), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "plain"])
async def test_both_hosts_move_at_once_twice(lab: Lab, tmp_path: Path, durable: bool) -> None:
    """Over a durable pipe it goes on as if nothing had been; the command, which takes a plain one, resumes."""
    content = random.Random(5).randbytes(SIZE)
    (tmp_path / "blob").write_bytes(content)
    (incoming := tmp_path / "incoming").mkdir()
    a, b = await seats(lab, tmp_path)
    receiver = await (program(b, RECEIVE, str(incoming)) if durable else started(b, "receive", str(incoming)))
    address = (await next_event(receiver, "ready"))["address"]
    words = (str(tmp_path / "blob"), address)
    sender = await (program(a, SEND, *words) if durable else started(a, "send", *words))
    for quarter in (1, 2):
        while (await last_of(sender, "progress"))["done"] < quarter * SIZE // 4:
            pass
        for seat in (a, b):
            lab.move(seat.host, "eim-apdf")
    sent, received = await last_of(sender, "sent"), await last_of(receiver, "received")
    assert await sender.wait() == 0
    await b.host.stop(receiver)
    assert sent["sha256"] == received["sha256"] == hashlib.sha256(content).hexdigest()
    assert (incoming / "blob").read_bytes() == content
    if durable:
        assert (sent["resumed"], sent["pipes"], sent["moves"] >= 2) == (0, 1, True)
    else:
        assert sent["resumed"] == received["resumed"] > 0


async def program(seat: Seat, text: str, *words: str) -> Process:
    return await seat.host.popen((*script(text), *words), env=seat.env, stdout=PIPE, stderr=STDOUT)
