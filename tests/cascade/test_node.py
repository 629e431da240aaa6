"""The node as its user meets it: starting with and without a network, accepting, handlers, status."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import OVER_TCP, OVER_UDP, STUN, URLS, World, connected, ends, exchange, identity, virtual

from warpgate.config import Config
from warpgate.core.node import Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.serving import ACCEPT_QUEUE
from warpgate.errors import ConfigError, NetworkError, PipeClosed
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import listen_port_of
from warpgate_testing.internet import MemoryInternet, PathSpec
from warpgate_testing.servers import MemoryBroker, MemoryBrokers, MemoryStun

OFFLINE = Config(brokers=(), stun=())


def alone(config: Config, name: str = "a", ip: str = "192.168.1.2", internet: MemoryInternet | None = None) -> Node:
    """A node on a host of its own."""
    world = MemoryInternet(path=PathSpec(delay=0.02)) if internet is None else internet
    brokers = MemoryBrokers(*(MemoryBroker(url) for url in config.brokers or ()))
    return Node(config, identity=identity(name), network=world.host(name, ip), brokers=brokers)


# -- starting -------------------------------------------------------------------------------------------------------


def test_without_servers_it_starts_at_once_and_neighbours_connect() -> None:
    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.001))
        a, b = alone(OFFLINE, "a", "192.168.1.2", internet), alone(OFFLINE, "b", "192.168.1.3", internet)
        async with a, b:
            assert asyncio.get_running_loop().time() == 0.0
            for options in (OVER_UDP, OVER_TCP):
                one = await a.connect(b.address, **options)
                other = await b.accept()
                assert one.plugin == "direct"
                await exchange(one, other)
                await one.close()
                await other.close()
        assert internet.open_sockets() == ()

    virtual(main)


def test_with_no_interface_but_loopback_it_listens_there() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        network = internet.host("a")
        async with Node(OFFLINE, identity=identity("a"), network=network) as node:
            assert [str(at.host) for at in node.address.attachments] == ["127.0.0.1"]
        with pytest.raises(ConfigError, match="no usable network interface among eth7"):
            await Node(Config(interfaces=("eth7",)), identity=identity("a"), network=network).start()
        assert internet.open_sockets() == ()

    virtual(main)


def test_servers_that_are_silent_are_waited_for_no_longer_than_the_patience() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        config = Config(brokers=URLS, stun=(STUN,))
        node = alone(config)
        for broker in node._broker_connector._brokers.values():  # type: ignore[union-attr]
            broker.one_way = 100.0
        await node.start()
        assert loop.time() == pytest.approx(config.timing.start_patience)
        assert {broker.rtt for broker in node.address.brokers} <= {None}  # nothing is known of them
        began = loop.time()
        await node.close()
        assert loop.time() - began < 1.0

    virtual(main)


def test_servers_that_answer_are_waited_for_no_longer_than_they_take() -> None:
    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.02))
        stun = MemoryStun(internet.host("stun", "203.0.113.1", "203.0.113.2"), Endpoint.parse(STUN))
        async with alone(Config(brokers=URLS[:1], stun=(STUN,)), "a", "198.51.100.1", internet) as node:
            # A broker takes three round trips, STUN over TCP two.
            assert asyncio.get_running_loop().time() <= 0.25
            [at] = node.address.attachments
            assert (at.reflexive, at.udp.mapped, at.tcp.mapped) == (at.host, node.port, node.port)
            assert [broker.url for broker in node.address.brokers] == [URLS[0]]
        await stun.close()
        assert internet.open_sockets() == ()

    virtual(main)


def test_the_port_is_the_identitys_own_or_the_next_or_the_one_that_was_asked_for() -> None:
    async def main() -> None:
        own = listen_port_of(identity("a").public_key)
        internet = MemoryInternet()
        node = alone(OFFLINE, internet=internet)
        host = node._network
        assert host is not None
        async with node:
            assert node.port == own
            second = Node(OFFLINE, identity=identity("a"), network=host)
            async with second:
                assert second.port == own + 1
            with pytest.raises(NetworkError, match=str(own)):
                await Node(Config(brokers=(), stun=(), port=own), identity=identity("a"), network=host).start()
        async with Node(Config(brokers=(), stun=(), port=4321), identity=identity("a"), network=host) as third:
            assert third.port == 4321
        async with Node(Config(brokers=(), stun=(), port=0), identity=identity("a"), network=host) as fourth:
            assert fourth.port not in (0, own)
        assert internet.open_sockets() == ()

    virtual(main)


def test_a_node_runs_once_at_a_time() -> None:
    async def main() -> None:
        node = alone(OFFLINE)
        for wrong in (lambda: node.node_id, lambda: node.address, lambda: node.port, node.status):
            with pytest.raises(ConfigError, match="does not run"):
                wrong()
        with pytest.raises(ConfigError, match="does not run"):
            await node.accept()
        await node.close()
        await node.start()
        with pytest.raises(ConfigError, match="runs already"):
            await node.start()
        assert node.node_id == identity("a").node_id
        assert node.public_key == identity("a").public_key
        assert node.addr_bytes == node.address.encode()
        await node.close()
        await node.close()
        await node.start()
        await node.close()

    virtual(main)


# -- accepting ------------------------------------------------------------------------------------------------------


def test_whoever_accepts_first_gets_the_first() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            waiting = [asyncio.ensure_future(world.b.node.accept()) for _ in range(3)]
            made = [await world.a.node.connect(world.b.node.address, **OVER_TCP) for _ in range(2)]
            await asyncio.wait(waiting, timeout=1.0)
            assert [task.result().session for task in waiting[:2]] == [pipe.session for pipe in made]
            await world.b.node.close()
            with pytest.raises(PipeClosed, match="the node was closed"):
                await waiting[2]

    virtual(main)


def test_a_pipe_that_nobody_accepts_holds_its_place_and_the_queue_is_bounded() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            address = world.b.node.address
            made = [await world.a.node.connect(address, **OVER_TCP) for _ in range(ACCEPT_QUEUE + 3)]
            await asyncio.sleep(0.1)
            for pipe in made[ACCEPT_QUEUE:]:
                assert await ends(pipe, 1.0)
            for pipe in made[:ACCEPT_QUEUE]:
                other = await world.b.node.accept()
                assert other.session == pipe.session
            await exchange(made[0], next(p for p in world.b.node._run.pipes.open_pipes if p.session == made[0].session))

    virtual(main)


def test_handlers_are_given_what_arrives_in_order_and_no_pipe_is_handed_out() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            heard: list[tuple[str, bytes]] = []

            async def first(data: bytes, pipe: Pipe) -> None:
                heard.append(("first", data))
                await pipe.send(data.upper())

            async def second(data: bytes, pipe: Pipe) -> None:
                heard.append(("second", data))

            world.b.node.add_message_handler(first)
            world.b.node.add_message_handler(second)
            pipe = await world.a.node.connect(world.b.node.address, **OVER_TCP)
            for data in (b"one", b"two"):
                await pipe.send(data)
                assert await pipe.recv(timeout=1.0) == data.upper()
            assert heard == [("first", b"one"), ("second", b"one"), ("first", b"two"), ("second", b"two")]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await world.b.node.accept()
            await pipe.close()
            await world.quiet()

    virtual(main)


def test_a_handler_that_crashes_ends_its_pipe_and_no_other() -> None:
    async def main() -> None:
        async with World("public", "public") as world:

            async def crashes(data: bytes, pipe: Pipe) -> None:
                if data == b"crash":
                    raise ZeroDivisionError
                await pipe.send(data)

            world.b.node.add_message_handler(crashes)
            good = await world.a.node.connect(world.b.node.address, **OVER_TCP)
            bad = await world.a.node.connect(world.b.node.address, **OVER_TCP)
            await bad.send(b"crash")
            assert await ends(bad, 1.0)
            await good.send(b"hello")
            assert await good.recv(timeout=1.0) == b"hello"
            assert [type(error["exception"]) for error in world.loop_errors] == [ZeroDivisionError]
            world.loop_errors.clear()
            await good.close()
            await bad.close()
            await world.quiet()

    virtual(main)


# -- closing and telling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_closing_a_node_ends_its_pipes_at_the_other_end_too(options: dict) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            pairs = [await connected(world, **options) for _ in range(20)]
            began = world.now
            await world.a.node.close()
            assert world.now - began < 1.0
            for one, other, _ in pairs:
                assert one.closed
                assert await ends(other, 1.0)
                await other.close()
            await world.quiet()

    virtual(main)


def test_status_counts_what_happened() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other, _ = await connected(world, **OVER_TCP)
            status = world.a.node.status()
            counts = dict(status.counts)
            assert counts["PipeOpened"] == counts["NodeStarted"] == 1
            assert counts["SignalSent"] == 1
            assert status.brokers == world.a.node.address.brokers
            assert status.attachments == world.a.node.address.attachments
            assert [interface.name for interface in status.interfaces] == ["eth0"]
            assert status.failures == ()
            world.brokers[0].kill()
            await asyncio.sleep(1.0)
            [failure] = world.a.node.status().failures
            assert (failure.service, failure.server) == ("broker", URLS[0])
            await one.close()
            await other.close()

    virtual(main)
