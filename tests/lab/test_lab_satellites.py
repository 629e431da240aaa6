"""The real program where every round trip, also that to the broker, takes as long as over a satellite, or over two."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from programs import Seat, events, seats

from warpgate.lab.line import Quality
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

SIZE = 1 << 20
SETTLED = 15.0  # seconds: a listener knows its NAT by then
FIRST = 6.0  # round trips until a pipe is there, with what a program needs to start


@pytest.mark.timeout(300)
@pytest.mark.parametrize("round_trip", [1.5, pytest.param(2.5, marks=pytest.mark.long)])
async def test_pings_and_a_megabyte(privileges: None, tmp_path: Path, round_trip: float) -> None:
    async with Lab(seed=5, link=Quality(delay=round_trip / 4)) as lab:
        a, b = await seats(lab, tmp_path)
        async with b.running("warpgate", "listen", "--echo", "--json", says=b"ready") as (_, line):
            address = json.loads(line)["address"]
            await asyncio.sleep(SETTLED)
            await _ping(a, address, round_trip, "--datagram")
            await _ping(a, address, round_trip, "--tls", "--no-durable")
            for _ in range(2):  # the second by the endpoints that the first has found
                await _stream(a, address, tmp_path)


async def _ping(seat: Seat, address: str, round_trip: float, *words: str) -> None:
    done = await seat.run("warpgate", "connect", address, "--ping", "2", "--json", *words)
    assert done.returncode == 0, done.stderr
    pipe, *pongs = events(done.stdout)
    assert pipe["seconds"] < FIRST * round_trip
    assert [pong["event"] for pong in pongs] == ["pong"] * 2
    assert all(pong["seconds"] < 1.3 * round_trip for pong in pongs)


async def _stream(seat: Seat, address: str, folder: Path) -> None:
    """Durable, there and back; nothing is said to be lost."""
    file = folder / "file"
    file.write_bytes(os.urandom(SIZE))
    done = await seat.run("sh", "-c", f"warpgate connect {address} < {file} | cmp - {file}")
    assert (done.returncode, done.stdout) == (0, b""), done
    assert b"lost" not in done.stderr
