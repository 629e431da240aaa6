"""Is a NAT that maps each destination to another port crossed directly, with no relay, and at what cost?

Sequential, block, port set (RFC 7597) and random port assignment, against a port-restricted NAT, in both directions:
as datagrams, as streams in default mode, and over TCP alone where ports can be predicted; and two NATs that count, and
two port sets, opposite each other.
Fresh nodes for every connect, whose fingerprints are half a second old: an address copied by hand is never younger.
Packets are all that left both sites, probes included; entries are rows of the routers' tables that one connect made.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from dataclasses import dataclass

from bench.rig import Rig, rig
from bench.rows import Row, show
from warpgate.lab.steered import Connected

FINGERPRINTED = 0.5  # seconds: two round trips to see the mapping, three for sixteen samples of a block
COUNT = 20


@dataclass(frozen=True, slots=True)
class Case:
    """How many of 20 must connect, and in how many seconds: the median, the slowest. `ways`: see WAYS."""

    kind: str
    needed: int
    median: float
    slowest: float
    ways: tuple[str, ...]
    other: str = "eim-apdf"


# What is asked for, and the transport that it is limited to.
WAYS = {"datagram": ("datagram", None), "stream": ("stream", None), "TCP": ("stream", "tcp")}
CASES = (
    Case("edm-seq", 20, 0.5, 15.0, ("datagram", "stream", "TCP")),
    Case("edm-seq--2", 20, 0.5, 15.0, ("datagram",)),
    Case("edm-seq--2", 20, 0.5, 15.0, ("TCP",), other="eim-apdf+rst"),
    Case("edm-seq", 20, 0.5, 15.0, ("datagram", "TCP"), other="edm-seq-2"),
    Case("edm-block", 20, 0.8, 3.0, ("datagram", "stream")),
    Case("edm", 19, 3.0, 15.0, ("datagram", "stream")),
    Case("mape", 20, 1.0, 3.0, ("datagram", "stream")),
    Case("mape-1024", 20, 1.0, 3.0, ("datagram",)),
    Case("mape", 20, 4.0, 4.0, ("datagram", "stream"), other="mape"),
    Case("edm-busy", 20, 0.5, 15.0, ("datagram",)),
    Case("edm-peraddr", 20, 3.0, 8.0, ("datagram",)),
    Case("edm-parity", 20, 2.0, 15.0, ("datagram",)),
    # 512 sockets among 4 x 64,512 endpoints: 95 % in 15 s.
    Case("edm-pool", 16, 8.0, 20.0, ("datagram",)),
    # Its packets come from any of four addresses, all of which a filter by address has been opened to.
    Case("edm-pool", 20, 0.5, 1.0, ("datagram", "TCP"), other="eim-adf"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """One connect, and what the routers of both sides paid for it."""

    done: Connected
    sent: int  # packets out of both sites
    entries: int  # flows made on both routers


def _totals(lab: Rig) -> tuple[int, int]:
    nats = [host.routers[0].counters().nat for host in (lab.a.host, lab.b.host)]
    return sum(nat.packets_out for nat in nats), sum(nat.flows_created for nat in nats)


async def one(lab: Rig, way: str) -> Cost:
    mode, transport = WAYS[way]
    for host in (lab.a.host, lab.b.host):
        for router in host.routers:
            router.forget()  # or twenty searches within a minute fill a NAT's block of ports, and the last find it full
    await lab.fresh()
    await asyncio.sleep(FINGERPRINTED)
    await lab.b.refresh()
    packets, entries = _totals(lab)
    done = await lab.a.connect(lab.b.address, mode=mode, transport=transport)
    packets_after, entries_after = _totals(lab)
    return Cost(done, packets_after - packets, entries_after - entries)


def rows_of(what: str, case: Case, costs: list[Cost]) -> list[Row]:
    good = [cost for cost in costs if cost.done.ok and not cost.done.relayed]
    times = [cost.done.seconds for cost in good] or [float("inf")]
    needed = case.needed * len(costs) // COUNT
    winners = "/".join(sorted({cost.done.plugin for cost in good}))
    sent, entries = [cost.sent for cost in costs], [cost.entries for cost in costs]
    spent = (
        f"packets {statistics.median(sent):.0f}, at most {max(sent)}; "
        f"entries {statistics.median(entries):.0f}, at most {max(entries)}"
    )
    return [
        Row(f"{what}: direct", len(good), needed, f"of {len(costs)}", at_most=False, note=winners),
        Row(f"{what}: median", statistics.median(times) * 1000, case.median * 1000, note=spent),
        Row(f"{what}: slowest", max(times) * 1000, case.slowest * 1000),
    ]


async def measure(kind_a: str, kind_b: str, case: Case, count: int) -> list[Row]:
    rows = []
    async with rig(kind_a, kind_b) as lab:
        for way in case.ways:
            costs = [await one(lab, way) for _ in range(count)]
            rows += rows_of(f"{kind_a} -> {kind_b}, {way}", case, costs)
            show(rows[-3:])
            for cost in costs:
                if not cost.done.ok:
                    print("    ", cost.done.error or "no echo", *cost.done.report, sep="\n      ")
    return rows


async def run(count: int, kinds: list[str]) -> list[Row]:
    rows = []
    for case in CASES:
        if kinds and case.kind not in kinds:
            continue
        for kind_a, kind_b in dict.fromkeys(((case.kind, case.other), (case.other, case.kind))):
            rows += await measure(kind_a, kind_b, case, count)
    return rows


def main() -> bool:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    return all(row.holds for row in asyncio.run(run(count, sys.argv[2:])))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
