"""A pipe takes along what it needs, and nothing of the search that found it."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from weakref import ref

import pytest
from cascade_world import LASTING, OVER_TCP, OVER_UDP, Options, World, connected, exchange, virtual
from qh3.quic.connection import QuicConnection
from qh3.quic.tls_bridge import QuicTlsBridge
from test_relays import RelayWorld

from warpgate.core.connection.quic_bounds import Watch
from warpgate.core.connection.quic_driver import QuicDriver
from warpgate.core.connection.quic_engine import QuicEngine
from warpgate.core.connections import LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.quic import BytesOverQuic, QuicPipe
from warpgate.core.search.attempt import PluginAttempt
from warpgate.core.search.hosted import HostedSession
from warpgate.core.search.initiator import Initiator
from warpgate.core.search.outbox import Outbox
from warpgate.core.search.report import Reporter
from warpgate.core.search.session import Session
from warpgate.errors import PipeClosed
from warpgate.model.endpoint import Mode, Transport
from warpgate.proto.turn import TurnClient
from warpgate.services.relay_allocation import Allocation
from warpgate.services.relay_carrier import StreamCarrier
from warpgate.services.relay_tcp import TcpRelay

OVER_QUIC: Options = {"mode": Mode.STREAM, "transport": Transport.UDP}
QUIC = (QuicConnection, QuicTlsBridge, QuicEngine, QuicDriver, Watch, BytesOverQuic)
SEARCH = (Session, Initiator, HostedSession, PluginAttempt, Outbox, Reporter)
RELAY = (Allocation, StreamCarrier, TurnClient, TcpRelay)
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


async def _closed(near: Pipe, far: Pipe) -> None:
    await near.close()
    await far.close()


async def _reset(near: Pipe, far: Pipe) -> None:
    with suppress(PipeClosed, TimeoutError):
        async with asyncio.timeout(1.0):  # until it is full
            while True:
                await near.send(bytes(100_000))
    far.abort()


async def _broken(near: Pipe, far: Pipe) -> None:
    engine = near._stream if isinstance(near, QuicPipe) else near.connection.engine  # type: ignore[attr-defined]
    engine._quic.send_stream_data(engine._quic.get_next_available_stream_id(is_unidirectional=True), b"what is that?")
    await near.send(b"x")


@pytest.mark.parametrize("ending", [_closed, _reset, _broken])
@pytest.mark.parametrize("options", [OVER_QUIC, LASTING], ids=["plain", "durable"])
def test_what_quic_holds_is_freed_with_its_connection(
    options: Options, ending: Callable[[Pipe, Pipe], Coroutine[Any, Any, None]]
) -> None:
    """Not when Python's collector comes: hundreds of kilobytes each, where data was under way."""

    async def main() -> None:
        async with World() as world:
            pipes = (await connected(world, **options))[:2]
            await exchange(*pipes)
            gc.collect()
            gc.disable()
            left = [ref(it) for it in gc.get_objects() if isinstance(it, QUIC)]
            assert len(left) >= 2 * 5
            await ending(*pipes)
            for pipe in pipes:
                pipe.abort()
            del pipes, pipe
            await asyncio.sleep(LINGERING + 100.0)
            world.a.events.clear()
            world.b.events.clear()
            assert [it() for it in left if it() is not None] == []

    try:
        virtual(main)
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_what_a_relay_holds_is_freed_with_its_allocation(options: Options) -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            gc.collect()
            gc.disable()
            near, far, _ = await connected(world, **options)
            await exchange(near, far)
            assert near.relayed
            left = [ref(it) for it in gc.get_objects() if isinstance(it, RELAY)]
            assert len(left) >= 4
            await near.close()
            await far.close()
            del near, far
            await world.a.node.close()
            await world.b.node.close()
            await asyncio.sleep(100.0)
            assert [it() for it in left if it() is not None] == []

    try:
        virtual(main)
    finally:
        gc.enable()


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
