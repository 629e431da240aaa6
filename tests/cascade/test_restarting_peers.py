"""Durable pipes that are opened while their peer is just being restarted: they are opened anew if it never saw them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from cascade_world import World, connected, exchange, virtual

from warpgate.core.connections import LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConnectFailed, PipeClosed
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Mode

STEP = 0.004
BEFORE = 5  # so many pipes are opened before the peer goes
SEEN = BEFORE + 7  # and so many it may have seen: it goes when its last ends are acknowledged, and that travels, too


async def gone(world: World) -> None:
    await asyncio.sleep(LINGERING + 1)
    assert (len(world.a.run.connections), len(world.b.run.connections)) == (0, 0)
    await world.quiet()


async def restart(world: World) -> None:
    await world.b.node.close()
    await world.b.node.start()


class Served:
    """What b heard, over all its lives."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard: Counter[bytes] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self.begin()

    def begin(self) -> None:
        self._tasks.append(asyncio.ensure_future(self._accept()))

    async def _accept(self) -> None:
        async for pipe in self.world.b.node:
            self._tasks.append(asyncio.ensure_future(self.serve(pipe)))

    async def serve(self, pipe: Pipe) -> None:
        try:
            data = await (pipe.recv_n(2) if pipe.mode is Mode.STREAM else pipe.recv())
            self.heard[data] += 1
            await pipe.send(b"ok " + data)
            await pipe.recv()
        except PipeClosed:
            pass
        await pipe.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


Opening = Callable[[World, NodeAddress], Awaitable[Pipe]]


async def stream(world: World, there: NodeAddress) -> Pipe:
    return await world.a.node.connect(there, durable=True)


async def datagrams(world: World, there: NodeAddress) -> Pipe:
    return await world.a.node.connect(there, mode=Mode.DATAGRAM, durable=True)


async def of_a_service(world: World, there: NodeAddress) -> Pipe:
    return await world.a.node.connect(there, service="echo", durable=True)


@pytest.mark.parametrize("opening", [stream, datagrams, of_a_service], ids=lambda opening: opening.__name__)
def test_pipes_at_every_moment_of_a_restart_are_heard_once(opening: Opening) -> None:
    """Those that b has seen before it went end with it; all others are heard by the next one."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            served = Served(world)
            world.b.node.serve("echo", served.serve)
            there = world.b.node.address
            first = await opening(world, there)
            await first.send(b"00")
            assert await first.recv(timeout=5) == b"ok 00"
            answered: set[int] = set()

            async def one(number: int) -> None:
                said = b"%02d" % number
                with contextlib.suppress(PipeClosed, ConnectFailed):
                    pipe = await opening(world, there)
                    await pipe.send(said)
                    async with asyncio.timeout(30):
                        if await pipe.recv() == b"ok " + said:
                            answered.add(number)
                    await pipe.close()

            opened = []
            for number in range(1, 60):
                if number == BEFORE:
                    restarting = asyncio.ensure_future(restart(world))
                opened.append(asyncio.ensure_future(one(number)))
                await asyncio.sleep(STEP)
            await restarting
            served.begin()
            results = await asyncio.gather(*opened, return_exceptions=True)
            late = sum(isinstance(result, TimeoutError) for result in results)
            assert [result for result in results if result and not isinstance(result, TimeoutError)] == []
            assert late == 0 or opening is datagrams  # these may be lost
            assert set(range(60)) - answered <= set(range(SEEN))
            assert max(served.heard.values()) == 1
            await served.stop()
            await first.close()

    virtual(main)


async def opened_too_late(world: World) -> Pipe:
    """On the connection that there was, by who does not know yet that b has closed it."""
    near, far, _ = await connected(world, durable=True)
    await exchange(near, far)
    await near.close()
    await far.close()
    there = world.b.node.address
    await world.b.node.close()
    return await world.a.node.connect(there, durable=True)


def test_what_was_said_before_is_said_again_and_the_end_too() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            pipe = await opened_too_late(world)
            data = bytes(range(256)) * 60  # what may be sent without an answer
            await pipe.send(data)
            pipe.write_eof()
            session = pipe.session
            await world.b.node.start()
            other = await world.b.node.accept()
            assert await other.recv_n(len(data)) == data
            assert await other.recv(timeout=5) == b""
            assert pipe.session == other.session != session
            await other.send(b"got it")
            assert await pipe.recv(timeout=5) == b"got it"
            await pipe.close()
            await other.close()
            await gone(world)

    virtual(main)


def test_a_peer_that_does_not_come_back_ends_it() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            pipe = await opened_too_late(world)
            await pipe.send(b"anybody?")
            reading = asyncio.ensure_future(pipe.recv())
            with pytest.raises(PipeClosed, match=r"the node was closed.*could not be opened anew"):
                await reading
            with pytest.raises(PipeClosed):
                await pipe.send(b"nobody")
            await pipe.close()

    virtual(main)


@pytest.mark.parametrize("how", ["close", "abort", "node"])
def test_it_may_be_given_up_meanwhile(how: str) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            pipe = await opened_too_late(world)
            await pipe.send(b"x")
            await asyncio.sleep(0.5)
            assert not pipe.closed
            reading = asyncio.ensure_future(pipe.recv())
            await asyncio.sleep(0)
            if how == "close":
                await pipe.close()
            elif how == "abort":
                pipe.abort()
            else:
                await world.a.node.close()
            with pytest.raises(PipeClosed):
                await reading
            await asyncio.sleep(LINGERING + 30)
            await world.quiet()

    virtual(main)
