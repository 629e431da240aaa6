"""What does a node cost the servers: packets, octets and connections at broker, STUN and name server?

In the lab, IPv4 packets with their headers, both ways, counted where each server is attached; idle nodes behind
port-restricted NATs. docs/operating.md reckons with these numbers. The limits are what nodes may cost, not a peer's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.rows import Row, show
from warpgate.lab.host import Host
from warpgate.lab.servers import start_mosquitto
from warpgate.lab.steered import SteeredNode
from warpgate.lab.topology import Lab

NODES = 8
# Several times the longest interval of a node's own (broker ping 30 s, STUN 20 to 26 s).
IDLE_SECONDS = 120.0
HOUR = 3600.0
CONNECTS = 8
SERVERS = ("broker", "stun", "names")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets and octets, in and out together."""

    packets: int
    octets: int

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(self.packets - before.packets, self.octets - before.octets)

    @classmethod
    def at(cls, host: Host) -> Traffic:
        counters = host.counters
        return cls(
            sum(c.packets_in + c.packets_out for c in counters),
            sum(c.octets_in + c.octets_out for c in counters),
        )


@dataclass(frozen=True, slots=True)
class Bench:
    servers: dict[str, Host]
    nodes: Sequence[SteeredNode]
    settings: dict[str, list[str]]  # of Config

    def traffic(self) -> dict[str, Traffic]:
        return {name: Traffic.at(host) for name, host in self.servers.items()}

    def since(self, before: dict[str, Traffic]) -> dict[str, Traffic]:
        return {name: now - before[name] for name, now in self.traffic().items()}


async def _serve(host: Host, folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "warpgate", "serve", *words]
    server = await host.popen(command, env={"WARPGATE_DATA": str(folder / host.name)}, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    while b"serving names" not in (line := await server.stdout.readline()):
        if not line:
            raise RuntimeError(f"warpgate serve {' '.join(words)} did not come up")


@asynccontextmanager
async def _bench() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        lab = await stack.enter_async_context(Lab(seed=0))
        hosts = {name: lab.add_host(name, ipv4=2 if name == "stun" else 1) for name in SERVERS}
        broker = await start_mosquitto(hosts["broker"])
        await _serve(hosts["stun"], folder, "--stun")
        await _serve(hosts["names"], folder)
        nodes = [
            await stack.enter_async_context(await SteeredNode.launch(lab.add_host(f"n{number}", behind="eim-apdf")))
            for number in range(NODES)
        ]
        settings = {"brokers": [broker.mqtt_url], "stun": [f"{hosts['stun'].ipv4}:3478"]}
        yield Bench(hosts, nodes, settings)


async def _start(bench: Bench) -> list[Row]:
    """A node comes up: its first minute is over when it has measured its NAT."""
    before = bench.traffic()
    for node in bench.nodes:
        await node.start(**bench.settings)
    await asyncio.sleep(8.0)  # the filtering test gives up after 5 s
    spent = bench.since(before)
    return [
        *_rows("start", spent["broker"], NODES, "broker", packets=20, octets=1800),
        *_rows("start", spent["stun"], NODES, "STUN", packets=60, octets=5000),
    ]


async def _idle(bench: Bench) -> list[Row]:
    before = bench.traffic()
    await asyncio.sleep(IDLE_SECONDS)
    spent = bench.since(before)
    hours = NODES * IDLE_SECONDS / HOUR
    return [
        *_rows("idle node-hour", spent["broker"], hours, "broker", packets=720, octets=40_000),
        *_rows("idle node-hour", spent["stun"], hours, "STUN", packets=1600, octets=110_000),
        *_rows("idle node-hour", spent["names"], hours, "names", packets=0, octets=0),
    ]


async def _connects(bench: Bench) -> list[Row]:
    """Between running nodes: each node to its neighbour, streams over whatever wins."""
    rows = []
    for mode, transport in (("datagram", "udp"), ("stream", "tcp")):
        before = bench.traffic()
        signals = 0
        for number in range(CONNECTS):
            a, b = bench.nodes[number % NODES], bench.nodes[(number + 1) % NODES]
            await b.refresh()
            done = await a.connect(b.address, mode=mode, transport=transport)
            if not done.ok:
                raise RuntimeError(f"{mode} failed: {done.error} {done.report}")
            signals += sum(count for kind, count in done.signals.items() if kind.startswith("SignalSent"))
        await asyncio.sleep(1.0)  # what trails behind a connect: acknowledgements, an answer held back
        spent = bench.since(before)
        what = f"connect, {mode}"
        rows += _rows(what, spent["broker"], CONNECTS, "broker", packets=12, octets=6000)
        rows += _rows(what, spent["stun"], CONNECTS, "STUN", packets=12, octets=1200)
        rows.append(Row(f"{what}: signals of the initiator", signals / CONNECTS, 1, ""))
    return rows


async def _names(bench: Bench) -> list[Row]:
    """The commands, which open a connection each; a node that refreshes does the same every few hours."""
    rows = []
    url = f"http://{bench.servers['names'].ipv4}:8421"
    with TemporaryDirectory() as folder:
        for action, packets, octets in (("register", 14, 2000), ("show", 14, 1800)):
            before = bench.traffic()
            for number, node in enumerate(bench.nodes):
                env = {"WARPGATE_DATA": f"{folder}/{number}", "WARPGATE_NAMES": url}
                env |= {"WARPGATE_BROKER": "", "WARPGATE_STUN": "", "WARPGATE_PORT_MAP": "no"}
                command = [sys.executable, "-m", "warpgate", "name", action, f"node-{number}"]
                done = await node.host.run(command, env=env)
                if done.returncode != 0:
                    raise RuntimeError(f"name {action} failed: {done.stderr.decode()}")
            spent = bench.since(before)["names"]
            rows += _rows(f"name {action}", spent, len(bench.nodes), "names", packets=packets, octets=octets)
    return rows


def _rows(what: str, spent: Traffic, share: float, server: str, *, packets: float, octets: float) -> list[Row]:
    return [
        Row(f"{what}: packets at {server}", spent.packets / share, packets, ""),
        Row(f"{what}: octets at {server}", spent.octets / share, octets, ""),
    ]


async def _measure() -> list[Row]:
    rows = []
    async with _bench() as bench:
        for part in (_start, _names, _connects, _idle):
            rows += await part(bench)
    return rows


def main() -> bool:
    return show(asyncio.run(_measure()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
