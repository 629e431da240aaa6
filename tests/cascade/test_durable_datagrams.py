"""Durable pipes of datagrams in virtual time: they outlive their paths, lose what these lose, and end as others do."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import HOP, World, connected, exchange, virtual
from durable_kit import Fault, both, darkness, moved, renumbered
from test_relays import RelayWorld

from warpgate import DatagramPipe
from warpgate.config import Config
from warpgate.core.connection.channel import EACH, UNSENT
from warpgate.core.connections import LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.durable import DurableDatagramPipe
from warpgate.errors import ConfigError, ConnectFailed, PipeClosed
from warpgate.model.endpoint import Mode, Transport
from warpgate.proto.channel_wire import LARGEST_DATAGRAM
from warpgate_testing.internet import PathSpec

EACH_SECONDS = 0.02
SETTLED, WATCHED = 2.0, 6.0
LARGEST = bytes(LARGEST_DATAGRAM)
DATAGRAMS = {"mode": Mode.DATAGRAM, "durable": True}


async def durable(world: World, **options: object) -> tuple[DurableDatagramPipe, DurableDatagramPipe]:
    near, far, _ = await connected(world, **DATAGRAMS, **options)
    assert isinstance(near, DurableDatagramPipe)
    assert isinstance(far, DurableDatagramPipe)
    return near, far


class Numbers:
    """One datagram each 20 ms from `near`, which `far` echoes; what came back, and when."""

    def __init__(self, world: World, near: Pipe, far: Pipe) -> None:
        self.world, self.near, self.far = world, near, far
        self.sent = 0
        self.came: list[tuple[float, int]] = []
        self._tasks = [asyncio.ensure_future(work()) for work in (self._send, self._echo, self._receive)]

    async def _send(self) -> None:
        while True:
            await self.near.send(self.sent.to_bytes(4, "big") + bytes(160))
            self.sent += 1
            await asyncio.sleep(EACH_SECONDS)

    async def _echo(self) -> None:
        async for data in self.far:
            await self.far.send(data)

    async def _receive(self) -> None:
        async for data in self.near:
            self.came.append((self.world.now, int.from_bytes(data[:4], "big")))

    def worst(self, since: float) -> float:
        """The longest gap between two that came, seconds."""
        times = [at for at, _ in self.came if at >= since] + [self.world.now]
        return max(later - before for before, later in zip([since, *times], times, strict=False))

    async def stop(self) -> None:
        """None came twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        numbers = [number for _, number in self.came]
        assert len(numbers) == len(set(numbers))


async def closed(world: World, *pipes: Pipe) -> None:
    for pipe in pipes:
        await pipe.close()
    await asyncio.sleep(LINGERING + 1)
    assert (len(world.a.run.connections), len(world.b.run.connections)) == (0, 0)
    await world.quiet()


def test_they_share_a_connection_with_streams_and_each_is_its_own() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            assert isinstance(near, DatagramPipe)
            assert (near.durable, near.secure, near.mode, far.mode) == (
                True,
                True,
                Mode.DATAGRAM,
                Mode.DATAGRAM,
            )
            other, its = await durable(world)
            stream, sink, _ = await connected(world, durable=True)
            assert near.connection is other.connection
            assert stream.session == near.session
            for one, two in ((near, far), (other, its), (stream, sink)):
                await exchange(one, two)
            for size in (0, 1, LARGEST_DATAGRAM):
                await near.send(bytes(size))
                assert len(await far.recv(timeout=1)) == size
            assert near.largest == far.largest == LARGEST_DATAGRAM
            with pytest.raises(ConfigError, match="1151 bytes do not fit"):
                await near.send(LARGEST + b"x")
            with pytest.raises(ConfigError, match="no socket"):
                near.detach()
            with pytest.raises(ConfigError, match="stream"):
                await near.recv_n(3)
            await far.send(b"four")
            with pytest.raises(ConfigError, match="would cut"):
                await near.recv(3, timeout=1)
            assert await near.recv(timeout=1) == b"four"
            await closed(world, near, far, other, its, stream, sink)

    virtual(main)


def test_the_one_who_was_called_opens_them_too() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            accepted = asyncio.ensure_future(world.a.node.accept())
            back = await world.b.node.connect(world.a.node.address, mode="datagram", durable=True)
            its = await accepted
            await exchange(back, its)
            await closed(world, near, far, back, its)

    virtual(main)


def test_services_are_told_apart() -> None:
    async def main() -> None:
        async with World() as world:
            served: list[tuple[str, Mode]] = []

            async def serve(pipe: Pipe) -> None:
                served.append((pipe.service, pipe.mode))
                async for data in pipe:
                    await pipe.send(data)

            world.b.node.serve("voice", serve)
            address = world.b.node.address
            pipe = await world.a.node.connect(address, service="voice", mode=Mode.DATAGRAM, durable=True)
            await pipe.send(b"hello")
            assert await pipe.recv(timeout=1) == b"hello"
            assert served == [("voice", Mode.DATAGRAM)]
            with pytest.raises(ConnectFailed, match=r"there is no service 'mail' .there are: voice."):
                await world.a.node.connect(address, service="mail", mode=Mode.DATAGRAM, durable=True)
            nameless = await world.a.node.connect(address, mode=Mode.DATAGRAM, durable=True)
            with pytest.raises(PipeClosed, match="say which service"):
                await nameless.recv(timeout=5)
            await closed(world, pipe)

    virtual(main)


@pytest.mark.parametrize("how", ["close", "abort", "node"])
@pytest.mark.parametrize("by_who_opened", [True, False])
def test_how_they_end(how: str, by_who_opened: bool) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            one, other = (near, far) if by_who_opened else (far, near)
            await one.send(b"last")
            if how == "close":
                await one.close()
            elif how == "abort":
                await asyncio.sleep(0)
                one.abort()
            else:
                await (world.a if one is near else world.b).node.close()
            await asyncio.sleep(1)
            assert await other.recv(timeout=1) == b"last"  # what came before is still to be had
            with pytest.raises(PipeClosed):
                await other.recv(timeout=1)
            with pytest.raises(PipeClosed):
                await other.send(b"nobody")
            with pytest.raises(PipeClosed, match="on this side"):
                await one.recv(timeout=1)
            if how != "node":
                assert other.closed
                await closed(world)

    virtual(main)


def test_what_was_sent_before_the_close_leaves_before_it() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            for _ in range(50):
                await near.send(LARGEST)
            await near.close()
            await asyncio.sleep(2)
            assert [data async for data in far] == 50 * [LARGEST]
            await closed(world)

    virtual(main)


@pytest.mark.parametrize(
    ("kinds", "fault", "worst"),
    [
        pytest.param(("eim-apdf", "eim-apdf"), both(moved("a", 77), moved("b", 78)), 0.35, id="both move"),
        pytest.param(("eim-apdf+noudp", "eim-apdf"), moved("a", 77), 0.35, id="from TCP to UDP"),
        pytest.param(("eim-apdf", "eim-apdf"), renumbered("a"), 0.65, id="another public address, unseen"),
        pytest.param(("eim-apdf", "eim-apdf"), darkness(3.0), 3.2, id="3 s of darkness"),
    ],
)
def test_they_go_on(kinds: tuple[str, str], fault: Fault, worst: float) -> None:
    async def main() -> None:
        async with World(*kinds) as world:
            near, far = await durable(world)
            numbers = Numbers(world, near, far)
            await asyncio.sleep(SETTLED)
            assert len(numbers.came) > 0.9 * numbers.sent
            began = world.now
            fault(world)
            await asyncio.sleep(WATCHED)
            assert numbers.worst(began) <= worst
            assert numbers.came[-1][1] >= numbers.sent - 10
            await numbers.stop()
            assert near.connection.moves > 0 or "darkness" in fault.__qualname__
            await closed(world, near, far)

    virtual(main)


def test_a_relayed_one_becomes_direct() -> None:
    async def main() -> None:
        async with RelayWorld("edm", "eim-apdf") as world:
            near, far = await durable(world)
            assert near.relayed
            numbers, began = Numbers(world, near, far), world.now
            await asyncio.sleep(WATCHED)
            assert (near.relayed, far.relayed) == (False, False)
            assert numbers.worst(began + 0.5) <= 0.1
            assert len(numbers.came) > numbers.sent - 10
            await numbers.stop()
            await closed(world, near, far)

    virtual(main)


def test_what_is_sent_in_an_outage_waits_for_nobody_and_the_newest_arrive() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            darkness(20.0)(world)
            began = world.now
            for number in range(400):
                await near.send(number.to_bytes(2, "big") + bytes(998))
                await asyncio.sleep(EACH_SECONDS)
            assert world.now - began < 15
            await asyncio.sleep(30)
            came = [int.from_bytes((await far.recv(timeout=1))[:2], "big") for _ in range(UNSENT // (1000 + EACH))]
            assert came[-1] == 399
            await closed(world, near, far)

    virtual(main)


def test_a_sender_goes_as_fast_as_the_path() -> None:
    """`send` waits for it: a sender in a loop neither fills the memory nor loses all that it sends."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            got = 0

            async def read() -> None:
                nonlocal got
                async for _ in far:
                    got += 1

            reading = asyncio.ensure_future(read())
            for _ in range(3000):
                await near.send(LARGEST)
            await asyncio.sleep(2)
            # In memory a whole window arrives in one moment, and at the end it is more than the reader's queue takes.
            assert got + far.dropped == 3000
            assert far.dropped < 300
            await closed(world, near, far)
            await reading

    virtual(main)


def test_over_a_lossy_path_they_lose_as_much() -> None:
    loss = 0.2

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            one, other = world.routers["a"], world.routers["b"]
            world.internet.set_path(one, other, PathSpec(delay=HOP, loss=loss))
            numbers = Numbers(world, near, far)
            await asyncio.sleep(20)
            assert (0.9 - loss) ** 2 < len(numbers.came) / numbers.sent < (1.1 - loss) ** 2
            await numbers.stop()
            world.internet.set_path(one, other, PathSpec(delay=HOP))
            await closed(world, near, far)

    virtual(main)


def test_a_slow_reader_loses_the_newest_and_is_told_how_many() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf", config_b=Config(receive_queue=20)) as world:
            near, far = await durable(world)
            for number in range(50):
                await near.send(bytes((number,)))
            await asyncio.sleep(1)
            assert [await far.recv(timeout=1) for _ in range(20)] == [bytes((number,)) for number in range(20)]
            assert far.dropped == 30
            await exchange(near, far)
            await closed(world, near, far)

    virtual(main)


def test_over_tcp_alone() -> None:
    async def main() -> None:
        async with World("eim-apdf+noudp", "eim-apdf") as world:
            near, far = await durable(world)
            assert near.transport is Transport.TCP
            await exchange(near, far)
            await near.send(LARGEST)
            assert await far.recv(timeout=1) == LARGEST
            await closed(world, near, far)

    virtual(main)


def test_a_restarted_peer_ends_them() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, _ = await durable(world)
            world.hosts["b"].crash()
            await asyncio.sleep(1)
            await world.b.node.close()
            world.hosts["b"].boot()
            await world.b.node.start()
            await asyncio.sleep(5)
            with pytest.raises(PipeClosed, match="restarted"):
                await near.send(b"anybody?")

    virtual(main)


def test_what_is_no_choice() -> None:
    async def main() -> None:
        async with World(config_a=Config(durable=True)) as world:
            plain, far, _ = await connected(world, mode=Mode.DATAGRAM)  # as UDP has them, unless asked for
            assert not plain.durable
            await plain.close()
            await far.close()
            near, far = await durable(world)
            with pytest.raises(ConfigError, match="bytes"):
                await near.send("text")  # type: ignore[arg-type]
            await closed(world, near, far)

    virtual(main)


def test_a_peer_without_them_is_named() -> None:
    async def main() -> None:
        async with World() as world:
            stream, far, _ = await connected(world, durable=True)
            for connection in world.a.run.connections.known:
                connection.engine._quic._remote_max_datagram_frame_size = None  # an older version
            with pytest.raises(ConnectFailed, match="takes no datagrams on durable connections"):
                await world.a.node.connect(world.b.node.address, **DATAGRAMS)
            await exchange(stream, far)
            await closed(world, stream, far)

    virtual(main)
