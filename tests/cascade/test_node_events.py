"""Events as an iterator, and waiting for another address."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import World, virtual

from warpgate.errors import PipeClosed
from warpgate.events import Event, PipeOpened


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
