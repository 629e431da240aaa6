"""Two nodes of one household search at once, through the one router they have: are both found, and at what cost?

They do not know of each other; each has 100 probes a second, and the router of the first case makes 110 mappings a
second. Each of them connects to a peer of its own, as datagrams with no relay, or is connected to. Packets are all that
left the three sites, entries the rows of the three routers' tables, of both connects together.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bench.rows import Row, show
from bench.symmetric import COUNT, FINGERPRINTED
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab

NEEDED = 0.95  # of all connects, as of one search alone
MEDIAN, SLOWEST = 8.0, 20.0  # seconds; half of the probes for each of them
# The household's router, its peers' ones.
CASES = (("eim-apdf+paced", "edm"), ("edm", "eim-apdf"))


@dataclass(frozen=True, slots=True)
class Street:
    """`pairs`: a node of the household, and its peer elsewhere."""

    pairs: tuple[tuple[SteeredNode, SteeredNode], ...]
    brokers: list[str]
    stun: list[str]

    @property
    def nodes(self) -> list[SteeredNode]:
        return [node for pair in self.pairs for node in pair]

    def totals(self) -> tuple[int, int]:
        """Packets that left, entries that were made."""
        nats = {id(router): router.counters().nat for node in self.nodes for router in node.host.routers}.values()
        return sum(nat.packets_out for nat in nats if nat), sum(nat.flows_created for nat in nats if nat)

    async def fresh(self) -> None:
        """New nodes on new ports, whose fingerprints are as young as those of an address copied by hand."""
        for node in self.nodes:
            for router in node.host.routers:
                router.forget()
        await asyncio.gather(*(node.start(brokers=self.brokers, stun=self.stun) for node in self.nodes))
        await asyncio.sleep(FINGERPRINTED)
        await asyncio.gather(*(node.refresh() for node in self.nodes))


@asynccontextmanager
async def street(household: str, peers: str) -> AsyncIterator[Street]:
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab(seed=0))
        stun, broker = lab.add_host("stun", ipv4=2), lab.add_host("broker")
        home = lab.add_site("home", household)
        hosts = [(lab.add_host(f"home{n}", behind=home), lab.add_host(f"peer{n}", behind=peers)) for n in (1, 2)]
        mosquitto, coturn = await start_mosquitto(broker), await start_coturn(stun)
        nodes = [[await stack.enter_async_context(await SteeredNode.launch(host)) for host in pair] for pair in hosts]
        pairs = tuple((one, other) for one, other in nodes)
        yield Street(pairs, [mosquitto.mqtt_url], [str(coturn.endpoint)])


async def both(there: Street, *, by_peers: bool) -> tuple[list[Connected], int, int]:
    """What became of the two connects, and what they cost: packets, entries."""
    await there.fresh()
    packets, entries = there.totals()
    pairs = [reversed(pair) if by_peers else pair for pair in there.pairs]
    done = await asyncio.gather(*(one.connect(other.address, mode="datagram") for one, other in pairs))
    packets_after, entries_after = there.totals()
    return done, packets_after - packets, entries_after - entries


async def measure(household: str, peers: str, count: int, *, by_peers: bool) -> list[Row]:
    async with street(household, peers) as there:
        runs = [await both(there, by_peers=by_peers) for _ in range(count)]
    what = f"two of {household} {'<-' if by_peers else '->'} {peers}"
    connects = [one for done, _, _ in runs for one in done]
    times = [one.seconds for one in connects if one.ok and not one.relayed] or [float("inf")]
    packets, entries = [run[1] for run in runs], [run[2] for run in runs]
    spent = (
        f"packets {statistics.median(packets):.0f}, at most {max(packets)}; "
        f"entries {statistics.median(entries):.0f}, at most {max(entries)}"
    )
    return [
        Row(f"{what}: direct", len(times), NEEDED * len(connects), f"of {len(connects)}", at_most=False),
        Row(f"{what}: median", statistics.median(times) * 1000, MEDIAN * 1000, note=spent),
        Row(f"{what}: slowest", max(times) * 1000, SLOWEST * 1000),
    ]


async def run(count: int) -> bool:
    held = True
    for household, peers in CASES:
        for by_peers in (False, True):
            held &= show(await measure(household, peers, count, by_peers=by_peers))
    return held


def main() -> bool:
    return asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
