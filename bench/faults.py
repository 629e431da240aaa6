"""Two nodes with one durable pipe in the lab, and what befalls the networks beneath it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from warpgate.lab.flow import Protocol
from warpgate.lab.host import Attached, Host
from warpgate.lab.line import Quality
from warpgate.lab.servers import (
    Server,
    find_program,
    start_coturn,
    start_mosquitto,
    start_server,
    workspace,
)
from warpgate.lab.steered import Counted, SteeredNode
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint, IPAddress

USER, PASSWORD = "user", "password"
IROH_RELAY_PORT = 3340
DARK = Quality(loss=1.0)
OUTAGE = 3.0
# A connection that has not gone on by then is taken for dead.
GIVEN_UP = 60.0
ALIVE = 20  # counters in a tenth of the time that this many take


@dataclass(slots=True)
class Ground:
    """`a` initiates, `b` responds; `kinds` are those of their present and next networks."""

    lab: Lab
    a: SteeredNode
    b: SteeredNode
    kinds: dict[str, str]
    family: int
    settings: dict[str, list[str]]
    relays: list[Server] = field(default_factory=list)
    runs: int = 0

    async def begin(self, *, count: bool) -> None:
        """Fresh nodes and a durable pipe between them, with counters on it or idle. SystemExit without one."""
        await asyncio.gather(*(node.start(**self.settings) for node in (self.a, self.b)))
        done = await self.a.connect(self.b.address, keep=True, durable=True)
        if not done.ok:
            raise SystemExit(f"no pipe to begin with: {done.error} {done.report}")
        if count:
            await self.a.count(0)

    async def goes_on(self, since: float, watched: float) -> Counted:
        """What the counters saw from `since` until they have come again for a while, `watched` seconds at least."""
        await asyncio.sleep(watched)
        before = await self.a.counted(since)
        while True:
            await asyncio.sleep(0.1)
            now = await self.a.counted(since)
            if now.received - before.received > ALIVE // 4 or now.fault:
                return now
            if time.monotonic() - since > GIVEN_UP:
                return now
            before = now

    def attached(self, node: SteeredNode) -> Attached:
        return node.host.attached[0]

    def move(self, node: SteeredNode) -> None:
        families = {"ipv4": int(self.family == 4), "ipv6": int(self.family == 6)}
        self.lab.move(node.host, self.kinds[node.host.name], **families)

    def turns(self) -> SteeredNode:
        """One node after the other."""
        return (self.a, self.b)[self.runs % 2]


async def start_iroh_relay(host: Host, _user: str, _password: str) -> Server:
    """Without certificate, for whoever comes."""
    return await start_server(host, [find_program("iroh-relay"), "--dev"], workspace(host), IROH_RELAY_PORT)


Fault = Callable[[Ground], Awaitable[None]]


@asynccontextmanager
async def ground(
    kinds: tuple[str, str], *, family: int = 4, relays: int = 0, seed: int = 0, iroh: bool = False
) -> AsyncIterator[Ground]:
    """Up with servers running, 40 ms apart from everything; everything ends with it. `iroh`: instead of our nodes."""
    ipv4, ipv6 = int(family == 4), int(family == 6)
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab(seed=seed))
        stun = await start_coturn(lab.add_host("stun", ipv4=2 * ipv4, ipv6=2 * ipv6))
        broker = await start_mosquitto(lab.add_host("broker", ipv4=ipv4, ipv6=ipv6))
        relay = start_iroh_relay if iroh else start_coturn
        turn = [
            await relay(lab.add_host(f"relay{number}", ipv4=ipv4, ipv6=ipv6), USER, PASSWORD)
            for number in range(relays)
        ]
        settings = {
            "brokers": [broker.mqtt_url],
            "stun": [str(stun.endpoint)],
            "turn": [f"{'http://' if iroh else f'turn:{USER}:{PASSWORD}@'}{server.endpoint}" for server in turn],
        }
        hosts = [lab.add_host(name, kind, ipv4=ipv4, ipv6=ipv6) for name, kind in zip("ab", kinds, strict=True)]
        agent = {"agent": "bench.iroh_agent"} if iroh else {}
        a, b = [await stack.enter_async_context(await SteeredNode.launch(host, **agent)) for host in hosts]
        yield Ground(lab, a, b, dict(zip("ab", kinds, strict=True)), family, settings, turn)


# -- faults ------------------------------------------------------------------------------------------------------


async def nothing(_: Ground) -> None:
    """What is to be seen happens by itself."""


async def initiator_moves(ground: Ground) -> None:
    ground.move(ground.a)


async def listener_moves(ground: Ground) -> None:
    ground.move(ground.b)


async def both_move(ground: Ground) -> None:
    ground.move(ground.a)
    ground.move(ground.b)


async def one_moves(ground: Ground) -> None:
    ground.move(ground.turns())


async def another_public_address(ground: Ground) -> None:
    """The host cannot see it."""
    ground.lab.renumber(ground.attached(ground.turns()))


async def path_dropped(ground: Ground) -> None:
    """Nothing passes between the two sites by the transport that the pipe uses; servers are in reach."""
    transport = (await ground.a.path(0)).transport
    one, other = (ground.attached(node).outside for node in (ground.a, ground.b))
    ground.lab.internet.heal()
    ground.lab.internet.partition(one, other, {Protocol[transport.upper()]})


async def sites_apart(ground: Ground) -> None:
    """Nothing at all passes between the two sites; servers are in reach."""
    one, other = (ground.attached(node).outside for node in (ground.a, ground.b))
    ground.lab.internet.partition(one, other)


async def darkness(ground: Ground) -> None:
    """One site's line is dead for 3 s, and nobody is told."""
    line = ground.attached(ground.turns()).access
    before = line.up.quality, line.down.quality
    line.up.quality = line.down.quality = DARK
    await asyncio.sleep(OUTAGE)
    line.up.quality, line.down.quality = before


async def mappings_forgotten(ground: Ground) -> None:
    for node in (ground.a, ground.b):
        for router in ground.attached(node).routers:
            router.forget()


async def relay_killed(ground: Ground) -> None:
    """The one that the pipe goes by, and it stays dead; the one before is back."""
    for number, server in enumerate(ground.relays):
        if server.process.returncode is not None:
            ground.relays[number] = await start_coturn(server.host, USER, PASSWORD)
    ways = [await node.path(0) for node in (ground.a, ground.b) if node is ground.a]
    used = {ip for way in ways for ip in (ip_of(way.local), ip_of(way.remote))}
    for server in ground.relays:
        if server.endpoint.ip in used:
            await server.kill()
            return
    raise SystemExit(f"no relay is in use: {ways}")


def ip_of(endpoint: str) -> IPAddress:
    return Endpoint.parse(endpoint).ip
