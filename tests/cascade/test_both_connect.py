"""Two nodes that connect to each other durably: they share one connection, whoever has begun it, and lose nothing."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from typing import Any

import pytest
from cascade_world import HOP, LASTING, R, S, Seat, World, connected, exchange, identity, virtual
from durable_kit import moved
from strangers_kit import fresh_bytes
from test_instances import CONFIG, twin_of_b

from warpgate.config import Config
from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_channels import QuicChannels
from warpgate.core.connection.quic_engine import State
from warpgate.core.connections import LINGERING, SUPERSEDED
from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConnectFailed, PipeClosed
from warpgate.events import PluginStarted
from warpgate.model.endpoint import Mode
from warpgate.plan.collision import HEAD_START
from warpgate.plugins.registry import REGISTRY
from warpgate_testing.internet import PathSpec

STEP = 0.002
COLLISIONS = int(os.environ.get("WARPGATE_COLLISIONS", "50"))
ONE_WAY = S / 2


def count(world: World) -> tuple[int, int]:
    """Those that are proved; of one that was given up before, its server hears no more, and forgets it."""
    books = (world.a.run.connections, world.b.run.connections)
    return tuple(sum(connection.engine.state is State.OPEN for connection in book.known) for book in books)


async def gone(world: World) -> None:
    await asyncio.sleep(LINGERING + 1)
    assert count(world) == (0, 0)
    await world.quiet()


async def connect(seat: Seat, other: Seat, delay: float) -> tuple[Pipe, float]:
    """A pipe that has said who has opened it, and how long that took."""
    await asyncio.sleep(delay)
    began = asyncio.get_running_loop().time()
    pipe = await seat.node.connect(other.node.address, durable=True)
    seconds = asyncio.get_running_loop().time() - began
    await pipe.send(f"from {seat.name}".encode())
    return pipe, seconds


async def both_connect(world: World, offset: float, patience: float = 5.0) -> tuple[list[Pipe], list[float]]:
    """a's pipe, b's, and their other ends; b begins `offset` seconds after a."""
    opened = await asyncio.gather(
        connect(world.a, world.b, max(0.0, -offset)), connect(world.b, world.a, max(0.0, offset))
    )
    async with asyncio.timeout(patience):
        ends = await asyncio.gather(world.b.node.accept(), world.a.node.accept())
        for end, said in zip(ends, (b"from a", b"from b"), strict=True):
            assert await end.recv_n(len(said)) == said
    return [pipe for pipe, _ in opened] + ends, [seconds for _, seconds in opened]


@pytest.mark.parametrize("kind", ["eim-apdf", "public"])
def test_both_connecting_at_any_offset_share_one_connection_and_hardly_wait_for_it(kind: str) -> None:
    """A punch takes S + r; who has heard of the other's in that time waits for a round trip more at most."""

    async def main() -> None:
        async with World(kind, kind) as world:
            for number in range(-25, 25):
                pipes, waited = await both_connect(world, 2 * number * STEP)
                assert len({pipe.session for pipe in pipes}) == 1
                assert max(waited) <= S + ONE_WAY + R + 1e-6
                await exchange(pipes[0], pipes[2])
                await exchange(pipes[1], pipes[3])
                await asyncio.sleep(SUPERSEDED + 1)
                assert count(world) == (1, 1)
                pipes[0].connection.close()
                await asyncio.sleep(1)
                assert count(world) == (0, 0)

    virtual(main, limit=1e4)


def test_where_packets_are_lost_both_may_be_used_and_then_the_one_of_the_lower_id() -> None:
    async def main() -> None:
        for seed in range(10):
            async with World("eim-apdf", "eim-apdf", seed=seed) as world:
                world.lose(0.2)
                pipes, _ = await both_connect(world, 0.0, patience=60.0)
                world.lose(0.0)
                await asyncio.sleep(1)
                assert world.a.node.node_id < world.b.node.node_id
                later = [
                    await world.a.node.connect(world.b.node.address, durable=True),
                    await world.b.node.connect(world.a.node.address, durable=True),
                ]
                ends = [await world.b.node.accept(), await world.a.node.accept()]
                assert len({pipe.session for pipe in (*later, *ends)}) == 1
                assert later[0].session in {pipe.session for pipe in pipes}
                if len({pipe.session for pipe in pipes}) == 2:
                    assert later[0].session == pipes[0].session
                for one, other in zip((*pipes[:2], *later), (*pipes[2:], *ends), strict=True):
                    await exchange(one, other)
                for pipe in (*pipes, *later, *ends):
                    await pipe.close()
                await gone(world)

    virtual(main, limit=1e4)


def troubled(world: World, rng: random.Random) -> None:
    """Between the two sites a delay, jitter and loss that the nodes could not know of."""
    path = PathSpec(
        delay=rng.choice((0.002, HOP, 2 * HOP)),
        jitter=rng.choice((0.0, HOP, 5 * HOP)),
        loss=rng.choice((0.0, 0.1, 0.3)),
    )
    world.internet.set_path(world.routers["a"], world.routers["b"], path)


async def collide(seed: int) -> int:
    """On how many connections their pipes are, where both connect in trouble; all work, and one lasts."""
    rng = random.Random(seed)
    async with World("eim-apdf", "eim-apdf", seed=seed) as world:
        troubled(world, rng)
        pipes, _ = await both_connect(world, rng.uniform(-0.4, 0.4), patience=60.0)
        world.lose(0.0)
        await asyncio.sleep(2)
        began = len({pipe.session for pipe in pipes})
        for one, other in zip(pipes[:2], pipes[2:], strict=True):
            await exchange(one, other)
        later = await world.b.node.connect(world.a.node.address, durable=True)
        end = await world.a.node.accept()
        for pipe in pipes:
            await pipe.close()
        await asyncio.sleep(LINGERING + 1)
        assert count(world) == (1, 1)
        await exchange(later, end)
        for pipe in (later, end):
            await pipe.close()
        await gone(world)
        return began


def test_loss_and_reordering_at_the_collision_hardly_ever_part_the_two() -> None:
    """Two connections are used only where all that one says is lost for 0.4 s: 5 of 800, nearly all at 30 % each
    way; the spare one ends idle.
    """

    async def main() -> list[int]:
        return [await collide(seed) for seed in range(COLLISIONS)]

    assert virtual(main, limit=1e5).count(2) <= max(1, COLLISIONS // 100)


def test_reordering_alone_neither_parts_the_two_nor_costs_them_a_second_search() -> None:
    """What the one says first on its own connection comes between the endpoints of a path that it has found for the
    other's: that path is not taken for its answer, which would be heard by nobody.
    """

    async def main() -> None:
        for seed in range(30, 40):
            async with World("eim-apdf", "eim-apdf", seed=seed) as world:
                path = PathSpec(delay=HOP, jitter=5 * HOP)
                world.internet.set_path(world.routers["a"], world.routers["b"], path)
                pipes, waited = await both_connect(world, 0.03 * (seed % 3 - 1))
                assert len({pipe.session for pipe in pipes}) == 1
                assert max(waited) < 0.8
                for pipe in pipes:
                    await pipe.close()
                await gone(world)

    virtual(main, limit=1e4)


# -- the peer's connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [LASTING, {"durable": True, "mode": Mode.DATAGRAM}], ids=["stream", "datagram"])
def test_who_was_called_opens_pipes_on_the_same_connection_at_once(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await connected(world, durable=True)
            began, offers = world.now, world.b.signals()["offer"]
            back = await world.b.node.connect(world.a.node.address, **options)
            assert world.now == began
            other = await world.a.node.accept()
            assert back.session == other.session == near.session
            assert world.b.signals()["offer"] == offers
            await exchange(back, other)
            await exchange(near, far)
            for pipe in (near, far, back, other):
                await pipe.close()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize("name", ["a", "b"])
def test_such_a_pipe_outlives_a_move_of_either_side(name: str) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far, _ = await connected(world, durable=True)
            back = await world.b.node.connect(world.a.node.address, durable=True)
            other = await world.a.node.accept()
            await near.close()
            await far.close()
            moved(name, 77)(world)
            await exchange(back, other)
            assert back.connection.moves == 1
            await exchange(back, other)
            await back.close()
            await other.close()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize(
    "asked",
    [{"plugins": ["udp_punch"]}, {"transport": "tcp"}, {"of": bytes(4)}],
    ids=["plugins", "transport", "process"],
)
def test_who_asks_for_more_gets_a_connection_that_was_made_for_it(asked: dict[str, Any]) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, _, _ = await connected(world, durable=True)
            options = dict(asked)
            there = world.a.node.address
            if (instance := options.pop("of", None)) is not None:
                there = replace(there, instance=instance)
            back = await world.b.node.connect(there, durable=True, **options)
            other = await world.a.node.accept()
            assert back.session == other.session != near.session
            await exchange(back, other)

    virtual(main)


def test_a_twin_of_the_peer_that_has_called_is_not_taken_for_it() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world, twin_of_b(world) as twin:
            from_twin = await twin.node.connect(world.a.node.address, durable=True)
            assert (await world.a.node.accept()).peer == world.b.node.node_id
            pipe = await world.a.node.connect(world.b.node.address, durable=True)
            other = await world.b.node.accept()
            assert pipe.session == other.session != from_twin.session
            await exchange(pipe, other)

    virtual(main)


def test_a_peer_that_has_called_and_claims_anothers_instance_is_not_taken_for_it() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            rogue = Seat(world, "c", world.internet.host("c", "198.51.100.9"), CONFIG, REGISTRY)
            await rogue.node.start()
            from_rogue = await rogue.node.connect(world.a.node.address, durable=True)
            taken = await world.a.node.accept()
            claimed = replace(taken.connection.remote, instance=world.b.node.address.instance)
            taken.connection.meet(claimed)
            pipe = await world.a.node.connect(world.b.node.address, durable=True)
            other = await world.b.node.accept()
            assert pipe.session == other.session != from_rogue.session
            await exchange(pipe, other)
            await rogue.node.close()

    virtual(main)


# -- who may ------------------------------------------------------------------------------------------------------


def test_who_was_called_may_open_no_more_than_a_stranger_may() -> None:
    """a lets nobody in, and calls b: b is refused in words, whichever connection it comes by."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf", config_a=Config(allow=frozenset())) as world:
            world.a.node.serve("files", lambda _: asyncio.sleep(0))
            words = f"{world.b.node.node_id} is not among those allowed in, says node {world.a.node.node_id}"
            with pytest.raises(ConnectFailed, match=words):
                await world.b.node.connect(world.a.node.address, durable=True)
            near, far, _ = await connected(world, durable=True)
            back = await world.b.node.connect(world.a.node.address, durable=True)
            assert back.session == near.session
            with pytest.raises(PipeClosed, match=words):
                await back.recv(timeout=5)
            with pytest.raises(ConnectFailed, match=words):
                await world.b.node.connect(world.a.node.address, durable=True, service="files")
            datagrams = await world.b.node.connect(world.a.node.address, durable=True, mode=Mode.DATAGRAM)
            with pytest.raises(PipeClosed, match=words):
                await datagrams.recv(timeout=5)
            await exchange(near, far)
            world.a.run.context.admit(world.b.node.node_id)  # by a one-time code
            with pytest.raises(ConnectFailed, match="there is no service 'web' \\(there are: files\\), says node"):
                await world.b.node.connect(world.a.node.address, durable=True, service="web")
            files = await world.b.node.connect(world.a.node.address, durable=True, service="files")
            assert files.session == near.session
            for pipe in (near, far, files):
                await pipe.close()
            await gone(world)

    virtual(main)


def test_who_was_let_in_by_a_code_lets_nobody_in_by_that() -> None:
    async def main() -> None:
        nobody = Config(allow=frozenset())
        async with World("eim-apdf", "eim-apdf", config_a=nobody, config_b=nobody) as world:
            world.b.run.context.admit(world.a.node.node_id)
            near, far, _ = await connected(world, durable=True)
            back = await world.b.node.connect(world.a.node.address, durable=True)
            with pytest.raises(PipeClosed, match="not among those allowed in"):
                await back.recv(timeout=5)
            await exchange(near, far)

    virtual(main)


def test_a_connection_in_the_peers_name_that_is_not_proved_carries_nothing() -> None:
    """Of what claims to be b's, and never proves it; it delays a's own by two head starts at most."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            forger = QuicChannels.client(
                identity("m"), identity("a").public_key, fresh_bytes(16), world.now, Holdings()
            )
            forged = world.a.run.connections._accept(
                world.b.node.public_key, world.b.node.address, None, forger.datagrams(world.now)[0], 5.0
            )
            assert forged is not None
            pipe, other, seconds = await connected(world, durable=True)
            assert seconds <= S + ONE_WAY + 2 * HEAD_START
            assert pipe.connection is not forged
            await exchange(pipe, other)

    virtual(main)


def test_searches_for_a_peer_that_our_user_has_asked_for_are_not_those_of_strangers() -> None:
    """They count to no budget that strangers can use up."""

    async def main() -> None:
        async with World("public", "public") as world:
            await connected(world, durable=True)
            back = await world.b.node.connect(world.a.node.address, durable=True)
            assert (await world.a.node.accept()).session == back.session
            world.b.run.equipment.peer_searches.overdraw(1e9)
            world.hosts["a"].crash()
            await back.send(b"anybody?")
            before = len(world.b.said(PluginStarted))
            await asyncio.sleep(5)
            assert len(world.b.said(PluginStarted)) > before
            back.abort()

    virtual(main)


def test_a_pipe_on_the_connection_of_a_peer_that_is_just_restarted_is_opened_anew() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far, _ = await connected(world, durable=True)
            there = world.a.node.address
            await world.a.node.close()
            back = await world.b.node.connect(there, durable=True)
            assert back.session == near.session
            await back.send(b"to the next one")
            await world.a.node.start()
            other = await world.a.node.accept()
            assert await other.recv(timeout=5) == b"to the next one"
            assert back.session == other.session != near.session
            await far.close()
            await back.close()
            await other.close()
            await gone(world)

    virtual(main)
