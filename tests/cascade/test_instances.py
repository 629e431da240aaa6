"""Several processes with one key: each address leads to its own, whatever the others do, and twins are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cascade_world import ALL_WAYS, EPOCH, STUN, URLS, Options, R, Seat, World, identity, virtual
from strangers_kit import Stranger

from warpgate.config import Config
from warpgate.core.context import Sources
from warpgate.core.node import Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.search.equipment import TOPIC
from warpgate.core.search.twins import LOOK_AGAIN
from warpgate.errors import IdentityInUse
from warpgate.events import PeerTwinned, PipeOpened, TwinFound
from warpgate.model.wanted import Wanted
from warpgate.plugins.punching import Punch
from warpgate.plugins.registry import REGISTRY
from warpgate.proto.instances import PATIENCE
from warpgate_testing.internet import MemoryNetwork
from warpgate_testing.servers import MemoryBrokers

CONFIG = Config(brokers=tuple(URLS[:1]), stun=(STUN,))


def another_host(world: World) -> MemoryNetwork:
    """Behind a NAT of its own, like node b."""
    return world._site(f"c{len(world.routers)}", "eim", len(world.routers) + 1, v6=False)


@asynccontextmanager
async def twin_of_b(world: World, config: Config = CONFIG) -> AsyncIterator[Seat]:
    """Another machine with b's key: a disk was cloned."""
    seat = Seat(world, "b", another_host(world), config, REGISTRY)
    await seat.node.start()
    try:
        await asyncio.sleep(8.0)
        yield seat
    finally:
        await seat.node.close()


async def reached(world: World, *seats: Seat) -> Seat:
    """Which of them gets the pipe that a has just opened."""
    waiting = {asyncio.ensure_future(seat.node.accept()): seat for seat in seats}
    done, others = await asyncio.wait(waiting, timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    (first,) = done
    first.result().abort()
    return waiting[first]


@pytest.mark.parametrize("called", [0.1, 2 * PATIENCE])
@pytest.mark.parametrize("later", [0.05, 0.3, 0.6, 0.95, 1.1])
def test_a_twin_that_starts_a_moment_later_is_known_all_the_same(later: float, called: float) -> None:
    """The first one's question at its start came too early for it, and the next one is not due yet."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            b = world.b
            await b.node.close()
            first, second = (Seat(world, "b", another_host(world), CONFIG, REGISTRY) for _ in range(2))
            await first.node.start()
            await asyncio.sleep(later)
            await second.node.start()
            await asyncio.sleep(called)
            dest = second.node.address
            connecting = asyncio.ensure_future(world.a.node.connect(dest))
            assert await reached(world, first, second) is second
            (await connecting).abort()
            await asyncio.sleep(PATIENCE)
            for seat in (first, second):
                assert len(seat.said(TwinFound)) == 1
                await seat.node.close()

    virtual(main)


@pytest.mark.parametrize("options", ALL_WAYS)
def test_the_address_of_a_node_leads_to_it_though_another_has_its_key(options: Options) -> None:
    async def main() -> None:
        async with World() as world, twin_of_b(world) as twin:
            for _ in range(5):
                for meant in (world.b, twin):
                    pipe = await world.a.node.connect(meant.node.address, **options)
                    assert await reached(world, world.b, twin) is meant
                    pipe.abort()

    virtual(main)


def test_twins_find_each_other_and_say_so_once() -> None:
    async def main() -> None:
        async with World() as world, twin_of_b(world) as twin:
            (seen,), (seen_by_twin,) = world.b.said(TwinFound), twin.said(TwinFound)
            assert seen.instance == twin.node.address.instance.hex()
            assert seen_by_twin.instance == world.b.node.address.instance.hex()
            assert "198.51.100." in seen.where
            await asyncio.sleep(300)
            assert len(world.b.said(TwinFound)) == len(twin.said(TwinFound)) == 1

    virtual(main)


def test_a_twin_that_has_gone_is_warned_of_no_longer() -> None:
    async def main() -> None:
        async with World() as world:
            async with twin_of_b(world):
                assert "another node runs" in world.b.node.status().twin
            await asyncio.sleep(LOOK_AGAIN + 5.0)
            assert world.b.node.status().twin == ""

    virtual(main)


def test_a_caller_that_knows_only_the_key_is_told_that_there_are_two() -> None:
    async def main() -> None:
        async with World() as world, twin_of_b(world) as twin:
            address = replace(world.b.node.address, instance=b"")
            pipe = await world.a.node.connect(address)
            await reached(world, world.b, twin)
            await asyncio.sleep(1.0)
            pipe.abort()
            assert [event.peer for event in world.a.said(PeerTwinned)] == [world.b.node.node_id]

    virtual(main)


@asynccontextmanager
async def stored(world: World, config: Config, network: MemoryNetwork | None = None) -> AsyncIterator[Node]:
    """A node whose identity is on disk, as the command's are: b's key, on b's host. The seat's own is closed."""
    node = Node(
        replace(config, brokers=CONFIG.brokers, stun=CONFIG.stun),
        network=world.hosts["b"] if network is None else network,
        brokers=MemoryBrokers(*world.brokers),
        sources=Sources(wall_clock=lambda: EPOCH + asyncio.get_running_loop().time()),
    )
    async with node:
        await asyncio.sleep(8.0)
        yield node


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory that has b's key."""
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path))
    key = tmp_path / "identities" / "default.pem"
    key.parent.mkdir(mode=0o700)
    key.touch(0o600)
    key.write_bytes(identity("b").to_pem())
    return key


async def accepted(node: Node) -> Pipe:
    async with asyncio.timeout(10):
        return await node.accept()


@pytest.mark.parametrize("options", ALL_WAYS)
def test_after_a_restart_the_old_address_works_as_quickly_as_before(keys: Path, options: Options) -> None:
    async def main() -> None:
        async with World() as world:
            await world.b.node.close()
            async with stored(world, Config()) as before:
                old = before.address
                first = await world.a.node.connect(old, **options)
                (await accepted(before)).abort()
                first.abort()
            await asyncio.sleep(R)  # its last word is on the way: a durable connection is over
            async with stored(world, Config()) as after:
                assert after.address.instance != old.instance
                began = world.now
                pipe = await world.a.node.connect(old, **options)
                assert world.now - began <= first.seconds + 0.01
                (await accepted(after)).abort()
                pipe.abort()

    virtual(main)


def test_after_the_key_has_moved_an_old_address_leads_to_where_it_is_now(keys: Path) -> None:
    async def main() -> None:
        async with World("eim", "eim") as world:
            old = world.b.node.address
            await world.b.node.close()
            async with stored(world, Config(), another_host(world)) as moved:
                pipe = await world.a.node.connect(old)
                assert pipe.seconds < PATIENCE + 0.2
                (await accepted(moved)).abort()
                pipe.abort()

    virtual(main)


def test_a_second_process_that_accepts_is_refused_in_so_many_words(keys: Path) -> None:
    async def main() -> None:
        async with World() as world:
            await world.b.node.close()
            async with stored(world, Config()) as first:
                with pytest.raises(IdentityInUse, match=r"in use by process \d+.*--identity"):
                    async with stored(world, Config(accept=True)):
                        pass
                async with stored(world, Config()) as second:  # it may connect, and accepts nobody
                    assert second.port != first.port
                    with pytest.raises(IdentityInUse):
                        await second.accept()
                    pipe = await second.connect(world.a.node.address)
                    other = await world.a.node.accept()
                    assert other.peer == first.node_id
                    pipe.abort()
                serving = Node(CONFIG, network=world.hosts["b"], brokers=MemoryBrokers(*world.brokers))
                serving.serve("ssh", Pipe.close)
                with pytest.raises(IdentityInUse):  # or nobody would ever get there
                    await serving.start()
            async with stored(world, Config(accept=True)):  # it is free again
                pass

    virtual(main)


@pytest.mark.parametrize("options", ALL_WAYS)
def test_a_process_that_connects_takes_nothing_from_the_one_that_accepts(keys: Path, options: Options) -> None:
    async def main() -> None:
        async with World("eim", "public") as world:
            await world.b.node.close()
            async with (
                stored(world, Config(accept=False)) as connecting,
                stored(world, Config()) as accepting,
            ):
                assert accepting.port != connecting.port
                assert accepting.address.attachments[0].udp.local == accepting.port
                for _ in range(5):
                    pipe = await world.a.node.connect(accepting.address, **options)
                    (await accepted(accepting)).abort()
                    pipe.abort()
                assert not any(count for name, count in connecting.status().counts if name == PipeOpened.__name__)

    virtual(main)


@pytest.mark.parametrize("options", ALL_WAYS)
def test_one_that_runs_beside_lets_in_who_has_its_very_address_and_is_no_twin(keys: Path, options: Options) -> None:
    async def main() -> None:
        async with World("eim", "eim") as world:
            await world.b.node.close()
            async with (
                stored(world, Config()) as main_one,
                stored(world, Config(accept=True, beside=True)) as beside,
            ):
                for _ in range(3):
                    for meant in (beside, main_one):
                        pipe = await world.a.node.connect(meant.address, **options)
                        (await accepted(meant)).abort()
                        pipe.abort()
                pipe = await world.a.node.connect(replace(beside.address, instance=b""), **options)
                (await accepted(main_one)).abort()
                pipe.abort()
                for node in (main_one, beside):
                    assert TwinFound.__name__ not in dict(node.status().counts)

    virtual(main)


def test_recorded_answers_of_a_twin_that_has_gone_show_nothing() -> None:
    """A broker repeats all that it has seen on the topic: no twin is made of it, and old addresses stay good."""

    async def main() -> None:
        async with World() as world:
            topic = TOPIC + world.b.node.node_id
            recorded: list[bytes] = []
            broker = world.brokers[0]
            publish = broker.publish

            def recording(to: str, data: bytes) -> None:
                if to == topic:
                    recorded.append(data)
                publish(to, data)

            broker.publish = recording  # type: ignore[method-assign]
            async with twin_of_b(world) as twin:
                gone = twin.node.address
            await world.b.node.close()
            await world.b.node.start()
            await asyncio.sleep(8.0)
            told = len(world.b.said(TwinFound))
            assert recorded
            assert told == 1
            await asyncio.sleep(700)  # the gate has forgotten the ids
            for data in recorded:
                publish(topic, data)
            await asyncio.sleep(2)
            assert len(world.b.said(TwinFound)) == told
            pipe = await world.a.node.connect(gone)
            (await accepted(world.b.node)).abort()
            pipe.abort()

    virtual(main, limit=2000)


def test_an_address_without_an_instance_still_works() -> None:
    async def main() -> None:
        async with World() as world:
            pipe = await world.a.node.connect(replace(world.b.node.address, instance=b""))
            (await accepted(world.b.node)).abort()
            pipe.abort()
            assert not world.a.said(PeerTwinned)

    virtual(main)


def test_whoever_makes_up_instances_has_a_node_ask_once_a_second() -> None:
    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            await asyncio.sleep(60.0)
            asked, began = len(world.brokers[0].log), world.now
            for number in range(100):
                wanted = Wanted(instance=number.to_bytes(4, "big"))
                mallory.publish(mallory.offer(("udp_punch", Punch(1)), wanted=wanted))
                await asyncio.sleep(0.05)
            topic = TOPIC + world.b.node.node_id
            heard = [entry for entry in world.brokers[0].log[asked:] if entry[0] == topic]
            assert 0 < len(heard) - 100 <= (world.now - began) / PATIENCE + 1
            mallory.close()
            await world.quiet()

    virtual(main)
