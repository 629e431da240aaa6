"""How soon is a relay used where nothing else can work, and not before its time where something else may?

Two nodes that are just up, without half a second for their fingerprints, and one TURN server (coturn) that both know:
so soon after the start a relay is needed least prepared. Limits: 0.4 s where the fingerprints rule out a direct path,
1 s where UDP is blocked or only port 443 is open. Where a direct path is possible but takes its time, as guessing a
port among all does, no relayed pipe comes before `search_patience`; where it is quick, none at all.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bench.rows import Row, show
from warpgate.config import Timing
from warpgate.lab.servers import Server, start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab

COUNT = 10
TLS_PORT = 443  # the broker is there, too: only-443 must be able to signal


@dataclass(frozen=True, slots=True)
class Case:
    """`transport`: how TURN is reached. `direct`: a direct pipe is as good. `settle`: seconds before the connect."""

    kind_a: str
    kind_b: str
    modes: tuple[str, ...]
    transport: str
    limit: float
    direct: bool = False
    settle: float = 0.0


BOTH = ("datagram", "stream")
CASES = (
    Case("edm", "edm", BOTH, "udp", 0.4),
    Case("edm", "edm", BOTH, "udp", 0.4, settle=0.5),
    Case("edm", "edm-seq", BOTH, "udp", 0.4),
    Case("edm-block", "edm-block", BOTH, "udp", 0.4),
    Case("udp-blocked", "edm", BOTH, "tcp", 1.0),
    Case("edm", "udp-blocked", BOTH, "tcp", 1.0),
    Case("udp-blocked", "udp-blocked", ("datagram",), "tcp", 1.0),
    Case("udp-blocked", "eim", ("stream",), "tcp", 1.0, direct=True),
    Case("udp-blocked", "udp-blocked", ("stream",), "tcp", 1.0, direct=True),
    Case("only-443", "only-443", BOTH, "tls", 1.0),
    Case("only-443", "eim", BOTH, "tls", 1.0),
    Case("eim", "only-443", BOTH, "tls", 1.0),
    Case("only-443", "public", BOTH, "tls", 1.0),
)


@dataclass(frozen=True, slots=True)
class Relayed:
    """`a` initiates. Both are told of the relay over one transport."""

    lab: Lab
    a: SteeredNode
    b: SteeredNode
    broker: Server
    relay: Server

    async def connect(self, mode: str, transport: str, settle: float) -> Connected:
        port = TLS_PORT if transport == "tls" else self.relay.endpoint.port
        for node in (self.a, self.b):
            await node.start(
                brokers=[self.broker.mqtt_url],
                stun=[str(self.relay.endpoint)],
                turn=[f"turn:user:password@{self.relay.endpoint.ip}:{port}?transport={transport}"],
                ca_file=str(self.relay.certificate),
            )
        if settle:
            await asyncio.sleep(settle)
            await self.b.refresh()
        return await self.a.connect(self.b.address, mode=mode)


@asynccontextmanager
async def relayed(kind_a: str, kind_b: str) -> AsyncIterator[Relayed]:
    """Up with servers running; everything ends with it."""
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab(seed=5))
        broker = await start_mosquitto(lab.add_host("broker"), TLS_PORT)
        relay = await start_coturn(lab.add_host("relay", ipv4=2), tls_port=TLS_PORT)
        a = await stack.enter_async_context(await SteeredNode.launch(lab.add_host("a", behind=kind_a)))
        b = await stack.enter_async_context(await SteeredNode.launch(lab.add_host("b", behind=kind_b)))
        yield Relayed(lab, a, b, broker, relay)


def row_of(what: str, done: list[Connected], limit: float, direct: bool) -> Row:
    good = [one for one in done if one.ok and (one.relayed or direct)]
    times = [one.seconds * 1000 for one in good] if len(good) == len(done) else [float("inf")]
    winners = "/".join(sorted({one.plugin for one in good}))
    note = f"{winners}, slowest {max(times):.0f} ms, {len(good)} of {len(done)}"
    return Row(what, statistics.median(times), limit * 1000, note=note)


async def held_back(count: int) -> list[Row]:
    """Relays that know their place."""
    async with relayed("edm", "eim") as lab:
        done = [await lab.connect("datagram", "udp", 0.5) for _ in range(count)]
    earliest = min((one.seconds for one in done if one.relayed), default=float("inf"))
    limit = Timing().search_patience
    what = "edm -> eim, datagram: first relayed pipe"
    rows = [Row(what, earliest * 1000, limit * 1000, at_most=False, note=f"of {len(done)}")]
    async with relayed("eim", "edm-seq") as lab:
        done = [await lab.connect(mode, "udp", 0.5) for mode in BOTH for _ in range(count)]
    direct = sum(one.ok and not one.relayed for one in done)
    rows.append(Row("eim -> edm-seq, both modes: direct", direct, len(done), f"of {len(done)}", at_most=False))
    show(rows)
    return rows


async def run(count: int, kinds: list[str]) -> list[Row]:
    rows = []
    for case in CASES:
        if kinds and not {case.kind_a, case.kind_b} <= set(kinds):
            continue
        async with relayed(case.kind_a, case.kind_b) as lab:
            for mode in case.modes:
                done = [await lab.connect(mode, case.transport, case.settle) for _ in range(count)]
                when = f", {case.settle:g} s up" if case.settle else ""
                what = f"{case.kind_a} -> {case.kind_b}, {mode}, TURN by {case.transport.upper()}{when}"
                rows.append(row_of(what, done, case.limit, case.direct))
                show(rows[-1:])
                for one in done:
                    if not one.ok:
                        print("    ", one.error or "no echo", *one.report, sep="\n      ")
    return rows if kinds else rows + await held_back(count)


def main() -> bool:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    return all(row.holds for row in asyncio.run(run(count, sys.argv[2:])))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
