"""Durable pipes through whatever may befall networks, at random, in virtual time: counters say what was lost.

`WARPGATE_STORIES=10000` tells so many stories instead of a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from dataclasses import dataclass, field
from typing import Any

from cascade_world import HOP, Seat, World, virtual
from durable_kit import darkness, forgotten, moved, renumbered
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_relays import RelayWorld

from warpgate.core.connections import LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConnectFailed, PipeClosed
from warpgate.lab.counters import Counters
from warpgate_testing.internet import PathSpec

STORIES = int(os.environ.get("WARPGATE_STORIES", "3"))
EACH = 0.1
# The longest pause between two searches is 30 s, and the first one after it may be unlucky.
RECOVERED = 75.0
FLOWING = 5  # so many counters more
MOST_PIPES = 4
NUMBERS = range(60, 250)  # of the networks to come

sides = st.sampled_from("ab")
kinds = st.sampled_from(("eim-apdf", "eim-adf", "edm", "masquerade"))
DIRECT = "eim-apdf"  # where there is no relay: two of the others would never meet
pauses = st.sampled_from((0.0, 0.01, 0.05, 0.2, 0.5, 1.5, 4.0))


@dataclass
class Story:
    """A world, and the streams of counters that run in it."""

    world: World
    relay: bool
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(NUMBERS.start))
    streams: list[Counters] = field(default_factory=list)
    pipes: list[Pipe] = field(default_factory=list)
    opening: list[asyncio.Task[None]] = field(default_factory=list)
    echoing: list[asyncio.Task[None]] = field(default_factory=list)

    def open(self, side: str) -> None:
        if len(self.opening) < MOST_PIPES:
            seat, other = self.seat(side), self.seat("b" if side == "a" else "a")
            self.opening.append(asyncio.create_task(self._open(seat, other)))

    async def _open(self, seat: Seat, other: Seat) -> None:
        try:
            pipe = await seat.node.connect(other.node.address, durable=True)
        except ConnectFailed:
            return  # only what has begun outlives its paths
        self.pipes.append(pipe)
        self.streams.append(Counters(pipe, EACH))

    async def recovered(self) -> None:
        """Pipes that were asked for are there, and all streams flow."""
        async with asyncio.timeout(RECOVERED):
            await asyncio.gather(*self.opening)
            before = [stream.received for stream in self.streams]
            while any(not s.fault and s.received < n + FLOWING for s, n in zip(self.streams, before, strict=True)):
                assert self.faults() == []
                await asyncio.sleep(1.0)

    def faults(self) -> list[str]:
        """A connection that the peer has never come to know may end: it has lost nothing that was ever answered."""
        return [stream.fault for stream in self.streams if stream.fault and stream.received]

    async def answer(self, seat: Seat) -> None:
        async for pipe in seat.node:
            self.pipes.append(pipe)
            self.echoing.append(asyncio.create_task(self._echo(pipe)))

    async def _echo(self, pipe: Pipe) -> None:
        with contextlib.suppress(PipeClosed):
            while data := await pipe.recv():
                await pipe.send(data)

    def seat(self, side: str) -> Seat:
        return self.world.a if side == "a" else self.world.b


Event = tuple[Any, ...]

events = st.one_of(
    st.tuples(st.just("moves"), sides, kinds),
    st.tuples(st.just("is renumbered"), sides),
    st.tuples(st.just("loses a path"), sides),
    st.tuples(st.just("opens a pipe"), sides),
    st.tuples(st.just("darkness"), st.sampled_from((0.1, 0.7, 3.0, 20.0))),
    st.tuples(st.just("loss"), st.sampled_from((0.0, 0.02, 0.1, 0.3)), st.sampled_from((0.0, HOP))),
    st.just(("routers forget",)),
)


def happen(story: Story, event: Event) -> None:
    world = story.world
    match event:
        case ("moves", side, kind):
            moved(side, next(story.numbers), kind if story.relay else DIRECT)(world)
        case ("is renumbered", side):
            renumbered(side, next(story.numbers))(world)
        case ("loses a path", side):
            lose_a_path(story.seat(side))
        case ("opens a pipe", side):
            story.open(side)
        case ("darkness", seconds):
            darkness(seconds)(world)
        case ("loss", loss, jitter):
            one, other = world.routers["a"], world.routers["b"]
            world.internet.set_path(one, other, PathSpec(delay=HOP, jitter=jitter, loss=loss))
        case ("routers forget",):
            forgotten(world)


def lose_a_path(seat: Seat) -> None:
    """One end is told; the other one is not."""
    for connection in seat.run.connections.known:
        for path in connection._paths[:1]:
            path.abandon()
            connection._lost(path, "it was this test's turn")


@settings(max_examples=STORIES, deadline=None, derandomize=STORIES < 100, suppress_health_check=list(HealthCheck))
@given(
    st.tuples(kinds, kinds),
    st.booleans(),
    st.integers(0, 1 << 16),
    st.lists(st.tuples(pauses, events), min_size=4, max_size=14),
)
# The end of the handshake is lost, and so is all that the client says then: qh3's congestion window was full for ever.
@example(
    ("eim-adf", "eim-apdf"),
    False,
    39130,
    [
        (0.0, ("darkness", 20.0)),
        (0.0, ("routers forget",)),
        (0.2, ("is renumbered", "a")),
        (0.05, ("is renumbered", "a")),
        (4.0, ("moves", "a", "masquerade")),
    ],
)
def test_whatever_happens_nothing_is_lost_doubled_or_reordered(
    behind: tuple[str, str], relay: bool, seed: int, happens: list[tuple[float, Event]]
) -> None:
    async def main() -> None:
        at = behind if relay else (DIRECT, DIRECT)
        async with RelayWorld(*at, a=relay, b=relay, seed=seed, settle=3.0) as world:
            story = Story(world, relay)
            answering = [asyncio.create_task(story.answer(seat)) for seat in (world.a, world.b)]
            story.open("a")
            await story.opening[0]
            assert story.streams
            for pause, event in happens:
                await asyncio.sleep(pause)
                happen(story, event)
            happen(story, ("loss", 0.0, 0.0))
            await story.recovered()
            for stream in story.streams:
                await stream.stop(patience=RECOVERED)
            assert story.faults() == []
            used = {pipe.session for pipe in story.pipes if not pipe.closed}
            for seat in (world.a, world.b):
                assert used <= {connection.id for connection in seat.run.connections.known}
            for pipe in story.pipes:
                await pipe.close()
            await asyncio.gather(*story.echoing)
            for task in answering:
                task.cancel()
            await asyncio.wait(answering)
            await asyncio.sleep(LINGERING + 1)
            assert (len(world.a.run.connections), len(world.b.run.connections)) == (0, 0)
            await world.quiet()

    virtual(main, limit=3000)
