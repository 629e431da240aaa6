"""A stream over UDP, and a durable one: whole, how fast beside TCP and bare QUIC, and does memory stay flat?

100 MB between two processes, hashed at both ends: on loopback, and between two hosts of the lab with 0, 1 and 5 % loss
one way. The lab's round trip is 4 ms here: with 1 % loss any loss-based congestion control is as slow as the round trip
is long, and 100 MB over 40 ms would take minutes. *Bare QUIC* is the same library with the same settings on an asyncio
datagram endpoint, without node, udp, checks and credit. Rates are printed to be read, not judged, but for the share of
bare QUIC's on loopback, and what the durable stream has of the other one's.

Then what a loss of 1 % costs where a round trip takes 40 ms, beside TCP with the same congestion control (RFC 9002 has
NewReno's, and the library no other one): there CUBIC is in its Reno-friendly region (RFC 9438, section 4.3) and equal.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from bench.rows import Row, show
from warpgate.lab.host import Host
from warpgate.lab.line import Quality
from warpgate.lab.topology import Lab

SIZE = 100_000_000
LOSSES = (0.0, 0.01, 0.05)
LINE = 0.001  # one way, seconds; two lines make a path
LONG_LINE, LONG_SIZE = 0.010, 6_000_000
ROUNDS = 3
# MB. A window of 4 MiB, the send buffer, and the allocator; a tenth of what goes through would be more.
GROWTH = 16.0
PATIENCE = 600.0

Result = dict[str, Any]
Run = Callable[..., Awaitable[Result]]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bench.stream_worker", *map(str, arguments)]


async def loopback() -> list[Row]:
    env = {**os.environ, "BENCH_LOOPBACK": "1"}
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(*command("serve"), stdout=pipe, env=env)

    async def run(*arguments: object) -> Result:
        client = await asyncio.create_subprocess_exec(*command(*arguments), stdout=pipe, env=env)
        out, _ = await client.communicate()
        return dict(json.loads(out))

    try:
        assert server.stdout is not None
        ready = json.loads(await server.stdout.readline())
        return await compare("loopback", run, ready["address"], "127.0.0.1", ready["port"], ROUNDS)
    finally:
        server.terminate()
        await server.wait()


@asynccontextmanager
async def two_hosts(delay: float, loss: float) -> AsyncIterator[tuple[Host, Run, Result]]:
    """The one that serves, how to run a worker on the other, and what the server said."""
    async with Lab() as lab:
        a = lab.add_host("a", link=Quality(delay=delay))
        b = lab.add_host("b", link=Quality(delay=delay, loss=loss))
        # NewReno for its TCP: namespaces may not choose CUBIC everywhere, and BBR would not show what a loss costs.
        await a.run(["sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"])
        server = await b.popen(command("serve"), stdout=asyncio.subprocess.PIPE)

        async def run(*arguments: object) -> Result:
            done = await a.run(command(*arguments), timeout=PATIENCE)
            if not done.stdout:
                raise SystemExit(done.stderr.decode())
            return dict(json.loads(done.stdout))

        assert server.stdout is not None
        yield b, run, json.loads(await server.stdout.readline())


async def lab(loss: float) -> list[Row]:
    async with two_hosts(LINE, loss) as (b, run, ready):
        rounds = 1 if loss else ROUNDS  # what is lost decides, and takes long
        return await compare(f"lab, {loss:.0%} loss", run, ready["address"], str(b.ipv4), ready["port"], rounds)


async def long_way() -> list[Row]:
    async with two_hosts(LONG_LINE, 0.01) as (_, run, ready):
        rates: dict[str, list[float]] = {"durable": [], "tcp": []}
        for _ in range(ROUNDS):
            for kind, group in rates.items():
                done = await run("pour", ready["address"], kind, LONG_SIZE)
                group.append(LONG_SIZE * 8 / done["seconds"] / 1e6)
    durable, tcp = (statistics.median(group) for group in rates.values())
    what = "lab, 40 ms and 1 % loss: durable stream / TCP with NewReno"
    rows = [Row(what, durable / tcp, 0.95, "x", at_most=False, note=f"({durable:.1f}, {tcp:.1f} Mbit/s)")]
    show(rows)
    return rows


async def compare(where: str, run: Run, address: str, host: str, port: int, rounds: int) -> list[Row]:
    """Alternately over the four, so that all see the same machine."""
    udp, durable, tcp, bare = [], [], [], []
    for _ in range(rounds):
        udp.append(await run("pour", address, "udp", SIZE))
        durable.append(await run("pour", address, "durable", SIZE))
        tcp.append(await run("pour", address, "tcp", SIZE))
        bare.append(await run("bare", host, port, SIZE))
    rates = [statistics.median(SIZE * 8 / one["seconds"] / 1e6 for one in group) for group in (udp, durable, tcp, bare)]
    share_of_plain = statistics.median(one["seconds"] / two["seconds"] for one, two in zip(udp, durable, strict=True))
    ours = [*udp, *durable]
    equal = sum(bool(one["equal"]) for one in ours)
    grown = max(max(one["grown"], one["peer_grown"]) for one in ours)
    note = f"({rates[0]:.0f} Mbit/s; durable {rates[1]:.0f}, TCP {rates[2]:.0f}, bare QUIC {rates[3]:.0f})"
    share = 0.75 if where == "loopback" else 0.95
    rows = [
        Row(f"{where}: streams over UDP that arrived whole", equal, len(ours), "of", at_most=False, note=note),
        Row(f"{where}: durable stream / stream over UDP", share_of_plain, share, "x", at_most=False),
        Row(f"{where}: memory grew by, the larger end", grown, GROWTH, "MB"),
    ]
    if where == "loopback":
        rows.append(Row("stream over UDP / bare QUIC, loopback", rates[0] / rates[3], 0.8, "x", at_most=False))
    show(rows)
    return rows


async def run() -> list[Row]:
    rows = await loopback()
    for loss in LOSSES:
        rows += await lab(loss)
    return rows + await long_way()


def main() -> bool:
    return all(row.holds for row in asyncio.run(run()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
