"""Two nodes behind one router look for two peers at once: they know of each other only by what the router does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from cascade_world import FINGERPRINTED, OVER_UDP, STUN, URLS, Seat, World, exchange, virtual

from warpgate.config import Config
from warpgate.core.pipes.base import Pipe
from warpgate.events import PluginNoted
from warpgate.lab.spec import Lifetimes
from warpgate.model.endpoint import Family
from warpgate.plugins.registry import REGISTRY

CONFIG = Config(brokers=tuple(URLS[:1]), stun=(STUN,))
# 40 or so are taken by what the two nodes had asked of servers; a spread has 256 sockets.
ONE_SPREAD = 320
# A search sends 100 probes a second.
ONE_SEARCH = 110.0

Household = tuple[World, Seat, Seat]


@asynccontextmanager
async def household(kind: str, peers: str, seed: int, **limits: object) -> AsyncIterator[Household]:
    """Nodes a and c behind one router that has these limits; b and d, at sites of their own, are who they talk to."""
    world = World(kind, peers, seed=seed, settle=0.0)
    router = world.routers["a"]
    d_host, _ = world.internet.site("d", peers, 3)
    c = Seat(world, "c", world.internet.host("c", "192.168.1.3", behind=router), CONFIG, REGISTRY)
    d = Seat(world, "d", d_host, CONFIG, REGISTRY)
    async with world:
        await asyncio.gather(c.node.start(), d.node.start())
        await asyncio.sleep(FINGERPRINTED)
        nat = router.router.nats[Family.V4]
        router.router.nats[Family.V4] = type(nat)(replace(nat.spec, **limits), nat.external, nat._rng)  # type: ignore[arg-type]
        try:
            yield world, c, d
        finally:
            await asyncio.gather(c.node.close(), d.node.close())


async def talk(one: Seat, other: Seat) -> tuple[Pipe, Pipe]:
    pipe = await one.node.connect(other.node.address, **OVER_UDP)
    async with asyncio.timeout(10.0):
        answer = await other.node.accept()
    await exchange(pipe, answer)
    return pipe, answer


def notes(*seats: Seat) -> list[str]:
    return [event.text for seat in seats for event in seat.said(PluginNoted) if event.plugin == "random_probe"]


async def both_connect(house: Household, by_peers: bool) -> int:
    """The packets that the router has lost."""
    world, c, d = house
    pairs = [(world.a, world.b), (c, d)]
    done = await asyncio.gather(*(talk(*(reversed(pair) if by_peers else pair)) for pair in pairs))  # type: ignore[misc]
    lost = dict(world.routers["a"].counters().dropped)
    await asyncio.gather(*(pipe.close() for pipes in done for pipe in pipes))
    return lost.get("table full", 0) + lost.get("too many new flows", 0)


@pytest.mark.parametrize(("seed", "by_peers"), [(1, False), (5, False), (2, True), (4, True)])
def test_two_spreads_that_fill_the_table_back_off_and_are_both_found(seed: int, by_peers: bool) -> None:
    """The mappings that are there are shared, and live for 30 s: repeating the rest in vain would find no more."""

    async def main() -> None:
        async with household("edm", "eim-apdf", seed, table_limit=ONE_SPREAD) as house:
            world, c, _ = house
            lost = await both_connect(house, by_peers)
            assert any("leaving it alone" in note for note in notes(world.a, c))
            # What is repeated once more after the first two waits; three rounds of each were 800.
            assert lost < 2 * 256

    virtual(main)


@pytest.mark.parametrize(("seed", "by_peers"), [(2, False), (4, False), (5, True)])
def test_two_searches_share_what_a_slow_router_makes(seed: int, by_peers: bool) -> None:
    """It makes so many mappings a second: no table is full, but half of the two's probes would be lost."""

    async def main() -> None:
        async with household("eim-apdf", "edm", seed, new_flows_per_second=ONE_SEARCH) as house:
            world, c, _ = house
            began = world.now
            lost = await both_connect(house, by_peers)
            assert any("50 probes a second" in note for note in notes(world.a, c))
            made = world.routers["a"].counters().flows_created
            assert made + lost <= 2 * 100 * (world.now - began) + 60

    virtual(main)


@pytest.mark.parametrize(("seed", "by_peers"), [(4, True), (5, False), (2, False)])
def test_two_searches_that_fill_the_table_wait_for_it_and_find_their_peers(seed: int, by_peers: bool) -> None:
    """A search alone fits into this table, since its router forgets within 2.5 s what is not answered."""

    async def main() -> None:
        brief = Lifetimes(udp_unreplied=2.5)
        async with household("eim-apdf", "edm", seed, table_limit=300, lifetimes=brief) as house:
            world, c, _ = house
            lost = await both_connect(house, by_peers)
            assert any("leaving it alone" in note for note in notes(world.a, c))
            assert lost < 500

    virtual(main)
