"""Two sites with a node in each, a STUN server and brokers between them: the lab that connects are tried in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from needs import need_programs

from warpgate.lab.servers import Server, start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab

Kind = str | Sequence[str]

# With the lab's lines: R, a round trip between any two hosts, and s, a signal from one to the other.
R = 0.040
S = 0.040
# Machines of CI are slow and busy. What is tested here is that a strategy works as it is meant to; benches measure.
GENEROUS = 2.0
TRIES = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """`a` initiates, `b` responds."""

    a: SteeredNode
    b: SteeredNode
    brokers: tuple[Server, ...]
    settings: dict[str, list[str]]

    async def fresh(self) -> None:
        """New nodes on new ports."""
        await asyncio.gather(*(node.start(**self.settings) for node in (self.a, self.b)))

    async def connect(self, mode: str, transport: str | None = None, plugin: str | None = None) -> Connected:
        """Between fresh nodes; `plugin` by name, or all of them."""
        await self.fresh()
        plugins = None if plugin is None else [plugin]
        return await self.a.connect(self.b.address, mode=mode, transport=transport, plugins=plugins)

    async def connect_within(
        self, limit: float, mode: str, transport: str | None = None, plugin: str | None = None
    ) -> Connected:
        """The first of a few connects that the machine did not hold up, or the last; one that fails, at once."""
        for _ in range(TRIES):
            found = await self.connect(mode, transport, plugin)
            if not found.ok or found.seconds <= limit * GENEROUS:
                break
        assert found.ok, (found.error or "no echo", *found.report)
        assert found.seconds <= limit * GENEROUS, found.report
        return found


@asynccontextmanager
async def pair(lab: Lab, kind_a: Kind, kind_b: Kind, *, families: str = "4", brokers: int = 1) -> AsyncIterator[Pair]:
    """`families`: "4", "6" or "46", of the two hosts and of what they know the servers by."""
    need_programs("mosquitto", "turnserver")
    ipv4, ipv6 = int("4" in families), int("6" in families)
    hosts = [lab.add_host(name, kind, ipv4=ipv4, ipv6=ipv6) for name, kind in (("a", kind_a), ("b", kind_b))]
    # Two addresses: only then can a STUN server tell how NATs filter (RFC 5780).
    stun = await start_coturn(lab.add_host("stun", ipv4=2 * ipv4, ipv6=2 * ipv6))
    servers = [
        await start_mosquitto(lab.add_host(f"broker{number}", ipv4=ipv4, ipv6=ipv6)) for number in range(brokers)
    ]
    settings = {
        "brokers": [server.mqtt_url for server in servers],
        "stun": [str(endpoint) for endpoint in {e.ip.version: e for e in reversed(stun.endpoints)}.values()],
    }
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(await SteeredNode.launch(host)) for host in hosts]
        yield Pair(a, b, tuple(servers), settings)
