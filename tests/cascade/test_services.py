"""Several services in one node: whichever way a pipe comes, it gets to the one that its initiator named, or to none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cascade_world import OVER_TCP, OVER_UDP, Options, Seat, World, exchange, virtual
from strangers_kit import Stranger, fresh_bytes, hung_up

from warpgate.config import Config
from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConfigError, ConnectFailed, PipeClosed
from warpgate.events import StrangerRefused
from warpgate.model.endpoint import Mode, Transport
from warpgate.model.identity import Identity

OVER_QUIC: Options = {"mode": Mode.STREAM, "transport": Transport.UDP}
EVERY_WAY = [
    pytest.param(OVER_UDP, id="datagram"),
    pytest.param(OVER_TCP, id="tcp"),
    pytest.param({**OVER_TCP, "secure": True}, id="tls"),
    pytest.param(OVER_QUIC, id="quic"),
]
# A peer that can be called before any offer has arrived, and one that can't.
SITES = [pytest.param("public", id="direct"), pytest.param("eim", id="punched")]


def offer(seat: Seat, *names: str) -> None:
    """Each answers everything with its name."""
    for name in names:

        async def handler(pipe: Pipe, name: str = name) -> None:
            assert pipe.service == name
            async for _ in pipe:
                await pipe.send(name.encode())

        seat.node.serve(name, handler)


async def who(pipe: Pipe) -> str:
    await pipe.send(b"who?")
    return (await pipe.recv(timeout=10.0)).decode()


async def drained(pipe: Pipe) -> None:
    while await pipe.recv():
        pass


@pytest.mark.parametrize("options", EVERY_WAY)
@pytest.mark.parametrize("site", SITES)
def test_each_pipe_gets_to_the_service_that_was_named(site: str, options: Options) -> None:
    async def main() -> None:
        async with World("eim", site) as world:
            offer(world.b, "ssh", "web", "caf\u00e9")
            for name in ("ssh", "web", "caf\u00e9", "ssh"):
                pipe = await world.a.node.connect(world.b.node.address, service=name, **options)
                assert (await who(pipe), pipe.service) == (name, name)
                await pipe.close()

    virtual(main)


@pytest.mark.parametrize("options", EVERY_WAY)
@pytest.mark.parametrize(
    ("site", "brokers"),
    [
        pytest.param("public", 1, id="direct"),
        pytest.param("public", 0, id="without signals"),
        pytest.param("eim", 1, id="punched"),
    ],
)
def test_a_service_that_there_is_not_is_refused_with_those_that_there_are(
    site: str, brokers: int, options: Options
) -> None:
    async def main() -> None:
        async with World("eim", site, brokers=brokers) as world:
            offer(world.b, "ssh", "web")
            for service, said in (
                ("pg", r"there is no service 'pg' \(there are: ssh, web\)"),
                ("", r"say which service \(there are: ssh, web\)"),
            ):
                began = world.now
                with pytest.raises(ConnectFailed, match=f"^refused: {said}"):
                    await world.a.node.connect(world.b.node.address, service=service, **options)
                assert world.now - began < 0.5
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("options", EVERY_WAY)
def test_a_node_without_names_is_as_it_was(options: Options) -> None:
    async def main() -> None:
        async with World("eim", "public") as world:
            with pytest.raises(ConnectFailed, match="there is no service 'ssh', only one without a name"):
                await world.a.node.connect(world.b.node.address, service="ssh", **options)
            pipe = await world.a.node.connect(world.b.node.address, **options)
            other = await world.b.node.accept()
            assert pipe.service == other.service == ""
            await exchange(pipe, other)

    virtual(main)


def test_accept_goes_on_beside_services_with_names() -> None:
    async def main() -> None:
        async with World() as world:
            offer(world.b, "ssh")
            accepting = asyncio.ensure_future(world.b.node.accept())
            await asyncio.sleep(0)
            pipe = await world.a.node.connect(world.b.node.address)
            await exchange(pipe, await accepting)
            named = await world.a.node.connect(world.b.node.address, service="ssh")
            assert await who(named) == "ssh"

    virtual(main)


def test_who_may_not_come_in_is_not_told_what_there_is() -> None:
    async def main() -> None:
        async with World("eim", "public", config_b=Config(allow=frozenset())) as world:
            offer(world.b, "secret")
            with pytest.raises(ConnectFailed) as failed:
                await world.a.node.connect(world.b.node.address, service="x", timeout=5.0)
            assert "not among those allowed in" in str(failed.value)
            assert "secret" not in str(failed.value)

    virtual(main)


@asynccontextmanager
async def stranger(world: World) -> AsyncIterator[Stranger]:
    met = Stranger(world)
    try:
        yield met
    finally:
        met.close()


def test_only_a_proved_key_is_told_and_by_no_more_bytes_than_it_sent() -> None:
    async def main() -> None:
        async with World("eim", "public") as world, stranger(world) as met:
            offer(world.b, *(f"service-{number}" for number in range(30)))
            session = fresh_bytes(16)
            honest = met.codec(session).request(fresh_bytes(12), "direct", met.target, introduce=True)
            met.send(honest)
            await asyncio.sleep(1)
            (told,) = met.received
            assert len(told) <= len(honest)
            met.received.clear()
            liar = met.codec(fresh_bytes(16), claims=world.a.node.public_key)
            met.send(liar.request(fresh_bytes(12), "direct", met.target, introduce=True))
            stream = await met.dial()
            await stream.send(met.handshake(fresh_bytes(16), claims=world.a.node.public_key).data_to_send())
            assert await hung_up(stream) == b""
            assert met.received == []
            assert world.b.run.sessions.ids == ()

    virtual(main)


def test_who_is_not_allowed_in_is_told_so_without_a_signal_and_costs_little() -> None:
    """No broker is asked: by a check, and by a HELLO. Who lies about its key is told nothing."""

    async def main() -> None:
        friend = Identity.generate().node_id
        async with World("public", "public", config_b=Config(allow=frozenset({friend}))) as world:
            a, b = world.a.node.node_id, world.b.node.node_id
            for options in ({"durable": True}, OVER_UDP, OVER_TCP):
                with pytest.raises(ConnectFailed) as failed:
                    await world.a.node.connect(world.b.node.address, plugins=["direct"], **options)
                assert str(failed.value) == f"refused: {a} is not among those allowed in, says node {b}"
                await asyncio.sleep(1)
            told = world.b.said(StrangerRefused)
            assert {event.peer for event in told if event.peer} == {a}
            assert world.b.run.sessions.ids == ()

    virtual(main)


def test_a_handler_that_ends_closes_and_one_that_fails_resets() -> None:
    async def main() -> None:
        async with World() as world:

            async def says_bye(pipe: Pipe) -> None:
                await pipe.send(b"bye")

            async def fails(pipe: Pipe) -> None:
                await pipe.send(b"half of it")
                raise ValueError("a bug")

            world.b.node.serve("bye", says_bye)
            world.b.node.serve("bug", fails)
            pipe = await world.a.node.connect(world.b.node.address, service="bye", secure=True)
            assert await pipe.recv_n(3) == b"bye"
            assert await pipe.recv() == b""
            pipe = await world.a.node.connect(world.b.node.address, service="bug", secure=True)
            with pytest.raises(PipeClosed):
                await drained(pipe)
            (error,) = world.loop_errors
            assert "a bug" in str(error["exception"])
            world.loop_errors.clear()

    virtual(main)


def test_what_cannot_be_a_service_is_refused_on_this_side() -> None:
    async def main() -> None:
        async with World() as world:
            offer(world.b, "ssh")

            async def handler(pipe: Pipe) -> None: ...

            for name in ("ssh", "", "a/b", "a b", "x" * 33, 7, None):
                with pytest.raises(ConfigError):
                    world.b.node.serve(name, handler)  # type: ignore[arg-type]
            with pytest.raises(ConfigError):
                world.b.node.serve("web", "handler")  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="is no name of a service"):
                await world.a.node.connect(world.b.node.address, service="a/b")
            assert world.b.node.services == ("ssh",)

    virtual(main)
