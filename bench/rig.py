"""A lab with two sites, a broker and a STUN server, 40 ms apart from everything: what all connect benches use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from warpgate.lab.line import Quality
from warpgate.lab.servers import Server, start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab

ROUND_TRIP = 0.040  # host to host and host to server, with the lab's default line of 10 ms one way
# Seconds from a responder's start to the first offer. As it starts it asks on its own topic who else has its key; while
# that comes back, the broker holds an offer for a round trip (Nagle's algorithm), so it would be measured instead.
SETTLED = 0.2


@dataclass(frozen=True, slots=True)
class Rig:
    """`a` initiates, `b` responds."""

    lab: Lab
    a: SteeredNode
    b: SteeredNode
    brokers: tuple[Server, ...]
    stun: Server

    async def fresh(self) -> None:
        """New nodes on new ports: no mapping of an earlier attempt helps."""
        for node in (self.a, self.b):
            await node.start(brokers=[server.mqtt_url for server in self.brokers], stun=[str(self.stun.endpoint)])

    async def connect(
        self,
        mode: str = "stream",
        transport: str | None = None,
        plugins: list[str] | None = None,
        *,
        secure: bool = False,
    ) -> Connected:
        """One connect from a to b between fresh nodes."""
        await self.fresh()
        await asyncio.sleep(SETTLED)
        return await self.a.connect(self.b.address, mode=mode, transport=transport, plugins=plugins, secure=secure)


@asynccontextmanager
async def rig(
    kind_a: str, kind_b: str, *, brokers: int = 1, link: Quality | None = None, seed: int = 0
) -> AsyncIterator[Rig]:
    """Up with servers running; everything ends with it. `link` is the line of every host, the servers' too."""
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab(seed=seed, link=link))
        stun_host = lab.add_host("stun", ipv4=2)
        broker_hosts = [lab.add_host(f"broker{number}") for number in range(brokers)]
        host_a, host_b = lab.add_host("a", behind=kind_a), lab.add_host("b", behind=kind_b)
        servers = tuple([await start_mosquitto(host) for host in broker_hosts])
        stun = await start_coturn(stun_host)
        a = await stack.enter_async_context(await SteeredNode.launch(host_a))
        b = await stack.enter_async_context(await SteeredNode.launch(host_b))
        yield Rig(lab, a, b, servers, stun)


async def repeat(count: int, one: Callable[[], Awaitable[Connected]]) -> list[Connected]:
    """One after the other: side by side they would disturb each other's clocks."""
    return [await one() for _ in range(count)]
