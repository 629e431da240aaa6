"""Both ends agree on the one pipe, whatever happens in between, and nothing stays open.

Each schedule is drawn from a seed: sites, loss, slow and dying brokers, plugins that misbehave, connects that are
cancelled, nodes that are closed, users that leave. Then everything is compared.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass

import pytest
from cascade_world import FINGERPRINTED, OVER_TCP, OVER_UDP, Options, Seat, World, ends, virtual
from rogue_plugins import QUICK, ROGUES, registry_with

from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConfigError, ConnectFailed, PipeClosed
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Mode

SCHEDULES = 500
USUALLY = 250  # the others take as long again, and run when asked for
IN_A_WORLD = 5  # schedules that one pair of nodes goes through, one after the other: nodes live long
WORLDS_IN_A_TEST = 10
OVER_ANYTHING: Options = {"mode": Mode.STREAM}  # TCP, or QUIC where that is faster
KINDS = ("public", "firewalled", "eim-eif", "eim-adf", "eim-apdf", "eim-apdf+rst", "masquerade", "edm")
# A dead peer is noticed after 30 s (consent, keepalive) or 35 s (data in flight), on either side of a session.
NOTICED = 75.0


@dataclass
class Setting:
    """Where it happens."""

    seed: int

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        self.kinds = rng.choice(KINDS), rng.choice(KINDS)
        self.loss = rng.choice([0.0, 0.0, 0.1, 0.3])
        self.lag = rng.choice([0.0, 0.0, 0.05, 0.4])
        self.rogues = tuple(rng.sample(ROGUES, rng.choice([0, 0, 1, 2, 4])))


@dataclass
class Schedule:
    """What happens in one run; times in seconds from the start of the (first) connect."""

    seed: int

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(-1 - self.seed)
        self.options = rng.choice([OVER_UDP, OVER_UDP, OVER_TCP, OVER_TCP, OVER_ANYTHING])
        self.cancel_at = self.maybe(0.4)
        self.close_a_at = self.maybe(0.15)
        self.close_b_at = self.maybe(0.15)
        self.kill_broker_at = self.maybe(0.2)
        self.leave_a_at = self.maybe(0.2)
        self.leave_b_at = self.maybe(0.2)
        self.connects = rng.choice([1, 1, 1, 2])
        self.both_ways = rng.random() < 0.15

    def maybe(self, chance: float) -> float | None:
        """Mostly at an instant at which the interesting things happen: multiples of a one-way trip."""
        if self.rng.random() >= chance:
            return None
        return self.rng.choice([self.rng.randrange(0, 12) * 0.02, self.rng.uniform(0, 0.5), self.rng.uniform(0, 3.0)])


class Run:
    """One schedule in one world."""

    def __init__(self, schedule: Schedule, world: World, plugins: list[str]) -> None:
        self.schedule = schedule
        self.plugins = plugins
        self.world = world
        self.initiated: dict[str, list[Pipe]] = {"a": [], "b": []}
        self.accepted: dict[str, list[Pipe]] = {"a": [], "b": []}
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self, seat: Seat, address: NodeAddress) -> None:
        with suppress(ConnectFailed, ConfigError):
            pipe = await seat.node.connect(address, timeout=8.0, plugins=self.plugins, **self.schedule.options)
            self.initiated[seat.name].append(pipe)

    async def accept(self, seat: Seat) -> None:
        async for pipe in seat.node:
            self.accepted[seat.name].append(pipe)

    async def at(self, when: float | None, act: str) -> None:
        if when is None:
            return
        await asyncio.sleep(when)
        world = self.world
        match act:
            case "cancel":
                self.connecting[0].cancel()
            case "close a":
                await self.close(world.a)
            case "close b":
                await self.close(world.b)
            case "kill":
                world.brokers[0].kill()
            case "leave a":
                for pipe in self.initiated["a"]:
                    await pipe.close()
            case "leave b":
                for pipe in self.accepted["b"]:
                    pipe.abort()

    async def close(self, seat: Seat) -> None:
        """When `close` returns, nothing of this node goes on, not even a connect that its user still waits for."""
        await seat.node.close()
        assert [entry for entry in self.world.internet.open_sockets() if entry.host == seat.name] == []
        mine = [task for task in self.connecting if task.get_name() == seat.name]
        if mine:
            _, waiting = await asyncio.wait(mine, timeout=0.001)
            assert not waiting, "a connect outlives its node"
        assert [entry for entry in self.world.internet.open_sockets() if entry.host == seat.name] == []

    async def everything(self) -> None:
        schedule, world = self.schedule, self.world
        a, b = world.a, world.b
        to_a, to_b = a.node.address, b.node.address
        accepting = [asyncio.ensure_future(self.accept(seat)) for seat in (a, b)]
        self.connecting = [asyncio.create_task(self.connect(a, to_b), name="a") for _ in range(schedule.connects)]
        if schedule.both_ways:
            self.connecting.append(asyncio.create_task(self.connect(b, to_a), name="b"))
        acts = [
            (schedule.cancel_at, "cancel"),
            (schedule.close_a_at, "close a"),
            (schedule.close_b_at, "close b"),
            (schedule.kill_broker_at, "kill"),
            (schedule.leave_a_at, "leave a"),
            (schedule.leave_b_at, "leave b"),
        ]
        doing = [asyncio.ensure_future(self.at(when, act)) for when, act in acts]
        await asyncio.gather(*doing)
        await asyncio.wait(self.connecting)
        await asyncio.sleep(7.0)  # nominations are repeated for 5.6 s; until then nobody can know of a silent peer
        await self.compare("a", "b")
        await self.compare("b", "a")
        for pipe in (*self.initiated["a"], *self.initiated["b"], *self.accepted["a"], *self.accepted["b"]):
            await pipe.close()
        await world.quiet()
        for task in accepting:
            task.cancel()
        await asyncio.wait(accepting)
        for task in [*accepting, *self.connecting]:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or AssertionError

    async def other_end(self, pipe: Pipe, theirs: list[Pipe]) -> Pipe | None:
        """At the responder; on a lossy path the nomination may still be on its way. None when the pipe ends first."""
        ending = asyncio.ensure_future(ends(pipe, NOTICED))
        while not ending.done():
            found = next((other for other in theirs if other.session == pipe.session), None)
            if found is not None:
                ending.cancel()
                await asyncio.wait([ending])
                return found
            await asyncio.wait([ending], timeout=0.5)
        assert ending.result(), f"{pipe} has no other end and does not notice"
        return None

    async def compare(self, initiator: str, responder: str) -> None:
        mine, theirs = self.initiated[initiator], self.accepted[responder]
        others = {pipe.session: await self.other_end(pipe, theirs) for pipe in mine}
        sessions = [pipe.session for pipe in theirs]
        assert len(set(sessions)) == len(sessions), "two pipes of one session at the responder"
        assert len({pipe.session for pipe in mine}) == len(mine)
        matched = {pipe.session: pipe for pipe in theirs}
        for pipe in mine:
            other = others[pipe.session]
            matched.pop(pipe.session, None)
            if other is None:
                continue
            if not pipe.closed and not other.closed:
                await self.talk(pipe, other)
            else:
                assert await ends(pipe, NOTICED)
                assert await ends(other, NOTICED)
        for orphan in matched.values():  # nominated, and then the initiator's user gave up
            assert await ends(orphan, NOTICED), f"{orphan} has no other end and does not notice"

    async def talk(self, one: Pipe, other: Pipe) -> None:
        """Data passes both ways, or both ends learn that it is over."""
        for sender, receiver in ((one, other), (other, one)):
            try:
                await self.pass_on(sender, receiver)
            except PipeClosed:
                assert await ends(one, NOTICED)
                assert await ends(other, NOTICED)
                return

    async def pass_on(self, sender: Pipe, receiver: Pipe) -> None:
        if sender.mode is Mode.STREAM:
            await sender.send(b"hello")
            assert await receiver.recv(timeout=60) == b"hello"
            return
        for _ in range(60):  # datagrams may be lost
            await sender.send(b"hello")
            with suppress(TimeoutError):
                received = await receiver.recv(timeout=0.2)
                assert received == b"hello", f"{receiver} got {received!r}"
                return
        raise AssertionError(f"{sender} is open, but nothing arrives")


async def repair(world: World) -> None:
    """For the next schedule: nodes that were closed start again, the broker that died is back."""
    world.brokers[0].revive()
    for seat in (world.a, world.b):
        if seat.node._running is None:
            await seat.node.start()
            await asyncio.sleep(FINGERPRINTED)


def run_world(seed: int) -> list[Run]:
    """`IN_A_WORLD` schedules, from this number on."""
    setting = Setting(seed)
    runs: list[Run] = []
    plugins = [*QUICK, *(rogue.name for rogue in setting.rogues)]

    async def main() -> None:
        world = World(
            *setting.kinds,
            seed=seed,
            loss=setting.loss,
            brokers=2,
            lag=lambda: setting.rng.uniform(0.0, setting.lag),
            registry=registry_with(*setting.rogues),
        )
        async with world:
            for number in range(seed, seed + IN_A_WORLD):
                run = Run(Schedule(number), world, plugins)
                runs.append(run)
                try:
                    await run.everything()
                except BaseException as error:
                    error.add_note(f"schedule {number} of world {seed}")
                    raise
                await repair(world)

    virtual(main, limit=5000.0)
    return runs


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.long if first >= USUALLY else ())
        for first in range(0, SCHEDULES, IN_A_WORLD * WORLDS_IN_A_TEST)
    ],
)
def test_both_ends_agree(first: int) -> None:
    worlds = range(first, first + IN_A_WORLD * WORLDS_IN_A_TEST, IN_A_WORLD)
    runs = [run for seed in worlds for run in run_world(seed)]
    assert len(runs) == SCHEDULES / 10
    initiated = sum(len(pipes) for run in runs for pipes in run.initiated.values())
    accepted = sum(len(pipes) for run in runs for pipes in run.accepted.values())
    assert initiated > len(runs) / 2, "most schedules come to nothing: they do not test much"
    assert accepted > len(runs) / 2
