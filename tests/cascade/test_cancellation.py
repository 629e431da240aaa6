"""Cancel everywhere: wherever a call can wait, cancelling it leaves nothing open.

`connect` is cancelled after each single turn of the event loop that a successful attempt takes, so no place is left
out; and at many instants of attempts that wait for something that never comes.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from cascade_world import OVER_TCP, OVER_UDP, STUN, URLS, Options, World, connected, ends, identity, virtual
from rogue_plugins import QUICK, Hangs, LeavesLate, registry_with

from warpgate.config import Config
from warpgate.core.node import Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.search import seeker
from warpgate.errors import ConnectFailed, NetworkError, PipeClosed
from warpgate.net.network import TcpStream
from warpgate_testing.internet import MemoryInternet, PathSpec
from warpgate_testing.servers import MemoryBroker, MemoryBrokers

OVER_ANYTHING: Options = {}


class Turns:
    """Counts the turns of the running loop, and calls `act` after so many."""

    def __init__(self, after: int, act: Callable[[], object]) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._run_once = self._loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            self._run_once()
            self.count += 1
            if self.count == after:
                act()

        self._loop._run_once = counted  # type: ignore[attr-defined]

    def stop(self) -> None:
        self._loop._run_once = self._run_once  # type: ignore[attr-defined]


async def attempt(world: World, turns: int, options: Options) -> tuple[Pipe | None, int]:
    """Connect and cancel after so many turns: the pipe if it was there already, and how many turns it took."""
    task = asyncio.ensure_future(world.a.node.connect(world.b.node.address, plugins=QUICK, **options))
    counter = Turns(turns, task.cancel)
    try:
        return await task, counter.count
    except asyncio.CancelledError:
        return None, counter.count
    finally:
        counter.stop()


async def clean_up(world: World, pipe: Pipe | None) -> None:
    """If b got a pipe of a connect that was cancelled, it notices; nothing else is left anywhere."""
    accepting = asyncio.ensure_future(world.b.node.accept())
    done, _ = await asyncio.wait([accepting], timeout=1.0)
    if done:
        other = accepting.result()
        if pipe is None:
            assert await ends(other, 75.0)
        await other.close()
    else:
        accepting.cancel()
        await asyncio.wait([accepting])
        assert pipe is None
    if pipe is not None:
        await pipe.close()
    await world.quiet()


SUCCESSES = [
    pytest.param("public", "public", OVER_UDP, id="direct udp"),
    pytest.param("public", "public", OVER_TCP, id="direct tcp"),
    pytest.param("public", "public", OVER_ANYTHING, id="direct, the first that comes"),
    pytest.param("public", "eim-apdf", OVER_TCP, id="reverse"),
    pytest.param("eim-apdf", "eim-apdf", OVER_UDP, id="udp punch"),
    pytest.param("eim-apdf", "eim-apdf", OVER_TCP, id="tcp punch"),
    pytest.param("eim-apdf+rst", "eim-apdf+rst", OVER_TCP, id="tcp punch, crossing"),
]


@pytest.mark.parametrize(("kind_a", "kind_b", "options"), SUCCESSES)
def test_connect_after_every_turn_of_the_loop(kind_a: str, kind_b: str, options: Options) -> None:
    finished = 0

    for turns in range(1, 1000):

        async def main(turns: int = turns) -> bool:
            async with World(kind_a, kind_b) as world:
                pipe, needed = await attempt(world, turns, options)
                await clean_up(world, pipe)
                return pipe is not None and needed < turns

        finished += virtual(main)
        if finished == 2:
            return  # later than the end
    raise AssertionError("the connect never finishes")


# -- waits that never end -------------------------------------------------------------------------------------------


def the_offer_is_lost(world: World) -> None:
    world.brokers[0].kill()


def stun_falls_silent(world: World) -> None:
    for host in (world.routers["a"], world.routers["b"]):
        world.internet.partition(host, world.stun_host)


def the_peer_is_gone(world: World) -> None:
    world.internet.partition(world.routers.get("a", world.hosts["a"]), world.routers.get("b", world.hosts["b"]))


def nothing(_: World) -> None:
    """The sites themselves are the obstacle."""


FAILURES = [
    pytest.param("edm", "edm", nothing, id="no volley can succeed"),
    pytest.param("edm", "edm", the_offer_is_lost, id="nobody answers"),
    pytest.param("edm", "edm", stun_falls_silent, id="no fresh port can be mapped"),
    pytest.param("public", "public", the_peer_is_gone, id="SYN and checks unanswered"),
    pytest.param("public", "eim-apdf", the_peer_is_gone, id="nobody dials back"),
]
# In the first second things happen in multiples of a one-way trip; later volleys come every 1.5 s.
INSTANTS = (
    0.0,
    0.01,
    0.02,
    0.04,
    0.05,
    0.06,
    0.08,
    0.1,
    0.3,
    0.7,
    1.5,
    1.65,
    1.68,
    1.7,
    1.75,
    2.5,
    3.3,
    3.35,
    5.0,
    8.0,
)


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
@pytest.mark.parametrize(("kind_a", "kind_b", "obstacle"), FAILURES)
def test_connect_while_it_waits_for_what_never_comes(
    kind_a: str, kind_b: str, obstacle: Callable[[World], None], options: Options
) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            obstacle(world)
            address = world.b.node.address
            for instant in INSTANTS:
                task = asyncio.ensure_future(world.a.node.connect(address, plugins=QUICK, **options))
                await asyncio.sleep(instant)
                task.cancel()
                began = world.now
                with pytest.raises((asyncio.CancelledError, ConnectFailed)):
                    await task
                assert world.now - began < 0.01  # promptly
                assert [entry for entry in world.strays() if entry.host == "a"] == []
                assert world.a.run.sessions.ids == ()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_a_timeout_is_a_failure_with_a_report_and_leaves_as_little(options: Options) -> None:
    async def main() -> None:
        async with World("edm", "edm") as world:
            for timeout in (0.0, 0.03, 0.5, 2.0):
                began = world.now
                with pytest.raises(ConnectFailed) as failed:
                    await world.a.node.connect(world.b.node.address, plugins=QUICK, timeout=timeout, **options)
                assert world.now - began == pytest.approx(timeout, abs=0.01)
                assert failed.value.report
                assert [entry for entry in world.strays() if entry.host == "a"] == []
            await world.quiet()

    virtual(main)


def test_plugins_that_take_their_time_to_leave() -> None:
    async def main() -> None:
        async with World(registry=registry_with(Hangs, LeavesLate)) as world:
            for instant in (0.0, 0.05, 0.2):
                task = asyncio.ensure_future(
                    world.a.node.connect(world.b.node.address, plugins=["leaves_late", "hangs"])
                )
                await asyncio.sleep(instant)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert world.a.run.sessions.ids == ()
            await world.quiet()

    virtual(main)


def test_nomination_that_the_kernel_does_not_take() -> None:
    """The last place where `connect` can wait: the send of NOMINATE on a full socket."""

    async def main() -> None:
        async with World("public", "public") as world:
            for cancel in (True, False):
                stuck = stuck_after(world, messages=1)
                began = world.now
                task = asyncio.ensure_future(
                    world.a.node.connect(world.b.node.address, plugins=["direct"], timeout=3.0, **OVER_TCP)
                )
                await asyncio.wait_for(stuck.wait(), 1.0)
                if cancel:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    with pytest.raises(ConnectFailed):
                        await task
                    assert world.now - began == pytest.approx(3.0, abs=0.01)
                assert world.a.run.sessions.ids == ()
                assert [entry for entry in world.strays() if entry.host == "a"] == []
                await world.quiet()

    virtual(main)


def stuck_after(world: World, messages: int) -> asyncio.Event:
    """The next connection that a dials takes so many sends, and then none; the event tells that one waits."""
    waiting = asyncio.Event()
    network = world.a.network
    dial = network.dial_tcp

    async def dial_once(*arguments: object) -> TcpStream:
        network.dial_tcp = dial  # type: ignore[method-assign]
        stream = await dial(*arguments)  # type: ignore[arg-type]
        send = stream.send
        sent = 0

        async def stuck(data: bytes | bytearray | memoryview) -> None:
            nonlocal sent
            if sent >= messages:
                waiting.set()
                await asyncio.get_running_loop().create_future()
            sent += 1
            await send(data)

        stream.send = stuck  # type: ignore[method-assign]
        return stream

    network.dial_tcp = dial_once  # type: ignore[assignment, method-assign]
    return waiting


# -- the other calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instant", [0.0, 0.01, 0.02, 0.05, 0.1, 0.12, 0.2, 0.24, 1.0])
@pytest.mark.parametrize("servers", ["there", "silent"])
def test_start(servers: str, instant: float) -> None:
    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.02))
        host = internet.host("a", "198.51.100.1")
        broker = MemoryBroker(URLS[0])
        broker.alive = servers == "there"
        config = Config(brokers=(URLS[0],), stun=(STUN,))
        node = Node(config, identity=identity("a"), network=host, brokers=MemoryBrokers(broker))
        task = asyncio.ensure_future(node.start())
        await asyncio.sleep(instant)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
            await node.close()
        await asyncio.sleep(0.1)
        assert internet.open_sockets() == ()
        assert broker.clients == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await node.start()  # and it can be started after all
        await node.close()
        assert internet.open_sockets() == ()

    virtual(main)


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_accept_and_recv_lose_nothing(options: Options) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            for _ in range(3):
                await give_up(world.b.node.accept())
            one, other, _ = await connected(world, **options)
            for number in range(3):
                await give_up(other.recv())
                with pytest.raises(TimeoutError):
                    await other.recv(timeout=0.5)
                await one.send(b"%d" % number)
                assert await other.recv(timeout=1.0) == b"%d" % number
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


async def give_up(waiting: Awaitable[object]) -> None:
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_send_on_a_full_pipe() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other, _ = await connected(world, **OVER_TCP)
            await give_up(one.send(bytes(10_000_000)))
            one.abort()
            assert await ends(other)
            await world.quiet()

    virtual(main)


# -- closing the node under it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["a", "b"])
@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_close_ends_what_waits_and_waits_for_what_ends(whose: str, options: Options) -> None:
    async def main() -> None:
        for instant in (0.0, 0.01, 0.03, 0.05, 0.07, 0.09, 0.3, 1.7, 4.0):
            async with World("edm", "eim-apdf") as world:
                seat = world.a if whose == "a" else world.b
                address = world.b.node.address
                task = asyncio.ensure_future(world.a.node.connect(address, plugins=QUICK, timeout=6.0, **options))
                accepting = asyncio.ensure_future(seat.node.accept())
                await asyncio.sleep(instant)
                began = world.now
                await seat.node.close()
                assert world.now - began < 1.0
                assert [entry for entry in world.internet.open_sockets() if entry.host == whose] == []
                with pytest.raises(PipeClosed, match="the node was closed"):
                    await accepting
                with pytest.raises(ConnectFailed, match="this node was closed" if whose == "a" else "no strategy"):
                    await task

    virtual(main, limit=3600.0)


@pytest.mark.parametrize("late", ["found", "failed"])
def test_a_search_for_a_path_that_takes_its_time_to_leave(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is over, then its node: what ends the node cancels what waits for the search a second time."""
    closed = []

    class Found:
        def close(self) -> None:
            closed.append(self)

    class LeavesLater(seeker.Initiator[Any]):
        async def run(self, timeout: float | None) -> Any:
            try:
                return await super().run(timeout)
            except asyncio.CancelledError:
                await asyncio.sleep(0.1)
            if late == "found":
                return Found()
            raise ConnectFailed("too late", ())

    monkeypatch.setattr(seeker, "Initiator", LeavesLater)

    async def main() -> None:
        async with World("edm", "edm") as world:
            the_offer_is_lost(world)
            task = asyncio.ensure_future(
                world.a.node.connect(world.b.node.address, plugins=["udp_punch"], durable=True)
            )
            await asyncio.sleep(0.5)
            for connection in world.a.run.connections.known:
                connection.close()
            await asyncio.sleep(0.01)
            await world.a.node.close()
            with pytest.raises(ConnectFailed):
                await task
            await asyncio.sleep(1.0)
            gc.collect()  # else a failure that nobody has looked at is not reported yet
            assert len(closed) == (late == "found")

    virtual(main)


def test_iterating_over_a_node_ends_with_it_even_while_its_user_is_busy() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            seen = []

            async def serve() -> None:
                async for pipe in world.b.node:
                    seen.append(pipe)
                    await asyncio.sleep(5.0)

            serving = asyncio.ensure_future(serve())
            pipe = await world.a.node.connect(world.b.node.address, **OVER_TCP)
            await asyncio.sleep(1.0)
            await world.b.node.close()
            await serving
            assert len(seen) == 1
            with pytest.raises((PipeClosed, NetworkError)):
                await pipe.recv_n(1)
            await pipe.close()

    virtual(main)
