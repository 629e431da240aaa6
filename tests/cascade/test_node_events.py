"""Events as an iterator, and waiting for another address."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cascade_world import World, virtual

from warpgate.cli.words import describe
from warpgate.errors import PipeClosed
from warpgate.events import Event, PeerPlaced, PipeOpened
from warpgate.model.nat import NatProfile


def test_events_come_until_the_node_is_closed() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            seen: list[Event] = []

            async def collect() -> None:
                async for event in world.a.node.events():
                    seen.extend((event,))

            collecting = asyncio.ensure_future(collect())
            await asyncio.sleep(0)
            before = len(world.a.events)
            pipe = await world.a.node.connect(world.b.node.address)
            await pipe.close()
            await asyncio.sleep(1)
            assert seen == world.a.events[before:]
            assert any(isinstance(event, PipeOpened) for event in seen)
            observers = len(world.a.run.context.observers)
            async with asyncio.timeout(5):
                stopping = asyncio.ensure_future(anext(aiter(world.a.node.events())))
                await asyncio.sleep(0)
                stopping.cancel()
                await asyncio.wait([stopping])
            assert len(world.a.run.context.observers) == observers
            await world.a.node.close()
            await collecting

    virtual(main)


def test_another_address_is_waited_for() -> None:
    async def main() -> None:
        async with World("public", "public", brokers=2) as world:
            before = world.a.node.address
            changing = asyncio.ensure_future(world.a.node.address_changed())
            await asyncio.sleep(1)
            assert not changing.done()
            world.brokers[0].kill()
            async with asyncio.timeout(60):
                after = await changing
            assert after != before
            assert after == world.a.node.address
            waiting = asyncio.ensure_future(world.a.node.address_changed())
            await asyncio.sleep(0)
            await world.a.node.close()
            with pytest.raises(PipeClosed, match="the node was closed"):
                await waiting

    virtual(main)


def test_it_is_told_where_the_peer_is_and_where_it_says_it_is() -> None:
    """By an old address first, which knows nothing of the peer's NAT, then by the peer's own word."""

    async def main() -> None:
        async with World("edm", "eim-apdf") as world:
            fresh = world.b.node.address
            stale = replace(fresh, attachments=tuple(replace(at, nat=NatProfile()) for at in fresh.attachments))
            pipe = await world.a.node.connect(stale, mode="datagram")
            await asyncio.sleep(1)
            placed = [event.address for event in world.a.said(PeerPlaced)]
            assert placed == [stale.to_text(), fresh.to_text()]
            assert describe(world.a.said(PeerPlaced)[0]).endswith(f"{pipe.peer} is at 198.51.100.2, 192.168.2.2")
            assert world.b.said(PeerPlaced) == []
            await pipe.close()

    virtual(main)
