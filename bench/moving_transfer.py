"""1 GiB over a durable pipe while the two hosts move ten times: is it whole, how fast, and does memory stay flat?

Two hosts behind NATs in the lab, 40 ms apart. The rate is compared with that of a tenth of it with no move, since the
lab and not the pipe decides how much passes; a move costs what `durability` measures, half a second in five or so.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

from bench.rows import Row, show
from bench.stream_over_udp import GROWTH, command
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab

SIZE = 1 << 30
MOVES = 10
KIND = "eim-apdf"
# Seconds: before the first move, and from one to the next.
SETTLED, EACH = 3.0, 5.0


async def transfer(size: int, moves: int) -> dict[str, Any]:
    """What the sender says; the hosts take turns to move."""
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab())
        server = lab.add_host("server", ipv4=2)
        broker, stun = await start_mosquitto(server), await start_coturn(server)
        env = {**os.environ, "BENCH_SERVERS": f"{broker.mqtt_url} {stun.endpoint}"}
        a, b = lab.add_host("a", KIND), lab.add_host("b", KIND)
        receiver = await b.popen(command("serve"), env=env, stdout=asyncio.subprocess.PIPE)
        assert receiver.stdout is not None
        address = json.loads(await receiver.stdout.readline())["address"]
        sender = await a.popen(command("pour", address, "durable", size), env=env, stdout=asyncio.subprocess.PIPE)
        said = asyncio.ensure_future(sender.communicate())
        await asyncio.sleep(SETTLED)
        for count in range(moves):
            lab.move((a, b)[count % 2], KIND)
            done, _ = await asyncio.wait([said], timeout=EACH)
            if done:
                raise SystemExit(f"it was over after {count + 1} moves: more bytes are needed")
        out, _ = await said
        await b.stop(receiver)
        return dict(json.loads(out))


async def run(size: int = SIZE, moves: int = MOVES) -> list[Row]:
    still, moving = await transfer(size // 10, 0), await transfer(size, moves)
    rates = [amount / one["seconds"] / 1e6 for amount, one in ((size // 10, still), (size, moving))]
    note = f"({rates[1]:.1f} MB/s, {rates[0]:.1f} without moves)"
    rows = [
        Row(
            f"{size >> 20} MiB over {moves} moves arrived whole",
            moving["equal"],
            1,
            "of",
            at_most=False,
            note=note,
        ),
        Row("moves that the sender noticed", moving["moves"], moves // 2, "", at_most=False),
        Row("memory grew by, the larger end", max(moving["grown"], moving["peer_grown"]), GROWTH, "MB"),
        Row("rate with moves / without", rates[1] / rates[0], 0.7, "x", at_most=False),
    ]
    show(rows)
    return rows


def main() -> bool:
    """Arguments: MiB, and how many moves."""
    numbers = [int(word) for word in sys.argv[1:]]
    return all(row.holds for row in asyncio.run(run(*([numbers[0] << 20, numbers[1]] if numbers else []))))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
