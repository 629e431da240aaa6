"""Moves while something else goes on: a collision, a dying relay, a restart, loss, pipes of several services."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from cascade_world import Seat, World, exchange, virtual
from durable_kit import Counters, both, moved
from test_durable_datagrams import EACH_SECONDS, Numbers, durable
from test_relays import RelayWorld
from test_reserve import TwoRelays

from warpgate.core.connections import LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.errors import PipeClosed

# From the first tick of a search to after its end, over a relay and beneath it.
MOMENTS = (0.0, 0.05, 0.08, 0.13, 0.3)
# A suspicion, and a search with the servers that a move has made unreachable meanwhile.
FOUND_AGAIN = 5.0
LINES = 150


async def gone(world: World) -> None:
    await asyncio.sleep(LINGERING + 1)
    assert (len(world.a.run.connections), len(world.b.run.connections)) == (0, 0)
    await world.quiet()


async def connect(seat: Seat, other: Seat) -> Pipe:
    pipe = await seat.node.connect(other.node.address, durable=True)
    await pipe.send(f"from {seat.name}".encode())
    return pipe


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("kinds", [("eim-apdf", "eim-apdf"), ("edm", "edm")], ids="-".join)
def test_both_connect_with_a_relay_and_one_moves_meanwhile(kinds: tuple[str, str], name: str) -> None:
    async def main() -> None:
        for at, moment in enumerate(MOMENTS):
            async with RelayWorld(*kinds, seed=at) as world:
                began = world.now
                asyncio.get_running_loop().call_later(moment, moved(name, 60 + at, kinds[0]), world)
                async with asyncio.timeout(FOUND_AGAIN):
                    opened = await asyncio.gather(connect(world.a, world.b), connect(world.b, world.a))
                    ends = await asyncio.gather(world.b.node.accept(), world.a.node.accept())
                    for end, said in zip(ends, (b"from a", b"from b"), strict=True):
                        assert await end.recv_n(len(said)) == said
                assert world.now - began < FOUND_AGAIN
                await asyncio.sleep(2)
                for one, other in zip(opened, ends, strict=True):
                    await exchange(one, other)
                    assert one.relayed == (kinds[0] == "edm")
                later = [await connect(world.a, world.b), await connect(world.b, world.a)]
                ends += [await world.b.node.accept(), await world.a.node.accept()]
                assert len({pipe.session for pipe in later}) == 1
                for pipe in (*opened, *later, *ends):
                    await pipe.close()
                await gone(world)

    virtual(main, limit=1e4)


@pytest.mark.parametrize("moves", [("a",), ("b",), ("a", "b")], ids="".join)
def test_datagrams_over_a_lossy_path_that_moves_lose_what_it_loses_and_the_move(
    moves: tuple[str, ...],
) -> None:
    loss, settled, dark, watched = 0.1, 2.0, 1.0, 20.0

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            world.lose(loss)
            numbers = Numbers(world, near, far)
            await asyncio.sleep(settled)
            moved_at, first_after = world.now, numbers.sent
            for number, name in enumerate(moves):
                moved(name, 70 + number)(world)
            world.lose(loss)
            await asyncio.sleep(dark)
            whole_from = numbers.sent
            await asyncio.sleep(watched)
            last = numbers.sent
            await asyncio.sleep(1.0)
            await numbers.stop()
            assert moved_at < world.now
            came = [number for _, number in numbers.came]
            assert came == sorted(came)
            after = sum(whole_from <= number < last for number in came)
            expected = (1 - loss) ** 2 * (last - whole_from)
            assert abs(after - expected) < 4 * (expected * (1 - (1 - loss) ** 2)) ** 0.5
            assert sum(first_after <= number < whole_from for number in came) > 0.3 * dark / EACH_SECONDS
            assert near.connection.moves >= 1
            world.lose(0.0)
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_each_pipe_of_two_services_keeps_to_its_own_through_moves() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            said: dict[str, list[bytes]] = {"ssh": [], "web": []}

            async def serve(pipe: Pipe) -> None:
                with contextlib.suppress(PipeClosed):
                    while data := await pipe.recv():
                        said[pipe.service].append(data)
                        await pipe.send(pipe.service.encode() + data[3:])

            for name in said:
                world.b.node.serve(name, serve)

            async def talk(service: str, tag: bytes, opens_at: float) -> int:
                await asyncio.sleep(opens_at)
                pipe = await world.a.node.connect(world.b.node.address, service=service, durable=True)
                for number in range(LINES):
                    line = number.to_bytes(4, "big")
                    await pipe.send(tag + line)
                    assert await pipe.recv_n(len(tag) + 4) == service.encode() + line
                    await asyncio.sleep(0.01)
                await pipe.close()
                return LINES

            for at, name in enumerate("abab"):
                asyncio.get_running_loop().call_later(0.5 + 0.4 * at, moved(name, 60 + at), world)
            asyncio.get_running_loop().call_later(2.5, both(moved("a", 80), moved("b", 81)), world)
            talks = [talk(service, service.encode(), 0.13 * at) for at, service in enumerate(("ssh", "web") * 4)]
            async with asyncio.timeout(60):
                assert sum(await asyncio.gather(*talks)) == 8 * LINES
            for name, lines in said.items():
                assert {data[index : index + 3] for data in lines for index in range(0, len(data), 7)} == {
                    name.encode()
                }
            await gone(world)

    virtual(main)


@pytest.mark.parametrize(
    ("moves", "offset"), [("a", -0.2), ("a", 0.1), ("b", 0.0), ("b", 0.3), ("ab", -0.2), ("ab", 0.1)]
)
def test_a_relay_that_dies_while_a_pipe_over_it_moves(moves: str, offset: float) -> None:
    """`offset`: of its death, seconds after the move. There is a second one."""

    async def main() -> None:
        async with TwoRelays("edm", "edm") as world:
            near = await world.a.node.connect(world.b.node.address, durable=True)
            far = await world.b.node.accept()
            counters = Counters(near, far)
            await asyncio.sleep(3.0)
            assert near.relayed
            relay = near.local if near.plugin == "turn" else near.remote
            dying = {"203.0.113.5": world.turn_host}.get(str(relay.ip), world.second_host)
            began = world.now
            asyncio.get_running_loop().call_later(max(0.0, offset), lambda: setattr(dying.host, "up", False))
            await asyncio.sleep(max(0.0, -offset))
            for number, name in enumerate(moves):
                moved(name, 70 + number, "edm")(world)
            await asyncio.sleep(5.0)
            assert counters.worst(began) <= 3.0
            await counters.stop()
            await near.close()
            await far.close()

    virtual(main)


@pytest.mark.parametrize("crashes", [True, False], ids=["crash", "close"])
@pytest.mark.parametrize("offset", [-0.3, -0.1, 0.0, 0.1, 0.3])
def test_a_peer_that_is_restarted_while_we_move(offset: float, crashes: bool) -> None:
    """`offset`: of the restart, seconds after the move. The pipe ends with a true reason, another is there soon."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near = await world.a.node.connect(world.b.node.address, durable=True)
            far = await world.b.node.accept()
            counters = Counters(near, far)
            await asyncio.sleep(2.0)
            asyncio.get_running_loop().call_later(max(0.0, -offset), moved("a", 70), world)
            await asyncio.sleep(max(0.0, offset))
            if crashes:
                world.hosts["b"].crash()
                await asyncio.sleep(0.2)
                await world.b.node.close()
                world.hosts["b"].boot()
            else:
                await world.b.node.close()
            await world.b.node.start()
            began = world.now
            while not counters.fault:
                await asyncio.sleep(0.05)
                assert world.now - began < FOUND_AGAIN
            reasons = ("restarted",) if crashes else ("restarted", "the node was closed", "the stream ended")
            assert any(reason in counters.fault for reason in reasons)
            async with asyncio.timeout(FOUND_AGAIN):
                again = await connect(world.a, world.b)
                other = await world.b.node.accept()
                assert await other.recv_n(6) == b"from a"
            for pipe in (again, other):
                await pipe.close()
            await gone(world)

    virtual(main)
