"""A malicious peer with many pipes that it fills and never reads: what a node holds for all of them together.

Counted is what their users can still read when the peer's machine is gone, and what they can write after that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from cascade_world import World, virtual

from warpgate.core.connection.channel import EACH
from warpgate.core.connection.pool import FLOOR
from warpgate.core.connection.quic_bounds import UNREAD_TOTAL, UNSENT_TOTAL
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.durable import DurableDatagramPipe
from warpgate.core.serving import ACCEPT_QUEUE
from warpgate.errors import PipeClosed, WarpgateError
from warpgate.model.endpoint import Mode, Transport
from warpgate.proto.channel_wire import LARGEST_DATAGRAM

DURABLE = {"durable": True, "mode": Mode.STREAM}
DATAGRAMS = {"durable": True, "mode": Mode.DATAGRAM}
PLAIN = {"transport": Transport.UDP, "mode": Mode.STREAM}
A_CONNECTION = 50  # pipes of one durable connection
CHUNK = 64 * 1024
# What one pipe is filled with: without a bound for all together it takes all of that.
ENOUGH = {Mode.STREAM: 512 * 1024, Mode.DATAGRAM: 128 * 1024}


async def opened(world: World, number: int, options: dict[str, object]) -> list[Pipe]:
    pipes = []
    for count in range(number):
        if count % A_CONNECTION == 0:
            world.a.run.connections.known._shared.clear()  # or all were pipes of one connection
        pipes.append(await world.a.node.connect(world.b.node.address, **options))  # type: ignore[arg-type]
    return pipes


async def fill(pipe: Pipe) -> int:
    """How many bytes it has taken until it takes no more, or has enough."""
    piece = bytes(LARGEST_DATAGRAM if pipe.mode is Mode.DATAGRAM else CHUNK)
    sent = 0
    with contextlib.suppress(WarpgateError, TimeoutError):
        async with asyncio.timeout(20):
            while sent < ENOUGH[pipe.mode]:
                await pipe.send(piece)
                sent += len(piece)
    return sent


async def read(pipe: Pipe) -> int:
    """What there is, and for datagrams what each of them takes beside its bytes."""
    size, each = 0, EACH if pipe.mode is Mode.DATAGRAM else 0
    with contextlib.suppress(TimeoutError, PipeClosed):
        while data := await pipe.recv(timeout=0.01):
            size += len(data) + each
    return size


async def fill_all(world: World, near: Sequence[Pipe]) -> None:
    await asyncio.gather(*map(fill, near))
    world.hosts["a"].crash()
    await asyncio.sleep(1)  # what is under way arrives before anything is read


def queued(pipe: DurableDatagramPipe) -> int:
    """Of what has been written; where no path works the newest take the places of older ones."""
    return sum(len(data) + EACH for data in pipe._channel._outgoing)


def gone(pipes: Sequence[Pipe]) -> None:
    for pipe in pipes:
        pipe.abort()


def bound(total: int, pipes: int) -> int:
    return total + pipes * FLOOR


@pytest.mark.parametrize(
    ("options", "number"),
    [
        pytest.param(DURABLE, 400, id="400 durable streams"),
        pytest.param(DATAGRAMS, 400, id="400 durable pipes of datagrams"),
        pytest.param(PLAIN, 60, id="60 QUIC streams"),
    ],
)
def test_pipes_that_are_filled_and_not_read_hold_little_together(options: dict[str, object], number: int) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            far: list[Pipe] = []

            async def keep(pipe: Pipe) -> None:
                far.append(pipe)
                await asyncio.Event().wait()

            world.b.node.serve("x", keep)
            near = await opened(world, number, options | {"service": "x"})
            await fill_all(world, near)
            held = sum([await read(pipe) for pipe in far])
            assert len(far) == number
            assert UNREAD_TOTAL / 4 < held <= bound(UNREAD_TOTAL, number)
            gone((*near, *far))

    virtual(main)


@pytest.mark.parametrize("options", [DURABLE, DATAGRAMS], ids=["stream", "datagram"])
def test_pipes_that_nobody_has_taken_hold_no_more(options: dict[str, object]) -> None:
    """They wait to be accepted, and their data with them."""

    async def main() -> None:
        async with World("public", "public") as world:
            near = await opened(world, 2 * ACCEPT_QUEUE, options)
            await fill_all(world, near)
            far: list[Pipe] = []
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(0.1):
                        far.append(await world.b.node.accept())
            held = sum([await read(pipe) for pipe in far])
            assert len(far) <= ACCEPT_QUEUE
            assert UNREAD_TOTAL / 4 < held <= bound(UNREAD_TOTAL, ACCEPT_QUEUE)
            gone((*near, *far))

    virtual(main)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        pytest.param(DURABLE, 400, id="400 durable streams"),
        pytest.param(DATAGRAMS, 400, id="400 durable pipes of datagrams"),
        pytest.param(PLAIN, 60, id="60 QUIC streams"),
    ],
)
def test_pipes_that_are_written_to_and_acknowledge_nothing_hold_little_together(
    options: dict[str, object], number: int
) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            far: list[Pipe] = []

            async def keep(pipe: Pipe) -> None:
                far.append(pipe)
                await asyncio.Event().wait()

            world.b.node.serve("x", keep)
            near = await opened(world, number, options | {"service": "x"})
            await asyncio.sleep(1)
            world.hosts["a"].crash()
            written = sum(await asyncio.gather(*map(fill, far)))
            assert len(far) == number
            kept = [queued(pipe) for pipe in far if isinstance(pipe, DurableDatagramPipe)]
            assert (sum(kept) if kept else written) <= bound(UNSENT_TOTAL, number)
            gone((*near, *far))

    virtual(main)
