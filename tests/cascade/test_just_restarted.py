"""Nodes that have just started again, far from their STUN servers: what the peer knows of them they do not know yet."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import OVER_UDP, World, exchange, virtual

from warpgate_testing.internet import PathSpec


@pytest.mark.parametrize(
    "kinds",
    [("eim-apdf", "edm-block"), ("edm-block", "eim-apdf"), ("mape", "mape"), ("eim-apdf", "mape")],
    ids="-".join,
)
@pytest.mark.parametrize("after", [0.2, 0.7])
def test_what_a_peer_asks_for_is_not_refused_before_our_nat_is_known(kinds: tuple[str, str], after: float) -> None:
    """The refusal would be final. An answer takes a second here, and the fingerprint several."""

    async def main() -> None:
        async with World(*kinds, seed=1) as world:
            address = world.b.node.address
            await world.b.node.close()
            world.internet.set_path(world.routers["b"], world.stun_host, PathSpec(delay=0.5))
            starting = asyncio.ensure_future(world.b.node.start())
            await asyncio.sleep(after)
            began = world.now
            pipe = await world.a.node.connect(address, **OVER_UDP)
            assert world.now - began < 6.0
            await starting
            await exchange(pipe, await world.b.node.accept())

    virtual(main)


@pytest.mark.parametrize("kinds", [("mape", "mape"), ("edm-block", "eim-apdf")], ids="-".join)
def test_no_search_is_begun_from_behind_a_nat_that_turns_out_to_need_one_itself(
    kinds: tuple[str, str],
) -> None:
    async def main() -> None:
        async with World(*kinds, seed=1) as world:
            address = world.b.node.address
            await world.a.node.close()
            world.internet.set_path(world.routers["a"], world.stun_host, PathSpec(delay=0.15))
            await world.a.node.start()
            pipe = await world.a.node.connect(address, **OVER_UDP)
            await exchange(pipe, await world.b.node.accept())

    virtual(main)
