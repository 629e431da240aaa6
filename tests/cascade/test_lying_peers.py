"""A peer with a durable connection that lies about its pipes: which it has seen, what it has got, what it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from cascade_world import R, S, Seat, World, connected, exchange, virtual
from test_relays import RelayWorld

from warpgate.core.connection.connection import Connection
from warpgate.core.connection.quic_channels import CHANNELS
from warpgate.core.connection.quic_engine import CLOSED, QuicEngine, State
from warpgate.core.connections import LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.durable import DurablePipe
from warpgate.core.search.seeker import NO_RELAY_KNOWN
from warpgate.errors import ConnectFailed, PipeClosed
from warpgate.events import PluginSkipped, PluginStarted
from warpgate.model.endpoint import Mode
from warpgate.proto.channel_wire import ALL, MAX_REASON, NOT_TAKEN, SEEN, encode_pipe_head

BOTH = [pytest.param(Mode.STREAM, id="stream"), pytest.param(Mode.DATAGRAM, id="datagram")]


async def pipes(world: World, mode: Mode = Mode.STREAM) -> tuple[Pipe, Pipe]:
    near, far, _ = await connected(world, durable=True, mode=mode)
    await exchange(near, far)
    return near, far


def of(pipe: Pipe) -> Connection:
    connection: Connection = pipe.connection  # type: ignore[attr-defined]
    return connection


def ends_with(connection: Connection, code: int) -> None:
    """As if it ended in order, whatever it has seen."""
    QuicEngine.close(connection.engine, code, "the node was closed")
    connection.soon()


async def over(pipe: Pipe) -> str:
    """Why it has ended; not as if the peer had ended it in order."""
    try:
        async with asyncio.timeout(5):
            while await pipe.recv():
                pass
    except PipeClosed as end:
        return str(end)
    return "in order"


async def gone(world: World) -> None:
    await asyncio.sleep(LINGERING + 1)
    assert (len(world.a.run.connections), len(world.b.run.connections)) == (0, 0)
    await world.quiet()


# -- which pipes it has seen --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("seen", [0, 1, 2, 1 << 40])
def test_a_pipe_that_it_has_answered_ends_whatever_it_claims_to_have_seen(mode: Mode, seen: int) -> None:
    """It is not opened again, with a gap where the answered part was."""

    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world, mode)
            offers = world.a.signals()["offer"]
            ends_with(of(far), SEEN + seen)
            assert "the node was closed" in await over(near)
            with pytest.raises(PipeClosed):
                await near.send(b"more")
            await asyncio.sleep(5)
            assert world.a.signals()["offer"] == offers
            far.abort()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize("seen", [2, 3, 1 << 40])
def test_a_pipe_that_it_claims_to_have_seen_ends_though_it_has_answered_nothing(seen: int) -> None:
    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)
            second = await world.a.node.connect(world.b.node.address, durable=True)
            await second.send(b"never answered")
            ends_with(of(far), SEEN + seen)
            assert "the node was closed" in await over(second)
            for pipe in (near, far, second):
                pipe.abort()
            await gone(world)

    virtual(main)


def test_who_ends_each_connection_as_soon_as_a_pipe_is_wanted_gets_few() -> None:
    """It claims that it has never seen one, each time."""

    async def main() -> None:
        async with World() as world:
            world.b.node.serve("x", lambda _: asyncio.sleep(60))
            ended: list[Connection] = []

            def end(connection: Connection, _: Any) -> None:
                ended.append(connection)
                ends_with(connection, SEEN)

            world.b.run.connections._take_channel = end
            for _ in range(3):
                with pytest.raises(ConnectFailed):
                    await world.a.node.connect(world.b.node.address, durable=True, service="x")
            assert len(ended) == 3
            ended.clear()
            pipe = await world.a.node.connect(world.b.node.address, durable=True)
            await pipe.send(b"once more, and not for ever")
            assert "the node was closed" in await over(pipe)
            assert len(ended) == 2
            await gone(world)

    virtual(main)


# -- whether it has a relay ---------------------------------------------------------------------------------------


def searches(seat: Seat) -> int:
    return len({event.session for event in (*seat.said(PluginStarted), *seat.said(PluginSkipped))})


async def with_claim(relay: bool, kinds: tuple[str, str]) -> tuple[float, int]:
    """Seconds until it is clear whether there is a pipe, by an address with this claim, and searches. Neither node has
    a relay.
    """
    async with World(*kinds) as world:
        began, ends = world.now, list[Pipe]()
        with contextlib.suppress(ConnectFailed):
            near, far, _ = await connected(world, replace(world.b.node.address, relay=relay), durable=True)
            ends += near, far
        took = world.now - began
        assert bool(ends) is (kinds != ("edm", "edm"))
        for pipe in ends:
            pipe.abort()
        await gone(world)
        return took, searches(world.a)


@pytest.mark.parametrize("kinds", [("eim", "eim"), ("public", "public"), ("edm", "edm")])
def test_a_relay_that_it_does_not_have_costs_one_search_and_no_time(kinds: tuple[str, str]) -> None:
    truth, lie = (virtual(partial(with_claim, relay, kinds)) for relay in (False, True))
    assert lie[0] == pytest.approx(truth[0], abs=1e-6)
    assert lie[1] <= truth[1] + 1


def test_a_relay_that_it_has_and_hides_costs_a_moment() -> None:
    """Also once the path is lost: what it has said last is what counts then."""

    async def main() -> None:
        async with RelayWorld("edm", "edm", a=False) as world:
            hidden = replace(world.b.node.address, relay=False)
            near, far, seconds = await connected(world, hidden, durable=True)
            assert seconds == pytest.approx(NO_RELAY_KNOWN + 2 * S + 2 * R, abs=1e-6)
            of(far).engine.say_news(hidden.encode())
            await exchange(near, far)
            assert not of(near).remote.relay
            for path in tuple(of(far)._paths):
                path.close()
            began = world.now
            await exchange(near, far)
            assert world.now - began < 5
            near.abort()
            far.abort()
            await gone(world)

    virtual(main)


def test_who_claims_and_denies_a_relay_by_turns_starts_no_search() -> None:
    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)
            before = searches(world.a), searches(world.b)
            for number in range(60):
                of(far).engine.say_news(replace(world.b.node.address, relay=number % 2 == 0).encode())
                of(far).soon()
                await asyncio.sleep(1)
                assert of(near).remote.relay is (number % 2 == 0)
            assert (searches(world.a), searches(world.b)) == before
            await exchange(near, far)
            near.abort()
            far.abort()
            await gone(world)

    virtual(main)


# -- what it has got ----------------------------------------------------------------------------------------------


def test_who_has_the_end_of_a_stream_that_has_none_is_no_peer() -> None:
    """Or `close` would return as if all had arrived."""

    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)
            of(far).engine.say_credit(far._channel.stream, ALL)  # type: ignore[attr-defined]
            of(far).soon()
            assert "has the end of a stream that has none" in await over(near)
            assert of(near).engine.state is State.ENDED
            await gone(world)

    virtual(main)


def test_who_has_the_end_of_a_pipe_that_is_still_to_come_is_no_peer_either() -> None:
    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)
            of(far).engine.say_credit(1, ALL)
            back = await world.b.node.connect(world.a.node.address, durable=True)
            assert back.session == far.session
            assert "has the end of a stream that has none" in await over(near)
            assert "has the end of a stream that has none" in await over(back)
            await gone(world)

    virtual(main)


# -- how pipes end ------------------------------------------------------------------------------------------------


def ends_it(channel: Any) -> None:
    channel.take_pipe()
    channel.finish()


def resets_it(channel: Any) -> None:
    channel._engine.cut(channel.stream, CLOSED)


def says_nothing(_: Any) -> None: ...


@pytest.mark.parametrize("hostile", [ends_it, resets_it, says_nothing])
def test_pipes_whose_end_is_never_acknowledged_are_not_kept(hostile: Callable[[Any], None]) -> None:
    """Of what it has got it says nothing, but that packets have come."""

    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)
            ours, theirs = of(near).engine, of(far).engine
            theirs.say_credit = lambda *_: None  # type: ignore[method-assign]
            theirs.on_channel = hostile
            if hostile is says_nothing:
                ours.stop = lambda *_: None  # type: ignore[method-assign] # it stays without an answer, too
            for _ in range(1 if hostile is says_nothing else 5):
                crowd = [await world.a.node.connect(world.b.node.address, durable=True) for _ in range(80)]
                for pipe in crowd:
                    with contextlib.suppress(PipeClosed):
                        await pipe.send(bytes(10_000))
                async with asyncio.timeout(20):
                    await asyncio.gather(*(pipe.close() for pipe in crowd))
            await asyncio.sleep(5)
            assert len(ours) < 10 or hostile is says_nothing
            assert sum(len(channel.unheard or b"") for channel in ours.channels) == 0
            await near.send(b"still there")
            assert await far.recv(timeout=5) == b"still there"
            near.abort()
            far.abort()
            of(near).close()
            await gone(world)

    virtual(main)


def test_pipes_that_never_end_are_so_many_on_a_connection_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes any number at once, and neither reads nor ends one."""

    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)
            engine = of(near).engine
            monkeypatch.setattr(type(engine._quic), "max_concurrent_bidi_streams", property(lambda _: 1 << 60))
            real = engine._quic.get_next_available_stream_id
            numbers = iter(range(real(), 1 << 20, 4))
            monkeypatch.setattr(engine._quic, "get_next_available_stream_id", lambda: next(numbers), raising=False)
            monkeypatch.setattr(engine, "_put", lambda *_, **__: None)
            for _ in range(CHANNELS - 1):
                await world.a.node.connect(world.b.node.address, durable=True)
            beyond = await world.a.node.connect(world.b.node.address, durable=True)
            assert of(beyond) is not of(near)
            monkeypatch.undo()
            of(beyond).close()
            of(near).close()
            assert "closed" in await over(far)
            await gone(world)

    virtual(main)


def test_a_refusal_that_never_ends_is_one() -> None:
    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)

            def refuse(channel: Any) -> None:
                of(far).engine.carry(channel.stream, NOT_TAKEN + b"no\x1b[2J" * MAX_REASON)

            of(far).engine.on_channel = refuse
            pipe = await world.a.node.connect(world.b.node.address, durable=True)
            reason = await over(pipe)
            assert reason.startswith("refused: no")
            assert "\x1b" not in reason
            with pytest.raises(ConnectFailed, match="refused: no"):
                await world.a.node.connect(world.b.node.address, durable=True, service="x")
            await exchange(near, far)
            near.abort()
            far.abort()
            await gone(world)

    virtual(main)


def test_pipes_that_never_say_what_they_are_for_are_shown_to_nobody() -> None:
    async def main() -> None:
        async with World() as world:
            near, far = await pipes(world)
            for _ in range(90):
                stream = of(near).engine._quic.get_next_available_stream_id()
                of(near).engine._put(stream, encode_pipe_head("a-long-name")[:5])
            of(near).soon()
            await asyncio.sleep(1)
            assert len(of(far).engine) == 91
            pipe = await world.a.node.connect(world.b.node.address, durable=True)
            other = await world.b.node.accept()
            assert isinstance(other, DurablePipe)
            await exchange(pipe, other)
            of(near).close()
            assert "closed" in await over(other)
            assert "closed" in await over(far)
            await gone(world)

    virtual(main)
