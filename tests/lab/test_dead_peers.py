"""What a pipe's owner sees of a peer that is gone: killed, cut off, or closed in good order; over TCP and over QUIC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from needs import need_programs

from warpgate.lab.line import Quality
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import SteeredNode
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

LIMIT = 35.0  # README and design: whatever happened, recv ends by then
AT_ONCE = 2.0  # a round trip of 40 ms, on a machine of CI


@asynccontextmanager
async def held(lab: Lab, *transports: str) -> AsyncIterator[list[tuple[SteeredNode, SteeredNode]]]:
    """For each transport two nodes at two sites of their own, with a stream between them."""
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2)
    broker, stun = await asyncio.gather(start_mosquitto(server), start_coturn(server))
    async with AsyncExitStack() as stack:

        async def node(name: str) -> SteeredNode:
            host = lab.add_host(name, "eim-apdf")
            launched = await stack.enter_async_context(await SteeredNode.launch(host))
            await launched.start(brokers=[broker.mqtt_url], stun=[str(stun.endpoint)])
            return launched

        pairs = [(await node(f"a{n}"), await node(f"b{n}")) for n, _ in enumerate(transports)]
        for (a, b), transport in zip(pairs, transports, strict=True):
            pipe = await a.connect(b.address, transport=transport, keep=True)
            assert (pipe.transport, pipe.mode, pipe.ok) == (transport, "stream", True), pipe.error
        yield pairs


async def ends(pairs: list[tuple[SteeredNode, SteeredNode]]) -> list[tuple[str, float]]:
    """How each pipe ends at its initiator ("end of stream", or what PipeClosed says), and after how many seconds."""
    began = time.monotonic()

    async def one(node: SteeredNode) -> tuple[str, float]:
        return await node.ended(0, LIMIT + 5.0), time.monotonic() - began

    return await asyncio.gather(*(one(a) for a, _ in pairs))


@pytest.mark.slow
async def test_cut_off_or_killed_without_a_farewell(lab: Lab) -> None:
    """The line is cut, in two cases the process killed besides; one is only killed, and its machine keeps silent."""
    async with held(lab, "tcp", "udp", "tcp", "udp", "udp") as pairs:
        for _, b in pairs[:4]:
            line = b.host.access
            line.up.quality = line.down.quality = Quality(loss=1.0)
        for _, b in pairs[2:]:
            await b.kill()
        for reason, seconds in await ends(pairs):
            assert reason not in ("", "end of stream")
            assert 1.0 < seconds <= LIMIT, reason


async def test_killed_while_its_machine_lives(lab: Lab) -> None:
    """Its kernel says so at once, over TCP."""
    async with held(lab, "tcp") as pairs:
        await pairs[0][1].kill()
        for reason, seconds in await ends(pairs):
            assert reason
            assert seconds < AT_ONCE, reason


async def test_closed_in_good_order(lab: Lab) -> None:
    async with held(lab, "tcp", "udp") as pairs:
        waiting = asyncio.ensure_future(ends(pairs))
        for _, b in pairs:
            await b.stop()
        for reason, seconds in await waiting:
            assert reason
            assert seconds < AT_ONCE, reason
