"""Several connects at once that need a search each: in virtual time. One search at a time let one of four succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from cascade_world import FINGERPRINTED, OVER_UDP, STUN, URLS, Options, R, Seat, World, exchange, virtual

from warpgate.config import Budgets, Config
from warpgate.core.pipes.base import Pipe
from warpgate.core.search.budget import SHARED
from warpgate.model.endpoint import Mode, Transport
from warpgate.plugins.registry import REGISTRY

CONFIG = Config(brokers=tuple(URLS[:1]), stun=(STUN,))
STREAMS: Options = {"mode": Mode.STREAM, "transport": Transport.UDP}
EITHER = [("edm", "eim-apdf"), ("eim-apdf", "edm")]
# What a node asks of servers meanwhile.
QUESTIONS = 200


async def all_at_once(ways: Sequence[tuple[Seat, Seat]], options: Options = OVER_UDP) -> list[tuple[Pipe, Pipe]]:
    """A connect from one to the other for each, all in this instant: both ends of each, which are used."""
    ones = await asyncio.gather(*(one.node.connect(other.node.address, **options) for one, other in ways))
    ends: dict[str, Pipe] = {}
    for _, other in ways:
        pipe = await other.node.accept()
        ends[pipe.session] = pipe
    pairs = [(one, ends[one.session]) for one in ones]
    for one, other in pairs:
        await exchange(one, other)
    return pairs


async def close_all(pairs: list[tuple[Pipe, Pipe]]) -> None:
    for pair in pairs:
        for pipe in pair:
            await pipe.close()


def flows(world: World) -> dict[str, int]:
    return {name: router.counters().flows_created for name, router in world.routers.items()}


@pytest.mark.parametrize(("count", "seed"), [(4, 0), (4, 1), (8, 0)])
@pytest.mark.parametrize("kinds", EITHER)
def test_datagram_pipes_share_what_one_search_finds(kinds: tuple[str, str], count: int, seed: int) -> None:
    async def main() -> None:
        async with World(*kinds, seed=seed) as world:
            before, began = flows(world), world.now
            pairs = await all_at_once([(world.a, world.b)] * count)
            assert {one.plugin for one, _ in pairs} == {"random_probe"}
            assert len({(one.local, one.remote) for one, _ in pairs}) == count
            made = {name: after - before[name] for name, after in flows(world).items()}
            spread, searched = [made["ab"[kinds.index(kind)]] for kind in ("edm", "eim-apdf")]
            assert spread <= SHARED + QUESTIONS
            assert searched <= Budgets().random_probes_per_second * (world.now - began) + QUESTIONS
            await close_all(pairs)
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("kinds", EITHER)
def test_streams_go_by_the_first_pair_that_is_found(kinds: tuple[str, str]) -> None:
    async def main() -> None:
        async with World(*kinds) as world:
            pairs = await all_at_once([(world.a, world.b)] * 4, STREAMS)
            assert len({(one.local, one.remote) for one, _ in pairs}) <= 2  # a second probe may hit in that instant
            waits = [one.seconds for one, _ in pairs]
            assert max(waits) - min(waits) < 3 * R
            first, *others = sorted(pairs, key=lambda pair: pair[0].seconds)
            await close_all([first])  # the others do not need its sockets to be there for ever
            await asyncio.sleep(300.0)
            for one, other in others:
                await exchange(one, other)
            await close_all(others)
            await world.quiet()

    virtual(main)


def test_two_sides_with_few_ports_meet_one_after_the_other() -> None:
    async def main() -> None:
        async with World("mape", "mape") as world:
            pairs = await all_at_once([(world.a, world.b)] * 4)
            assert len({(one.local, one.remote) for one, _ in pairs}) == 4
            await close_all(pairs)
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize(("kinds", "seed"), [(kinds, seed) for kinds in EITHER for seed in (0, 1)])
def test_to_two_peers(kinds: tuple[str, str], seed: int) -> None:
    async def main() -> None:
        world = World(*kinds, seed=seed, settle=0.0)
        host, _ = world.internet.site("c", kinds[1], 3)
        c = Seat(world, "c", host, CONFIG, REGISTRY)
        async with world:
            await c.node.start()
            await asyncio.sleep(FINGERPRINTED)
            await close_all(await all_at_once([(world.a, world.b), (world.a, c)] * 2))
            await c.node.close()

    virtual(main)


@pytest.mark.parametrize("key", ["a", "c"], ids=["the same identity", "another one"])
@pytest.mark.parametrize(("kinds", "processes"), [(EITHER[0], 2), (EITHER[1], 2)])
def test_from_several_processes_behind_one_router(kinds: tuple[str, str], processes: int, key: str) -> None:
    """Of these each needs a spread, or a search, of its own; so many spreads leave each other room."""

    async def main() -> None:
        world = World(*kinds, settle=0.0)
        seats = [world.a]
        for number in range(3, 2 + processes):
            host = world.internet.host(f"c{number}", f"192.168.1.{number}", behind=world.routers["a"])
            seats.append(Seat(world, f"c{number}", host, CONFIG, REGISTRY, key="a" if key == "a" else ""))
        async with world:
            await asyncio.gather(*(seat.node.start() for seat in seats[1:]))
            await asyncio.sleep(FINGERPRINTED)
            await close_all(await all_at_once([(seat, world.b) for seat in seats] * (4 // processes or 1)))
            await asyncio.gather(*(seat.node.close() for seat in seats[1:]))

    virtual(main)
