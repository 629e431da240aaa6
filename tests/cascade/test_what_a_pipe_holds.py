"""A pipe takes along what it needs, and nothing of the search that found it."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest
from cascade_world import OVER_TCP, OVER_UDP, Options, World, connected, exchange, virtual

from warpgate.core.search.attempt import PluginAttempt
from warpgate.core.search.hosted import HostedSession
from warpgate.core.search.initiator import Initiator
from warpgate.core.search.outbox import Outbox
from warpgate.core.search.report import Reporter
from warpgate.core.search.session import Session
from warpgate.model.endpoint import Mode

SEARCH = (Session, Initiator, HostedSession, PluginAttempt, Outbox, Reporter)
PIPES = 40
# Both ends together, bytes: their queues, a socket of their own each, and the report are 5 kB of them.
LIMIT = 13 * 1024


@pytest.mark.parametrize(
    "options",
    [OVER_UDP, OVER_TCP, {"mode": Mode.STREAM, "plugins": ["udp_punch"]}],
    ids=["udp", "tcp", "quic"],
)
@pytest.mark.parametrize("kind", ["public", "eim-apdf"])
def test_nothing_of_a_finished_search_stays_alive(kind: str, options: Options) -> None:
    async def main() -> None:
        async with World(kind, kind) as world:
            one, other, _ = await connected(world, **options)
            await exchange(one, other)
            await asyncio.sleep(30.0)  # the responder's patience is over, late repetitions have come
            gc.collect()
            alive = [type(it).__name__ for it in gc.get_objects() if isinstance(it, SEARCH)]
            assert alive == []
            await exchange(one, other)
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


def traced(world: World) -> int:
    """Bytes that the program holds; not the internet in memory, nor what the test has written down."""
    world.a.events.clear()
    world.b.events.clear()
    gc.collect()
    outside = [tracemalloc.Filter(False, f"*{part}*") for part in ("/lab/", "/tests/", "importlib")]
    return sum(entry.size for entry in tracemalloc.take_snapshot().filter_traces(outside).statistics("filename"))


def test_a_pair_of_datagram_pipes_costs_a_few_kilobytes() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            await connected(world, **OVER_UDP)  # whatever is made once is made now
            tracemalloc.start()
            pipes = [await connected(world, **OVER_UDP) for _ in range(PIPES)]
            await asyncio.sleep(30.0)
            held = traced(world)
            while pipes:
                one, other, _ = pipes.pop()
                await one.close()
                await other.close()
            del one, other
            await asyncio.sleep(30.0)
            # What is left is the nodes' memory of sessions that are over, which is bounded.
            assert (held - traced(world)) / PIPES <= LIMIT
            tracemalloc.stop()

    virtual(main)
