"""Durable pipes in virtual time: how soon they open, and that no fault of the networks beneath ends or harms them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cascade_world import HOP, OVER_UDP, Options, R, S, World, connected, ends, exchange, identity, virtual
from durable_kit import Counters, Fault, both, darkness, forgotten, moved, renumbered
from test_relays import RelayWorld

from warpgate.config import Config, Timing
from warpgate.core.connection.paths import UdpPath
from warpgate.core.connections import FAREWELL, LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.durable import DurablePipe
from warpgate.core.pipes.maker import CLOSING
from warpgate.core.udp.demultiplexer import UNVALIDATED_DATAGRAMS
from warpgate.errors import ConfigError, ConnectFailed, PipeClosed
from warpgate.events import PathChosen, PathLost, PathOpened
from warpgate.model.endpoint import Mode, SockAddr, Transport
from warpgate_testing.wire import Host, Packet

r = HOP
SETTLED = 3.0  # before a fault
WATCHED = 10.0  # after it
BLOB = bytes(range(256)) * 8000


async def durable(world: World) -> tuple[DurablePipe, Pipe, float]:
    near, far, seconds = await connected(world, durable=True)
    assert isinstance(near, DurablePipe)
    assert (near.durable, far.durable, near.secure, far.secure) == (True, True, True, True)
    return near, far, seconds


async def gone(world: World) -> None:
    """Connections linger, then they and their paths are gone."""
    await asyncio.sleep(LINGERING + 1)
    assert (len(world.a.run.connections), len(world.b.run.connections)) == (0, 0)
    await world.quiet()


# -- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "plugin", "transport", "seconds"),
    [
        ("public", "public", "direct", Transport.UDP, R),
        ("eim-apdf", "eim-apdf", "udp_punch", Transport.UDP, S + r),
        ("edm", "public", "direct", Transport.UDP, R),
        ("eim-apdf+noudp", "eim-apdf", "tcp_punch", Transport.TCP, S + r + 2 * R),
        ("public", "eim-apdf+noudp", "reverse", Transport.TCP, S + r + 2 * R),
    ],
)
def test_a_durable_pipe_opens_by_the_first_path(
    kind_a: str, kind_b: str, plugin: str, transport: Transport, seconds: float
) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            near, far, waited = await durable(world)
            assert (near.plugin, near.transport, far.transport) == (plugin, transport, transport)
            assert waited == pytest.approx(seconds, abs=1e-6)
            await exchange(near, far)
            assert [event.reason for event in world.a.said(PathChosen)] == ["the first path"]
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_node_that_moves_while_its_first_path_is_looked_for_looks_again(name: str) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            connecting = asyncio.ensure_future(durable(world))
            await asyncio.sleep(1.5 * R)
            moved(name, 77)(world)
            near, far, _ = await connecting
            await exchange(near, far)
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_a_further_pipe_costs_nothing_and_each_is_a_stream_of_its_own() -> None:
    async def main() -> None:
        async with World() as world:
            first, far, _ = await durable(world)
            began, offers = world.now, world.a.signals()["offer"]
            pipes = [await world.a.node.connect(world.b.node.address, durable=True) for _ in range(50)]
            assert world.now == began
            others = [await world.b.node.accept() for _ in range(50)]
            for number, pipe in enumerate(pipes):
                await pipe.send(f"this is {number}".encode())
            for number, other in enumerate(others):
                assert await other.recv(timeout=5) == f"this is {number}".encode()
            assert world.now - began < 3 * R
            assert world.a.signals()["offer"] == offers
            assert isinstance(pipes[0], DurablePipe)
            assert pipes[0].connection is first.connection
            for pipe in (*pipes, *others):
                await pipe.close()
            await exchange(first, far)
            # The library takes 100 at once: those that are over make room for others.
            for _ in range(150):
                pipe = await world.a.node.connect(world.b.node.address, durable=True)
                other = await world.b.node.accept()
                await pipe.close()
                assert await ends(other)
                await other.close()
            await first.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_how_durable_pipes_end() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            sending = asyncio.ensure_future(near.send(BLOB))
            sending.add_done_callback(lambda _: near.write_eof())
            got = bytearray()
            while data := await far.recv(timeout=5):
                got += data
            assert got == BLOB
            await far.send(b"and back")
            assert await near.recv(timeout=5) == b"and back"
            await far.close()
            assert await near.recv(timeout=5) == b""
            await near.close()

            near, far, _ = await durable(world)
            near.abort()
            with pytest.raises(PipeClosed, match="reset by the peer"):
                await far.recv(timeout=5)

            near, far, _ = await durable(world)
            await far.close()
            await asyncio.sleep(1)
            with pytest.raises(PipeClosed, match="closed by the peer"):
                await near.send(b"anybody there?")
            assert await near.recv(timeout=5) == b""
            await near.close()
            with pytest.raises(ConfigError, match="durable"):
                near.detach()
            await gone(world)

    virtual(main)


def test_a_slow_reader_is_not_sent_more_than_its_window() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            assert isinstance(far, DurablePipe)
            sending = asyncio.ensure_future(near.send(bytes(64 * 1024 * 1024)))
            await asyncio.sleep(30)
            assert not sending.done()
            held = len(far._channel._unread)
            assert held <= 4 * 1024 * 1024
            other = await world.a.node.connect(world.b.node.address, durable=True)
            last = await world.b.node.accept()
            await exchange(other, last)  # nor does it hold up others
            sending.cancel()
            near.abort()
            await other.close()
            await last.close()
            await gone(world)

    virtual(main)


async def validated(pipe: Pipe) -> UdpPath:
    """The one path of a new durable pipe, as soon as the peer has answered by it."""
    await asyncio.sleep(R)
    assert isinstance(pipe, DurablePipe)
    [path] = pipe.connection._paths
    assert isinstance(path, UdpPath)
    return path


def test_a_full_socket_slows_down_and_loses_nothing() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            path = await validated(near)
            real, left = path._outflow._socket, 0

            def a_few(datagrams: Sequence[bytes], to: SockAddr) -> int:
                nonlocal left
                taken = real.send_all(datagrams[:left], to)
                left -= taken
                return taken

            async def room() -> None:
                nonlocal left
                await asyncio.sleep(0.001)
                left = 30

            path._outflow._socket = SimpleNamespace(  # type: ignore[assignment]
                send=lambda data, to: a_few([data], to) == 1, send_all=a_few, writable=room
            )
            sent = bytes(range(256)) * 8192
            sending = asyncio.ensure_future(near.send(sent))
            assert await far.recv_n(len(sent)) == sent
            await sending
            assert isinstance(near, DurablePipe)
            core = near.connection.engine._quic._core
            assert core is not None
            assert core.loss_total == 0
            assert near.connection.moves == 0
            await near.close()
            await far.close()

    virtual(main)


def test_what_durable_cannot_be() -> None:
    async def main() -> None:
        async with World() as world:
            with pytest.raises(ConfigError, match="mode"):
                await world.a.node.connect(world.b.node.address, mode="path")

    virtual(main)


def test_config_durable_is_the_default_for_streams_alone() -> None:
    async def main() -> None:
        async with World(config_a=Config(durable=True)) as world:
            stream, far, _ = await connected(world)
            assert stream.durable
            assert far.durable
            plain, other, _ = await connected(world, durable=False)
            assert not plain.durable
            datagrams, last, _ = await connected(world, **OVER_UDP)
            assert not datagrams.durable
            for pipe in (stream, far, plain, other, datagrams, last):
                await exchange_or_close(pipe)
            await gone(world)

    async def exchange_or_close(pipe: Pipe) -> None:
        await pipe.close()

    virtual(main)


def test_services_are_told_apart_on_one_connection() -> None:
    async def main() -> None:
        async with World() as world:
            served: list[tuple[str, bytes]] = []

            async def serve(pipe: Pipe) -> None:
                served.append((pipe.service, await pipe.recv()))
                await pipe.send(pipe.service.encode())

            world.b.node.serve("ssh", serve)
            world.b.node.serve("web", serve)
            address = world.b.node.address
            one = await world.a.node.connect(address, durable=True, service="ssh")
            other = await world.a.node.connect(address, durable=True, service="web")
            assert (one.service, other.service) == ("ssh", "web")
            await one.send(b"for ssh")
            await other.send(b"for web")
            assert (await one.recv(timeout=5), await other.recv(timeout=5)) == (b"ssh", b"web")
            assert sorted(served) == [("ssh", b"for ssh"), ("web", b"for web")]
            with pytest.raises(ConnectFailed, match=r"there is no service 'mail' .there are: ssh, web."):
                await world.a.node.connect(address, durable=True, service="mail")
            nameless = await world.a.node.connect(address, durable=True)  # nothing is waited for
            with pytest.raises(PipeClosed, match=r"say which service .there are: ssh, web."):
                await nameless.recv(timeout=5)
            await one.close()
            await other.close()
            await gone(world)

    virtual(main)


# -- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "fault", "worst"),
    [
        pytest.param(("eim-apdf", "eim-apdf"), moved("a", 77), 0.26, id="the initiator moves"),
        pytest.param(("eim-apdf", "eim-apdf"), moved("b", 78), 0.26, id="the listener moves"),
        pytest.param(("eim-apdf", "eim-apdf"), both(moved("a", 77), moved("b", 78)), 0.25, id="both move"),
        pytest.param(("public", "eim-apdf"), moved("a", 77), 0.26, id="from a public address to a NAT"),
        pytest.param(("eim-apdf+noudp", "eim-apdf"), moved("a", 77), 0.26, id="from TCP to UDP"),
        pytest.param(("eim-apdf", "eim-apdf"), renumbered("a"), 0.65, id="another public address, unseen"),
        pytest.param(("eim-apdf", "eim-apdf"), renumbered("b"), 0.65, id="the listener's, unseen"),
        pytest.param(("eim-apdf", "eim-apdf"), forgotten, 0.1, id="routers forget"),
        pytest.param(("eim-apdf", "eim-apdf"), darkness(3.0), 3.2, id="3 s of darkness"),
        pytest.param(("eim-apdf", "eim-apdf"), darkness(0.2), 0.3, id="a stall is no fault"),
    ],
)
def test_a_busy_pipe_goes_on(kinds: tuple[str, str], fault: Fault, worst: float) -> None:
    async def main() -> None:
        async with World(*kinds) as world:
            near, far, _ = await durable(world)
            counters = Counters(near, far)
            await asyncio.sleep(SETTLED)
            began = world.now
            fault(world)
            await asyncio.sleep(WATCHED)
            assert counters.worst(began) <= worst
            await counters.stop()
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize(
    ("kinds", "fault", "worst"),
    [
        pytest.param(("edm", "edm"), moved("a", 77), 0.36, id="who has the relay moves"),
        pytest.param(("edm", "edm"), moved("b", 78), 0.36, id="the other one moves"),
        pytest.param(("edm", "edm"), both(moved("a", 77), moved("b", 78)), 0.25, id="both move"),
        pytest.param(("edm", "edm"), renumbered("a"), 0.85, id="another public address, unseen"),
    ],
)
def test_a_relayed_pipe_goes_on(kinds: tuple[str, str], fault: Fault, worst: float) -> None:
    async def main() -> None:
        async with RelayWorld(*kinds) as world:
            near, far, _ = await durable(world)
            assert (near.relayed, far.relayed) == (True, True)
            counters = Counters(near, far)
            await asyncio.sleep(SETTLED)
            began = world.now
            fault(world)
            await asyncio.sleep(WATCHED)
            assert counters.worst(began) <= worst
            await counters.stop()
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_routers_that_forget_again_and_again_take_the_links_to_brokers_along_and_no_back_off_is_waited_for() -> None:
    """Of the relayed pair: neither is where its relay, or the other one's, knows it to be."""

    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            near, far, _ = await durable(world)
            counters = Counters(near, far)
            await asyncio.sleep(SETTLED)
            for _ in range(4):
                began = world.now
                forgotten(world)
                for broker in world.brokers:
                    broker.kill()
                    broker.revive()
                await asyncio.sleep(5)
                assert counters.worst(began) <= 1.3  # 0.6 to 0.9; with the back-off up to 10
            await counters.stop()
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_a_peer_that_has_moved_is_let_in_to_the_relay_that_was_opened_before() -> None:
    """There is one relay, a's, opened while b was on its way to another network."""

    async def main() -> None:
        async with RelayWorld("edm", "edm", b=False) as world:
            near, far, _ = await durable(world)
            counters = Counters(near, far)
            await asyncio.sleep(SETTLED)
            began = world.now
            moved("a", 77)(world)
            await asyncio.sleep(2.5 * R)
            assert world.a.signals()["offer"] > 0
            moved("b", 78)(world)
            await asyncio.sleep(WATCHED)
            assert counters.worst(began) <= 0.8
            await counters.stop()
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize("kinds", [("edm", "eim-apdf"), ("eim-apdf", "edm")])
def test_a_relayed_pipe_becomes_direct_while_it_is_used(kinds: tuple[str, str]) -> None:
    async def main() -> None:
        async with RelayWorld(*kinds) as world:
            near, far, _ = await durable(world)
            assert near.relayed
            counters = Counters(near, far)
            async with asyncio.timeout(15):
                while near.relayed or far.relayed:  # noqa: ASYNC110 - as a user would see it
                    await asyncio.sleep(0.1)
            await asyncio.sleep(SETTLED)
            assert counters.worst(0.0) <= 0.08  # not even the upgrade is an interruption
            await counters.stop()
            for seat in (world.a, world.b):
                assert [event.reason for event in seat.said(PathChosen)][-1] == "direct instead of relayed"
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_an_idle_pipe_is_moved_when_it_is_used_next() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            await exchange(near, far)
            moved("a", 77)(world)
            await asyncio.sleep(30)
            moved("b", 78)(world)
            await asyncio.sleep(600)
            began = world.now
            await exchange(near, far)
            assert world.now - began <= 2 * R
            await near.close()
            await far.close()
            await gone(world)

    virtual(main, limit=2000)


def test_half_an_hour_of_idleness_and_loss_move_nothing() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            await asyncio.sleep(1800)
            world.lose(0.05)
            counters = Counters(near, far)
            await asyncio.sleep(60)
            await counters.stop()
            assert len(world.a.said(PathChosen)) == len(world.b.said(PathChosen)) == 1
            assert world.a.said(PathLost) == []
            await near.close()
            await far.close()
            await gone(world)

    virtual(main, limit=3000)


def test_an_outage_full_of_small_writes_loses_nothing() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            counters = Counters(near, far)
            await asyncio.sleep(SETTLED)
            darkness(60.0)(world)
            await asyncio.sleep(60.0 + WATCHED)
            await counters.stop()
            assert counters.received > 6000
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize("seconds", [100.0, 112.0, 136.0])
def test_when_the_brokers_come_back_a_path_is_looked_for_at_once(seconds: float) -> None:
    """After a long outage the pause between two searches is 30 s: it took so long to go on."""

    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            world.brokers[0].kill()
            darkness(seconds)(world)
            await near.send(b"after the dark")
            await asyncio.sleep(seconds)
            world.brokers[0].revive()
            world.a.run.channel.hurry()  # else it is dialled again after a pause of its own
            began = world.now
            assert await far.recv() == b"after the dark"
            assert world.now - began < 1.5
            await near.close()
            await far.close()

    virtual(main)


def test_a_peer_that_is_gone_ends_the_pipe_when_patience_is_over() -> None:
    patience = replace(Timing(), outage_patience=120.0)

    async def main() -> None:
        async with World(config_a=Config(timing=patience)) as world:
            near, _, _ = await durable(world)
            world.hosts["b"].crash()
            await near.send(b"hello?")
            began = world.now
            with pytest.raises(PipeClosed, match="could not be reached for 120 s"):
                await near.recv()
            assert 120 <= world.now - began <= 130

    virtual(main)


def test_a_peer_that_was_restarted_ends_the_pipe_at_once() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            await exchange(near, far)
            world.hosts["b"].crash()
            await asyncio.sleep(1)
            await world.b.node.close()
            world.hosts["b"].boot()
            await world.b.node.start()
            await asyncio.sleep(5)
            began = world.now
            with pytest.raises(PipeClosed, match="restarted"):
                await exchange(near, near)
            assert world.now - began <= 2.0
            again = await world.a.node.connect(world.b.node.address, durable=True)
            await exchange(again, await world.b.node.accept())
            await again.close()

    virtual(main)


def test_who_is_not_there_is_reported_as_by_any_connect() -> None:
    async def main() -> None:
        async with World() as world:
            address = world.b.node.address
            await world.b.node.close()
            began = world.now
            with pytest.raises(ConnectFailed, match="it is not running, or not at these brokers") as failure:
                await world.a.node.connect(address, durable=True)
            assert world.now - began < 12
            assert {row.plugin for row in failure.value.report} >= {"direct", "udp_punch", "turn"}
            assert len(world.a.run.connections) == 0

    virtual(main)


def test_a_further_pipe_to_who_has_gone_fails_as_soon_as_a_first_one_would() -> None:
    """The pipes that are there wait on: the peer may be in a tunnel."""

    async def main() -> None:
        async with World() as world:
            address = world.b.node.address
            near, _, _ = await durable(world)
            world.hosts["b"].crash()
            await world.b.node.close()  # unheard
            await asyncio.sleep(30)
            sending = asyncio.ensure_future(near.send(b"are you there?"))
            await asyncio.sleep(90)  # the searches have become rare
            for wait in (0.0, 3.0):
                await asyncio.sleep(wait)
                began = world.now
                with pytest.raises(ConnectFailed, match="it is not running, or not at these brokers"):
                    await world.a.node.connect(address, durable=True)
                assert world.now - began < 9
            await sending
            assert near.connection.end is None
            near.abort()

    virtual(main)


def test_who_is_not_allowed_gets_no_connection_and_no_path() -> None:
    async def main() -> None:
        nobody = Config(allow=frozenset({"a" * 26}))
        async with World(config_b=nobody) as world:
            with pytest.raises(ConnectFailed, match="not among those allowed in"):
                await world.a.node.connect(world.b.node.address, durable=True)
            assert world.b.said(PathOpened) == []

    virtual(main)


def test_closing_the_node_tells_the_peer() -> None:
    async def main() -> None:
        async with World() as world:
            near, _, _ = await durable(world)
            began = world.now
            reading = asyncio.ensure_future(near.recv())
            await world.b.node.close()
            assert await reading == b""
            assert world.now - began < 1.0
            await near.close()

    virtual(main)


LAST_WORDS: list[dict[str, object]] = [
    {"durable": True},
    {"durable": True, "mode": Mode.DATAGRAM},
    OVER_UDP,
    {"mode": Mode.STREAM, "transport": Transport.UDP},
]


@pytest.mark.parametrize("lost", range(6))
@pytest.mark.parametrize("options", LAST_WORDS)
def test_closing_the_node_tells_the_peer_also_where_a_packet_of_it_is_lost(options: Options, lost: int) -> None:
    """Nobody is there to repeat it."""

    async def main() -> None:
        async with World() as world:
            near, far, _ = await connected(world, **options)
            await exchange(near, far)
            await asyncio.sleep(1.0)
            wire, sent = world.internet._wire, 0
            send = wire.send

            def send_all_but_one(host: Host, packet: Packet) -> None:
                nonlocal sent
                to_a = str(packet.flow.destination.ip).startswith("198.51.100.1")
                sent += to_a
                if not to_a or sent != lost + 1:
                    send(host, packet)

            reading = asyncio.ensure_future(near.recv())
            wire.send = send_all_but_one  # type: ignore[method-assign]
            began = world.now
            await world.b.node.close()
            assert world.now - began < 5 * R  # what was sent is waited for
            with contextlib.suppress(PipeClosed):
                assert await reading == b""
            assert world.now - began < 1.0
            await near.close()

    virtual(main)


@pytest.mark.parametrize("options", LAST_WORDS)
def test_closing_the_node_takes_no_longer_where_the_peer_is_gone(options: Options) -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await connected(world, **options)
            await exchange(near, far)
            await asyncio.sleep(1.0)
            world.internet.partition(*world.routers.values())
            began = world.now
            await world.b.node.close()
            assert world.now - began < CLOSING + 2 * FAREWELL
            near.abort()

    virtual(main)


def test_a_peer_without_brokers_is_asked_for_where_it_was() -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            assert isinstance(near, DurablePipe)
            remote = near.connection.remote
            near.connection.meet(replace(remote, brokers=(), attachments=remote.attachments[:1]))
            assert near.connection.remote.brokers == remote.brokers != ()
            await near.close()
            await far.close()

    virtual(main)


def test_who_gains_by_naming_a_connection() -> None:
    """A path belongs to the key that proved it, and an offer that names no connection is for none."""

    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            assert isinstance(near, DurablePipe)
            book, key = world.b.run.connections, world.a.node.public_key
            [connection] = book.known
            assert book.knows(key, near.session)
            assert not book.knows(identity("c").public_key, near.session)
            connection.engine.session = b""  # as before its client has proved itself
            assert not book.knows(key, b"")
            connection.engine.session = near.session
            stranger = SimpleNamespace(origin=SimpleNamespace(peer_key=identity("c").public_key))
            packet = b"\x40" + connection.engine.id + bytes(30)
            assert not book._claim(world.a.node.address, stranger, [packet])
            assert len(connection.paths) == 1
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_an_endpoint_that_has_not_answered_gets_ten_datagrams() -> None:
    """The peer may have nominated a pair with somebody else's address, forged."""

    async def main() -> None:
        async with World() as world:
            near, far, _ = await durable(world)
            path = await validated(near)
            sent: list[bytes] = []
            outflow, path._outflow = path._outflow, SimpleNamespace(send=sent.extend)  # type: ignore[assignment]
            checks, path._checks = path._checks, SimpleNamespace(agent=SimpleNamespace(path_validated=False))  # type: ignore[assignment]
            path._unvalidated = UNVALIDATED_DATAGRAMS
            for _ in range(100):
                path.send([b"x"])
            assert len(sent) == UNVALIDATED_DATAGRAMS == 10
            path._checks = checks
            path.send([b"y"])
            assert sent[-1] == b"y"
            path._outflow = outflow
            near.abort()
            far.abort()

    virtual(main)
