"""`warpgate send` to `warpgate receive` between two NATs, a receiver that is killed, hosts that move in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import pytest
from needs import need_programs
from programs import (
    BIN,
    PATIENCE,
    Seat,
    next_event,
    seats,
    sent_although_the_receiver_is_killed,
    started,
)

from warpgate.lab.servers import start_coturn, start_mosquitto
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


async def until_done(sender: Process, size: int) -> None:
    while (await last_of(sender, "progress"))["done"] < size:
        pass


async def test_both_hosts_move_at_once_twice(lab: Lab, tmp_path: Path) -> None:
    """It goes on as if nothing had been: nothing is connected or sent once more."""
    content = random.Random(5).randbytes(SIZE)
    (tmp_path / "blob").write_bytes(content)
    (incoming := tmp_path / "incoming").mkdir()
    a, b = await seats(lab, tmp_path)
    receiver = await started(b, "receive", str(incoming))
    address = (await next_event(receiver, "ready"))["address"]
    sender = await started(a, "send", str(tmp_path / "blob"), address)
    for quarter in (1, 2):
        await until_done(sender, quarter * SIZE // 4)
        for seat in (a, b):
            lab.move(seat.host, "eim-apdf")
    sent, received = await next_event(sender, "sent", "interrupted"), await last_of(receiver, "received")
    assert await sender.wait() == 0
    await b.host.stop(receiver)
    assert sent["sha256"] == received["sha256"] == hashlib.sha256(content).hexdigest()
    assert (incoming / "blob").read_bytes() == content
    assert sent["resumed"] == received["resumed"] == 0


async def test_the_relay_is_killed_while_the_sender_moves_to_ipv6_alone(lab: Lab, tmp_path: Path) -> None:
    """A directory over a relay, which is all that two unpredictable NATs have; over IPv6 the two reach each other."""
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2, ipv6=2)
    broker, stun, relay = await asyncio.gather(
        start_mosquitto(server), start_coturn(server), start_coturn(lab.add_host("relay"), "user", "word")
    )
    six = next(ip for ip in server.attached[0].addresses if ip.version == 6)
    env = {
        "WARPGATE_BROKER": f"{broker.mqtt_url},mqtt://[{six}]:1883",
        "WARPGATE_STUN": f"{stun.endpoint},[{six}]:3478",
        "WARPGATE_TURN": f"turn:user:word@{relay.endpoint}",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    a, b = (
        Seat(lab.add_host(name, "edm", ipv6=ipv6), {**env, "WARPGATE_DATA": str(tmp_path / name)})
        for name, ipv6 in (("a", 0), ("b", 1))
    )
    (folder := tmp_path / "photos").mkdir()
    for number in range(4):
        (folder / f"{number}").write_bytes(random.Random(number).randbytes(SIZE // 4))
    (incoming := tmp_path / "incoming").mkdir()
    receiver = await started(b, "receive", str(incoming))
    address = (await next_event(receiver, "ready"))["address"]
    sender = await started(a, "send", str(folder), address)
    await until_done(sender, SIZE // 4)
    await relay.kill()
    lab.move(a.host, "firewalled", ipv4=0, ipv6=1)
    sent = await next_event(sender, "sent", "interrupted")
    assert await sender.wait() == 0
    await b.host.stop(receiver)
    assert sent["resumed"] == 0
    assert {path.name: path.read_bytes() for path in (incoming / "photos").iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
