"""What a peer that has a durable connection with us can make us do, and what forgers can do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from cascade_world import Seat, World, connected, exchange, hosted_by, identity, virtual
from durable_kit import darkness, moved
from strangers_kit import Stranger, fresh_bytes, ips, sent_by

from warpgate.config import Budgets, Config
from warpgate.core.connection import guests
from warpgate.core.connection.connection import Connection
from warpgate.core.connection.guests import GONE, IDLE, PER_PEER
from warpgate.core.connection.paths import GREETINGS, Origin, Path, TcpPath
from warpgate.core.connection.quic_bounds import UNPROVED, Holdings
from warpgate.core.connection.quic_channels import QuicChannels
from warpgate.core.connection.quic_engine import State
from warpgate.core.connection.unclaimed import UNCLAIMED, UNCLAIMED_PATIENCE, UNCLAIMED_PER_PEER
from warpgate.core.connections import Connections
from warpgate.core.pipes.durable import DurablePipe
from warpgate.core.search.seeker import AT_ONCE, RATE, PathSeeker
from warpgate.core.search.session import Session
from warpgate.events import PathLost, PluginSkipped, PluginStarted, SignalRefused, StrangerRefused
from warpgate.model.address import Attachment, LearntBy, Listening, NodeAddress
from warpgate.model.broker import BrokerRef
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.plan.paths import UNKNOWN_ROUND_TRIP
from warpgate.plugins.udp_punch import Punch
from warpgate.proto.quic_wire import DURABLE_ID_SIZE
from warpgate_testing.internet import Captured
from warpgate_testing.servers import MemoryBrokerLink

THIRD_BROKER = "mqtt://203.0.113.77:25"


async def durable(world: World) -> tuple[DurablePipe, DurablePipe]:
    near, far, _ = await connected(world, durable=True)
    assert isinstance(near, DurablePipe)
    assert isinstance(far, DurablePipe)
    return near, far


async def say(pipe: DurablePipe, address: NodeAddress) -> None:
    """The holder of this end claims to be there."""
    pipe.connection.engine.say_news(address.encode())
    pipe.connection.soon()
    await asyncio.sleep(1)


def at(ip: str, port: int) -> Attachment:
    listening = Listening(port, port, LearntBy.STUN)
    host = Endpoint.of(ip, port).ip
    return Attachment(host, host, listening, listening)


def alone(pipe: DurablePipe) -> None:
    """This end looks for no paths any more."""
    assert pipe.connection.seeker is not None
    pipe.connection.seeker.close()
    pipe.connection.seeker = None


def searches(seat: Seat) -> int:
    return len({event.session for event in (*seat.said(PluginStarted), *seat.said(PluginSkipped))})


# -- searches -----------------------------------------------------------------------------------------------------


def test_a_peer_that_came_leads_the_search_for_it_nowhere() -> None:
    """It says that it is at a port of our own machine, with a broker of its choice, and leaves: we look for it."""

    async def main() -> None:
        async with World("public", "public", brokers=2) as world:
            near, far = await durable(world)
            urls: set[str] = set()
            channel = world.b.run.equipment.channel
            publish = channel.publish

            def published(to: Iterable[str], topic: str, data: bytes) -> int:
                urls.update(to)
                return publish(tuple(to), topic, data)

            channel.publish = published
            own, lan = "198.51.100.2", "192.168.7.7"
            brokers = (BrokerRef(THIRD_BROKER, 0.04), *world.a.node.address.brokers)
            claim = replace(world.a.node.address, brokers=brokers, attachments=(at(own, 6000), at(lan, 8080)))
            await say(near, claim)
            assert far.connection.remote.attachments == claim.attachments
            packets = world.internet.capture()
            world.hosts["a"].crash()
            await far.send(b"anybody?")
            await asyncio.sleep(60)
            assert searches(world.b) > 0
            assert Endpoint.of(own, 6000) not in sent_by(packets, "b")
            assert lan not in {str(ip) for ip in ips(sent_by(packets, "b"))}
            assert urls <= {broker.url for broker in world.brokers}
            assert urls
            far.abort()

    virtual(main)


@pytest.mark.parametrize("began_by_us", [True, False])
def test_a_peer_that_ends_every_path_has_few_searches(began_by_us: bool) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            near, far = await durable(world)
            seat = world.a if began_by_us else world.b
            hostile = far if began_by_us else near
            alone(hostile)
            before, began = searches(seat), world.now
            while world.now < began + 60.0:
                for path in tuple(hostile.connection._paths):
                    path.close()
                await asyncio.sleep(0.05)
            assert AT_ONCE < searches(seat) - before <= AT_ONCE + 60 * RATE + 2
            await asyncio.sleep(10)
            await exchange(near, far)
            near.abort()
            far.abort()

    virtual(main)


def test_a_peer_that_falls_silent_all_the_time_has_brokers_dialled_once_a_second() -> None:
    """Whoever is out of reach may be at its brokers, and so shall we be: how often those failed counts no more then."""

    async def main() -> None:
        async with World("public", "public") as world:
            near, far = await durable(world)
            alone(near)
            broker, dials = world.brokers[0], list[float]()
            connect = broker.connect

            async def counted(topic: str, *words: Any) -> MemoryBrokerLink:
                if topic.endswith(world.b.node.node_id):
                    dials.append(world.now)
                return await connect(topic, *words)

            broker.connect = counted  # type: ignore[method-assign]
            broker.kill()
            await asyncio.sleep(120.0)
            began = world.now
            while world.now < began + 60.0:
                for path in tuple(near.connection._paths):
                    path.close()
                await asyncio.sleep(0.05)
            lately = [at for at in dials if at >= began]
            assert 15 < len(lately) <= 62
            assert min(later - at for at, later in pairwise(lately)) >= 1.0 - 1e-6
            broker.revive()
            near.abort()
            far.abort()

    virtual(main)


def test_peers_that_left_have_few_searches_together() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            budget = Budgets()
            for _ in range(8):
                await durable(world)
                world.a.run.connections.known._shared.clear()  # or they were pipes of one connection
            for connection in world.a.run.connections.known:  # what it asks of b by signals is not b's search
                connection.seeker.close()
                connection.seeker = None
            taken = world.b.run.equipment.peer_searches
            while taken.take(world.now):
                pass
            world.hosts["a"].crash()
            before, began = searches(world.b), world.now
            for connection in tuple(world.b.run.connections.known):
                connection._knock()
            await asyncio.sleep(1.5)
            began_since = searches(world.b) - before
            assert 2 < began_since <= budget.searches_per_second * (world.now - began) + 2

    virtual(main)


# -- forgers ------------------------------------------------------------------------------------------------------


class Tap(Path):
    """A second path of a connection, in the hands of somebody who repeats and invents datagrams: a relay, perhaps."""

    def __init__(self, pipe: DurablePipe) -> None:
        origin = pipe.connection.paths[0]
        super().__init__(replace(origin, plugin="tap", relayed=True), 0.0, UNKNOWN_ROUND_TRIP, UNKNOWN_ROUND_TRIP)
        self.sent: list[bytes] = []

    def start(self) -> None: ...
    def route(self, ids: tuple[bytes, ...]) -> None: ...
    def abandon(self) -> None: ...
    def close(self) -> None: ...

    @property
    def full(self) -> bool:
        return False

    def send(self, datagrams: Sequence[bytes]) -> None:
        self.sent += datagrams

    def inject(self, *datagrams: bytes) -> None:
        for data in datagrams:
            assert self.deliver(self, [data])


def carried(packets: Sequence[Captured], by: str, connection_id: bytes) -> list[bytes]:
    """Datagrams of a connection that this host has sent."""
    found = [seen.packet.payload for seen in packets if seen.sent and seen.host == by]
    return [data for data in found if isinstance(data, bytes) and data[1 : 1 + len(connection_id)] == connection_id]


@pytest.mark.parametrize("victim", ["client", "server"])
def test_who_repeats_and_invents_datagrams_on_a_second_path_gets_no_traffic(victim: str) -> None:
    async def main() -> None:
        async with World() as world:
            near, far = await durable(world)
            ours, theirs, seat = (near, far, "b") if victim == "client" else (far, near, "a")
            tap = Tap(ours)
            ours.connection.add(tap)
            packets = world.internet.capture()
            await theirs.send(b"to be recorded")
            assert await ours.recv(timeout=5) == b"to be recorded"
            await asyncio.sleep(1)
            recorded = carried(packets, seat, ours.connection.engine.id)
            assert recorded
            before = ours.connection.current
            for _ in range(20):
                tap.inject(*recorded, b"\x40" + ours.connection.engine.id + bytes(40))
                await asyncio.sleep(0.2)
            assert ours.connection.current is before
            await exchange(near, far)
            assert len(tap.sent) <= GREETINGS
            near.abort()
            far.abort()

    virtual(main)


# -- news ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True], ids=["all the time", "while nothing passes"])
def test_a_router_that_renumbers_all_the_time_makes_us_no_flooder(dark: bool) -> None:
    """The peer ends a connection whose news come faster than anybody moves."""

    async def main() -> None:
        async with World() as world:
            near, far = await durable(world)
            if dark:
                darkness(60.0)(world)
                await near.send(b"into the dark")
            context = world.a.run.equipment.context
            genuine = context.address
            for number in range(150):
                context.address = replace(genuine, brokers=(BrokerRef(f"mqtt://203.0.113.9:{2000 + number}", 0.04),))
                world.a.run.connections.address_changed()
                await asyncio.sleep(0.1)
            await asyncio.sleep(60)
            assert far.connection.end is None
            assert far.connection.remote.brokers == context.address.brokers
            near.abort()
            far.abort()

    virtual(main)


# -- how many -----------------------------------------------------------------------------------------------------


class Newcomers:
    """Peers with keys of their own whose first packets reach node b by paths that are proved."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.book: Connections = world.b.run.connections

    def come(self, name: str, first_id: bytes = b"", ip: str = "198.51.100.66") -> Connection | None:
        who = identity(name)
        engine = QuicChannels.client(who, self._world.b.node.public_key, fresh_bytes(16), self._world.now, Holdings())
        data = engine.datagrams(self._world.now)[0]
        if first_id:
            data = data[:5] + bytes((len(first_id),)) + first_id + data[6 + data[5] :]
        place = self._world.a.node.address
        remote = NodeAddress(who.public_key, (), place.attachments)
        origin = Origin(
            fresh_bytes(16), who.public_key, "direct", Transport.UDP,
            Endpoint.of("198.51.100.2", 1), Endpoint.of(ip, 1), relayed=False,
        )  # fmt: skip
        connection = self.book._accept(origin.peer_key, remote, origin.remote, data, 5.0)
        return connection if connection is not None and self.book._guests.seat(connection, origin.remote) else None


def test_keys_cost_nothing_but_connections_do() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            near, far = await durable(world)
            crowd = Newcomers(world)
            came = [crowd.come(f"m{number}") for number in range(2 * UNPROVED)]
            taken = [connection for connection in came if connection is not None]
            assert len(taken) == UNPROVED
            for number in range(2 * IDLE):
                for connection in taken:
                    connection.engine.state = State.OPEN  # as if all had proved themselves
                    crowd.book._guests.proved(connection)
                latest = crowd.come(f"n{number}")
                assert latest is not None  # the oldest without a pipe makes room
                taken.append(latest)
            assert len(crowd.book) <= IDLE + 2
            await exchange(near, far)
            near.abort()
            far.abort()

    virtual(main)


def test_a_stranger_with_many_keys_leaves_room_for_others() -> None:
    """All that may be unproved at once are of one host; then somebody comes from elsewhere."""

    async def main() -> None:
        async with World("public", "public") as world:
            crowd = Newcomers(world)
            came = [crowd.come(f"m{number}") for number in range(2 * UNPROVED)]
            assert sum(one is not None and one.end is None for one in came) == UNPROVED
            others = [crowd.come(f"h{number}", ip=f"203.0.113.{number + 1}") for number in range(5)]
            assert all(one is not None and one.end is None for one in others)
            assert sum(one is not None and one.end is None for one in came) == UNPROVED - 5

    virtual(main)


def test_all_peers_together_have_so_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each carries a pipe, so none makes room for that; a host that has many of them does for one that has none."""
    assert guests.CONNECTIONS == 1024
    monkeypatch.setattr(guests, "CONNECTIONS", 20)

    async def main() -> None:
        async with World("public", "public") as world:
            crowd = Newcomers(world)

            def come(name: str, ip: str) -> bool:
                connection = crowd.come(name, ip=ip)
                if connection is None:
                    return False
                connection.engine.state = State.OPEN
                crowd.book._guests.proved(connection)
                crowd.book.known.pipes[connection].add(Mock(unseen=False))
                return True

            came = [come(f"m{number}", "198.51.100.66") for number in range(40)]
            assert came == [number < 20 for number in range(40)]
            assert all(come(f"h{number}", f"203.0.113.{number + 1}") for number in range(5))
            assert len(crowd.book) == 20

    virtual(main)


def test_one_peer_has_eight_connections() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            crowd = Newcomers(world)
            for number in range(2 * PER_PEER):
                connection = crowd.come("mallory")
                assert (connection is not None) == (number < PER_PEER)
            assert crowd.come("somebody else") is not None

    virtual(main)


def test_of_a_peers_connections_the_one_out_of_reach_makes_room() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            crowd = Newcomers(world)
            came = [crowd.come("mallory") for _ in range(PER_PEER)]
            there = [connection for connection in came if connection is not None]
            there[5]._answered_at -= GONE + 1.0
            assert crowd.come("mallory") is not None
            assert [connection.end is None for connection in there] == [number != 5 for number in range(PER_PEER)]

    virtual(main)


def test_a_peer_that_never_says_good_bye_gets_in_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old connections wait for an hour, and it accepts nobody, so it cannot be asked."""
    few = 2
    monkeypatch.setattr("warpgate.core.connection.guests.PER_PEER", few)

    async def main() -> None:
        async with World("public", "public", config_a=Config(accept=False)) as world:
            for _ in range(few + 2):
                near, far = await durable(world)
                await exchange(near, far)
                await far.send(b"hello?")
                world.hosts["a"].crash()
                await world.a.node.close()
                await asyncio.sleep(40)
                world.hosts["a"].boot()
                await world.a.node.start()
            assert len(world.b.run.connections) == few

    virtual(main, limit=3000)


def test_who_names_an_id_of_somebody_elses_connection_takes_nothing_from_it() -> None:
    """Ids are in clear, and a client chooses the one in its first packet."""

    async def main() -> None:
        async with World() as world:
            near, far = await durable(world)
            rogue = Newcomers(world).come("mallory", far.connection.engine.id)
            assert rogue is not None
            alone(far)
            moved("a", 77)(world)
            await asyncio.sleep(5)
            await exchange(near, far)
            rogue.close()
            moved("a", 78)(world)
            await asyncio.sleep(5)
            began = world.now
            await exchange(near, far)
            assert world.now - began < 1.0
            near.abort()
            far.abort()

    virtual(main)


def test_a_path_of_one_peer_is_none_for_the_connection_of_another_whatever_its_datagrams_name() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            near, far = await durable(world)
            there = far.connection.paths
            path = SimpleNamespace(origin=SimpleNamespace(peer_key=identity("m").public_key, remote="there"))
            data = b"\x40" + far.connection.engine.id + bytes(1200)
            assert not world.b.run.connections._claim(world.a.node.address, path, [data])
            assert far.connection.paths == there
            near.abort()
            far.abort()

    virtual(main)


def test_a_session_for_a_path_becomes_none_for_a_pipe() -> None:
    """b lets nobody in. It has called a, so a may bring paths for that connection, and pipes as little as others."""

    async def main() -> None:
        async with World("public", "public", config_b=Config(allow=frozenset())) as world:
            pipe = await world.b.node.connect(world.a.node.address, durable=True)
            rogue, session = Stranger(world), fresh_bytes(16)
            rogue.identity = identity("a")
            for sequence, mode in enumerate(("path", "datagram", "stream"), 1):
                punch = ("udp_punch", Punch(1))
                rogue.publish(rogue.offer(punch, session=session, sequence=sequence, mode=mode))
                await asyncio.sleep(0.2)
                assert world.b.run.sessions.get(session).mode is Mode.PATH
            refused = [event.reason for event in world.b.said(SignalRefused)]
            assert refused == ["a session for a path is none for a pipe"] * 2
            pipe.abort()
            rogue.close()

    virtual(main)


def test_who_is_not_let_in_begins_no_connection_by_a_path_that_it_has() -> None:
    async def main() -> None:
        async with World("public", "public", config_b=Config(allow=frozenset())) as world:
            assert Newcomers(world).come("mallory") is None
            assert len(world.b.run.connections) == 0
            [refused] = world.b.said(StrangerRefused)
            assert "not among those allowed in" in refused.reason

    virtual(main)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_first_packet_with_a_short_id_is_none(size: int) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            data = b"\xc0\0\0\0\1" + bytes((size,)) + bytes(size) + bytes((DURABLE_ID_SIZE,)) + bytes(1300)
            path = SimpleNamespace(
                known_round_trip=UNKNOWN_ROUND_TRIP,
                origin=SimpleNamespace(peer_key=identity("m").public_key, remote="there"),
            )
            assert not world.b.run.connections._claim(world.a.node.address, path, [data])
            assert len(world.b.run.connections) == 0

    virtual(main)


def test_paths_that_nobody_uses_push_out_those_of_the_same_peer_first() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            near, _ = await durable(world)
            book = world.b.run.connections
            closed: list[bytes] = []

            class Unused(Tap):
                def __init__(self, session: Session, _link: object) -> None:
                    super().__init__(near)
                    self.origin = replace(self.origin, peer_key=session.peer_key)

                def close(self) -> None:
                    closed.append(self.origin.peer_key)

            book._path = Unused
            honest = hosted_by(world.b, 1, identity("honest").public_key)
            mallory = hosted_by(world.b, 2, identity("mallory").public_key)
            book.take(honest, None)
            for _ in range(200):
                book.take(mallory, None)
            assert closed == [mallory.peer_key] * (200 - UNCLAIMED_PER_PEER)
            for number in range(200):
                book.take(hosted_by(world.b, 3, number.to_bytes(33, "big")), None)
            assert len(book._unclaimed) == UNCLAIMED
            await asyncio.sleep(UNCLAIMED_PATIENCE + 0.1)
            assert len(book._unclaimed) == 0
            near.abort()
            del book._path

    virtual(main)


# -- the paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(3000),
        b"\xff\xff" + bytes(3000),
        b"GET / HTTP/1.1\r\n",
        b"\0\x15" + bytes(21),
        b"\x04\xb0" + bytes(1200),
    ],
    ids=["nothing", "too much", "another protocol", "small", "of nobody"],
)
def test_a_tcp_path_that_carries_something_else_is_ended(garbage: bytes) -> None:
    async def main() -> None:
        async with World("eim-apdf+noudp", "public") as world:
            near, far = await durable(world)
            [path] = near.connection._paths
            assert isinstance(path, TcpPath)
            packets = world.internet.capture()
            await path._stream.send(garbage)
            await asyncio.sleep(1)
            if garbage[:2] in (b"\0\x15", b"\x04\xb0"):
                assert world.b.said(PathLost) == []  # datagrams that do not open: as on a UDP path
            else:
                assert len(world.b.said(PathLost)) == 1
                assert len(packets) < 400
            await exchange(near, far)
            near.abort()
            far.abort()

    virtual(main)


def test_a_tcp_path_that_comes_byte_by_byte_is_as_good_as_any() -> None:
    async def main() -> None:
        async with World("eim-apdf+noudp", "public") as world:
            near, far = await durable(world)
            [path] = near.connection._paths
            assert isinstance(path, TcpPath)
            send = path._stream.send

            async def slowly(data: bytes) -> None:
                for byte in data:
                    await send(bytes((byte,)))

            path._stream.send = slowly
            await exchange(near, far)
            near.abort()
            far.abort()

    virtual(main)


def test_a_peer_that_says_nonsense_of_where_it_is_ends_its_own_connection() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            for news in (
                b"\1" * 50,
                replace(world.a.node.address, public_key=identity("x").public_key).encode(),
            ):
                near, far = await durable(world)
                near.connection.engine.say_news(news)
                near.connection.soon()
                await asyncio.sleep(1)
                assert far.connection.end is not None
                assert len(world.b.run.connections) == 0
            assert world.loop_errors == []

    virtual(main)


# -- what an offer of a connection sends --------------------------------------------------------------------------


def test_the_first_words_of_a_connection_cost_a_bystander_little() -> None:
    """A client's first packets travel in the offer, and the answer to them to wherever its sender says it is."""

    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            packets = world.internet.capture()
            victims = [mallory.attachment(f"203.1.113.{number}", port=5000) for number in range(1, 9)]
            engine = QuicChannels.client(
                mallory.identity, world.b.node.public_key, fresh_bytes(16), world.now, Holdings()
            )
            flight = tuple(engine.datagrams(world.now))
            offer = mallory.offer(
                ("udp_punch", Punch(1)), address=mallory.address(*victims), mode="path", flight=flight
            )
            mallory.publish(offer)
            await asyncio.sleep(40)
            sent = [
                len(seen.packet.payload)
                for seen in packets
                if seen.sent and seen.host == "b" and str(seen.packet.flow.destination.ip).startswith("203.1.113.")
            ]
            assert 8 * 12 < len(sent) <= 8 * (12 + 4)
            assert sum(sent) <= 37_000
            mallory.close()

    virtual(main)


def test_a_path_that_is_found_in_the_moment_of_the_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be kept alive for ever, by consent that both ends give."""

    async def main() -> None:
        async with World("public", "public") as world:
            near, _ = await durable(world)
            closed: list[Path] = []

            class Found(Tap):
                def close(self) -> None:
                    closed.append(self)

            class Search:
                refusal = None

                def __init__(self, *_: object, **__: object) -> None: ...

                async def run(self, _patience: float) -> Path:
                    task.cancel()
                    return Found(near)

            monkeypatch.setattr("warpgate.core.search.seeker.Initiator", Search)
            seeker = near.connection.seeker
            assert isinstance(seeker, PathSeeker)
            task = asyncio.ensure_future(seeker._search(["direct"], lambda: True))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(closed) == 1
            near.abort()

    virtual(main)
