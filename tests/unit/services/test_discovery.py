"""Discovery in a virtual internet: every kind of NAT, servers that die, lie or never answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from stun_server import PORT, StunServer

from warpgate.config import Timing
from warpgate.errors import ConfigError, ServiceError
from warpgate.events import Event, MappingLearnt, ServerFailed
from warpgate.lab.nat import NatSpec
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.net.network import UdpSocket
from warpgate.services.discovery import Discovery
from warpgate.services.stun_place import Learnt
from warpgate.services.stun_udp import plausible
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, MemoryRouter, PathSpec

OUTSIDE, INSIDE = "198.51.100.7", "192.168.1.2"
LOCAL = Endpoint.of(INSIDE, 20000)
DELAY = 0.05
RTT = 2 * DELAY


class World:
    """Two STUN servers (the first can do RFC 5780) and a laptop behind a router."""

    def __init__(self, spec: NatSpec | None = None, *more: str) -> None:
        self.internet = MemoryInternet(seed=3, path=PathSpec(delay=DELAY))
        self.first_host = self.internet.host("stun1", "203.0.113.1", "203.0.113.2")
        self.second_host = self.internet.host("stun2", "203.0.114.1")
        self.router: MemoryRouter | None = None
        if spec is None:
            self.laptop = self.internet.host("laptop", OUTSIDE)
        else:
            self.router = self.internet.router("home", OUTSIDE, spec)
            self.laptop = self.internet.host("laptop", INSIDE, *more, behind=self.router)
        self.servers: list[StunServer] = []
        self.local = Endpoint.of(OUTSIDE if spec is None else INSIDE, 20000)

    @property
    def site(self) -> MemoryNetwork | MemoryRouter:
        return self.laptop if self.router is None else self.router

    def serve(self, **kind: Any) -> None:
        self.servers = [
            StunServer(self.first_host, "203.0.113.1", "203.0.113.2", **kind),
            StunServer(self.second_host, "203.0.114.1", **kind),
        ]


class Owner:
    """A node's part: one listening socket on each transport."""

    def __init__(self, world: World, servers: list[str], tcp: bool = True) -> None:
        self.world = world
        self.events: list[Event] = []
        self.changes: list[Learnt] = []
        self.strays: list[bytes] = []
        self.discovery = Discovery(world.laptop, servers, Timing(), self.events.append, self._changed, random.Random(5))
        self.sock = world.laptop.open_udp(world.local, self._received)
        self.listener = world.laptop.listen_tcp(world.local, lambda stream: stream.abort())
        self.discovery.add(self.sock, world.local.port if tcp else None)
        self.task = asyncio.ensure_future(self.discovery.run())

    def _changed(self) -> None:
        self.changes.append(self.learnt)

    def _received(self, data: bytes, source: SockAddr) -> None:
        if not self.discovery.receive(self.sock, data, source):
            self.strays.append(data)

    @property
    def learnt(self) -> Learnt:
        return self.discovery.learnt(self.world.local)

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def open_streams(self) -> list[Endpoint | None]:
        """To whom, in order."""
        open_now = [entry for entry in self.world.internet.open_sockets() if entry.host == "laptop"]
        return sorted((entry.remote for entry in open_now if entry.kind == "stream"), key=str)

    async def close(self) -> None:
        self.listener.close()
        self.task.cancel()
        await asyncio.wait([self.task])
        self.discovery.close()
        self.sock.close()


@asynccontextmanager
async def owner(world: World, *servers: str, tcp: bool = True) -> AsyncIterator[Owner]:
    """Nothing of the laptop's may be left open afterwards."""
    running = Owner(world, list(servers or ("203.0.113.1", "203.0.114.1")), tcp)
    try:
        yield running
    finally:
        await running.close()
        for server in world.servers:
            server.close()
        await asyncio.sleep(1)
        left = [str(entry) for entry in world.internet.open_sockets() if entry.host == "laptop"]
        assert not left
        assert len(asyncio.all_tasks()) == 1


def now() -> float:
    return asyncio.get_running_loop().time()


def edm(mapping: Mapping, kind: Assignment = Assignment.RANDOM, step: int = 0) -> NatSpec:
    return NatSpec(mapping=mapping, assignment=PortAssignment(kind, step=step))


NATS = [
    (None, Mapping.NONE, Filtering.EIF, Assignment.PRESERVING),
    (NatSpec(filtering=Filtering.EIF), Mapping.EIM, Filtering.EIF, Assignment.PRESERVING),
    (NatSpec(filtering=Filtering.ADF), Mapping.EIM, Filtering.ADF, Assignment.PRESERVING),
    (NatSpec(filtering=Filtering.APDF), Mapping.EIM, Filtering.APDF, Assignment.PRESERVING),
    (edm(Mapping.ADM), Mapping.ADM, Filtering.APDF, Assignment.RANDOM),
    (edm(Mapping.APDM), Mapping.APDM, Filtering.APDF, Assignment.RANDOM),
    (edm(Mapping.APDM, Assignment.SEQUENTIAL, 1), Mapping.APDM, Filtering.APDF, Assignment.SEQUENTIAL),
    (edm(Mapping.APDM, Assignment.SEQUENTIAL, -2), Mapping.APDM, Filtering.APDF, Assignment.SEQUENTIAL),
]


@pytest.mark.parametrize(("spec", "mapping", "filtering", "assignment"), NATS)
def test_every_nat_is_recognised(
    spec: NatSpec | None, mapping: Mapping, filtering: Filtering, assignment: Assignment
) -> None:
    async def story() -> None:
        world = World(spec)
        world.serve()
        async with owner(world) as me:
            await me.discovery.first(1.5)
            assert now() == pytest.approx(2 * RTT), "one round trip for UDP, two for TCP, all at once"
            assert str(me.learnt.reflexive) == OUTSIDE
            assert me.learnt.udp_mapped is not None
            assert me.learnt.tcp_mapped is not None
            await asyncio.sleep(6)
            nat = me.learnt.nat
            assert (nat.mapping, nat.filtering, nat.assignment.kind) == (mapping, filtering, assignment)
            assert nat.udp_blocked is False
            assert nat.mapping_samples >= 2
            if spec is not None and spec.assignment.step:
                assert nat.assignment.step == spec.assignment.step
            assert not me.strays

    run_virtual(story())


def test_the_mapped_ports_are_those_of_the_listening_sockets() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await me.discovery.first(1.5)
            assert (me.learnt.udp_mapped, me.learnt.tcp_mapped) == (20000, 20000), "the router preserves ports"
            learnt = {(event.transport, event.mapped) for event in me.told(MappingLearnt)}
            assert learnt == {("udp", f"{OUTSIDE}:20000"), ("tcp", f"{OUTSIDE}:20000")}

    run_virtual(story())


def test_mappings_are_kept_alive_and_changes_are_noticed() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(10)
            changes, asked = len(me.changes), Counter_of(world)
            await asyncio.sleep(3600)
            assert len(me.changes) == changes, "nothing changed, so nothing is told"
            udp, tcp = (after - before for after, before in zip(Counter_of(world), asked, strict=True))
            assert 3600 / 26 - 2 <= udp <= 3600 / 20 + 2, "one server, every 20 to 26 s"
            assert 2 * (3600 / 26 - 2) <= tcp <= 2 * (3600 / 20 + 2)

    run_virtual(story(), limit=10_000)


def Counter_of(world: World) -> tuple[int, int]:  # noqa: N802 - reads like the class
    return (
        sum(server.requests["udp"] for server in world.servers),
        sum(server.requests["tcp"] for server in world.servers),
    )


def test_udp_blocked_is_said_when_tcp_answers_and_udp_does_not() -> None:
    async def story() -> None:
        world = World(NatSpec(udp_blocked=True))
        world.serve()
        async with owner(world) as me:
            await me.discovery.first(1.5)
            assert now() == pytest.approx(1.5)
            assert me.learnt == Learnt(me.learnt.reflexive, None, 20000, me.learnt.nat)
            assert str(me.learnt.reflexive) == OUTSIDE, "TCP tells it, too"
            assert me.learnt.nat.udp_blocked is None, "not yet known"
            await asyncio.sleep(5)
            assert me.learnt.nat.udp_blocked is True
            assert me.learnt.nat.mapping is Mapping.EIM, "what is known of TCP"

    run_virtual(story())


def test_offline_nothing_is_waited_for_and_nothing_claimed() -> None:
    async def story() -> None:
        world = World()
        world.laptop.host.up = False
        async with owner(world) as me:
            await me.discovery.first(1.5)
            assert now() < 0.1
            assert me.learnt == Learnt(None, None, None, NatProfile())
            assert all("no route" in event.reason for event in me.told(ServerFailed))

    run_virtual(story())


def test_dead_servers_are_not_waited_for_while_one_answers() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        world.internet.partition(world.site, world.first_host)
        async with owner(world) as me:
            await me.discovery.first(1.5)
            assert now() == pytest.approx(2 * RTT)
            await asyncio.sleep(30)
            failures = [(event.server, event.reason.split()[0]) for event in me.told(ServerFailed)]
            assert sorted(failures) == [(f"203.0.113.1:{PORT}", "TCP"), (f"203.0.113.1:{PORT}", "UDP")], (
                "told once each, although it is asked again"
            )

    run_virtual(story())


def test_interfaces_that_lead_nowhere_are_not_waited_for() -> None:
    async def story() -> None:
        world = World(NatSpec(), "172.17.0.1")
        world.serve()
        for server in world.servers:
            server.deaf_to = {30000}
        async with owner(world) as me:
            bridge = world.laptop.open_udp(Endpoint.of("172.17.0.1", 30000), lambda data, source: None)
            me.discovery.add(bridge, None)
            await me.discovery.first(1.5)
            assert now() == pytest.approx(2 * RTT)
            me.discovery.remove(bridge.local)
            bridge.close()

    run_virtual(story())


def test_all_servers_dead() -> None:
    async def story() -> None:
        world = World(NatSpec())
        async with owner(world) as me:
            await me.discovery.first(1.5)
            assert now() == pytest.approx(1.5)
            assert me.learnt == Learnt(None, None, None, NatProfile())
            await asyncio.sleep(5)
            assert me.learnt.nat.udp_blocked is None, "nothing got through, so UDP is not to blame"
            with pytest.raises(ServiceError, match="no STUN server tells"):
                await me.discovery.map_udp(me.sock)
            world.serve()
            await asyncio.sleep(70)
            assert (me.learnt.udp_mapped, me.learnt.tcp_mapped) == (20000, 20000), "they came back"

    run_virtual(story())


def test_one_liar_among_three_is_outvoted() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        world.servers[0].lie = Endpoint.of("8.8.8.8", 53)
        world.servers.append(StunServer(world.internet.host("stun3", "203.0.115.1"), "203.0.115.1"))
        async with owner(world, "203.0.113.1", "203.0.114.1", "203.0.115.1", tcp=False) as me:
            world.servers[0]._addresses = ("203.0.113.1",)
            await asyncio.sleep(1)
            assert (str(me.learnt.reflexive), me.learnt.udp_mapped) == (OUTSIDE, 20000)

    run_virtual(story())


@pytest.mark.parametrize("transport", ["", "?transport=tcp"])
def test_a_name_s_second_address_is_asked_when_the_first_is_dead(transport: str) -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        world.internet.name("stun.example", "203.0.113.99", "203.0.114.1")
        async with owner(world, f"stun.example{transport}") as me:
            await me.discovery.first(1.5)
            assert now() == pytest.approx(0.25 + (2 if transport else 1) * RTT, abs=RTT + 0.01)
            assert str(me.learnt.reflexive) == OUTSIDE
            assert (await me.discovery.sample_tcp(LOCAL.ip))[0] if transport else True
        world.internet.name("both.example", "203.0.114.1", "203.0.113.1")
        async with owner(world, "both.example") as me:
            before = world.servers[0].requests["udp"]
            await asyncio.sleep(5)
            assert world.servers[0].requests["udp"] == before, "the first answers: the second is the same server"

    run_virtual(story())


@pytest.mark.parametrize("slow", ["first_host", "second_host"])
def test_who_gives_up_a_sample_of_tcp_at_any_moment_leaves_no_connection(slow: str) -> None:
    """One server is slow, so that it is waited for when the other one has answered."""

    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        world.internet.set_path(world.site, getattr(world, slow), PathSpec(delay=10 * DELAY))
        async with owner(world) as me:
            await asyncio.sleep(5)
            before = me.open_streams
            for hundredths in range(1, 60, 2):
                asking = asyncio.ensure_future(me.discovery.sample_tcp(LOCAL.ip))
                await asyncio.sleep(hundredths / 100)
                asking.cancel()
                await asyncio.wait([asking])
                if not asking.cancelled():
                    asking.result()[1].abort()
            await asyncio.sleep(3)
            assert me.open_streams == before

    run_virtual(story())


USELESS = [
    "198.51.100.7:0", "0.0.0.0:5", "127.0.0.1:20000", "224.0.0.1:5", "240.0.0.1:5", "255.255.255.255:5",
    f"{INSIDE}:20000", "10.9.9.9:5", "169.254.1.1:5", "100.64.0.1:5", "192.0.0.1:5", "[2001:db8::1]:5",
    "[::ffff:10.0.0.1]:5",
]  # fmt: skip


@pytest.mark.parametrize("lie", USELESS)
def test_a_useless_answer_is_silence_and_is_told(lie: str) -> None:
    """Over both transports; the server that was asked beside it counts alone."""

    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        world.servers[0].lie = Endpoint.parse(lie)
        async with owner(world) as me:
            await asyncio.sleep(1)
            learnt = me.learnt
            assert (str(learnt.reflexive), learnt.udp_mapped, learnt.tcp_mapped) == (OUTSIDE, 20000, 20000)
            told = [event.reason for event in me.told(ServerFailed) if event.server == "203.0.113.1:3478"]
            assert len(told) == 2
            assert all("of no use" in reason or "translator" in reason for reason in told)
            assert (await me.discovery.map_udp(me.sock)).ip == Endpoint.of(OUTSIDE, 1).ip
        async with owner(world, "203.0.113.1") as me:
            await me.discovery.first(1.5)
            assert now() < 8
            assert me.learnt == Learnt(None, None, None, NatProfile())

    run_virtual(story())


@pytest.mark.parametrize("lie", ["10.9.9.9:20000", "8.8.8.8:20000"])
def test_a_liar_that_is_listed_first_is_outvoted_by_one_server_with_two_addresses(lie: str) -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        world.servers[1].lie = Endpoint.parse(lie)
        async with owner(world, "203.0.114.1", "203.0.113.1") as me:
            await asyncio.sleep(6)
            learnt = me.learnt
            assert (str(learnt.reflexive), learnt.udp_mapped) == (OUTSIDE, 20000)
            assert learnt.nat.mapping is Mapping.EIM
            assert not learnt.nat.pooled

    run_virtual(story())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_server_that_makes_up_ports_does_not_make_a_nat_symmetric(place: int) -> None:
    """Nor is it asked what it sees of a fresh port: a peer would be told that."""

    async def story() -> None:
        world = World(NatSpec(assignment=PortAssignment(Assignment.RANDOM)))
        hosts = [world.internet.host(f"one of {n}", f"203.0.115.{n}") for n in range(3)]
        world.servers = [StunServer(host, str(host.host.addresses[0])) for host in hosts]
        world.servers[place].lie = Endpoint.of(OUTSIDE, 7777)
        async with owner(world, *(str(host.host.addresses[0]) for host in hosts)) as me:
            await asyncio.sleep(6)
            assert me.learnt.nat.mapping is Mapping.EIM
            assert me.learnt.udp_mapped not in (None, 7777)

            def received(data: bytes, source: SockAddr) -> None:
                me.discovery.receive(sock, data, source)

            sock = world.laptop.open_udp(Endpoint.of(INSIDE, 0), received)
            assert {seen.mapped.port for seen in await me.discovery.sample_udp(sock)} != {7777}
            assert (await me.discovery.map_udp(sock)).port != 7777
            sock.close()

    run_virtual(story())


@pytest.mark.parametrize("where", ["inside", "between"])
@pytest.mark.parametrize("spec", [NatSpec(), edm(Mapping.APDM)], ids=["eim", "apdm"])
def test_servers_of_nearer_realms_are_not_compared_with_those_outside(where: str, spec: NatSpec) -> None:
    """Two, near and so quicker, and listed first. They do not keep the outer mapping open either."""

    async def story() -> None:
        world = World()
        carrier = world.internet.router("carrier", "198.51.100.8", NatSpec())
        home = world.internet.router("home", "100.64.0.7", spec, behind=carrier)
        world.laptop = world.internet.host("laptop at home", INSIDE, behind=home)
        world.local = LOCAL
        world.serve()
        near = {"inside": ("192.168.1.53", home), "between": ("100.64.0.53", carrier)}[where]
        hosts = [world.internet.host(f"near {last}", f"{near[0][:-1]}{last}", behind=near[1]) for last in (3, 4)]
        nearby = [f"{near[0][:-1]}{last}" for last in (3, 4)]
        world.servers += [StunServer(host, ip) for host, ip in zip(hosts, nearby, strict=True)]
        async with owner(world, *nearby, "203.0.113.1", "203.0.114.1") as me:
            await me.discovery.first(1.5)
            assert str(me.learnt.reflexive) == "198.51.100.8", "the nearer answers are not enough"
            await asyncio.sleep(8)
            learnt = me.learnt
            assert learnt.nat.mapping is spec.mapping
            assert learnt.nat.filtering is Filtering.APDF
            assert learnt.tcp_mapped is not None
            before = [server.requests["udp"] for server in world.servers]
            await asyncio.sleep(120)
            assert str(me.learnt.reflexive) == "198.51.100.8"
            assert me.learnt.udp_mapped == learnt.udp_mapped
            asked = [server.requests["udp"] - was for server, was in zip(world.servers, before, strict=True)]
            assert sum(asked[:2]) >= 4, "the mapping outside is kept open"
            assert max(asked[2:]) <= 1
            await fresh_ports_are_seen_outside(me, "198.51.100.8")
            world.servers[1].close()  # one server outside is left, and is further away
            await asyncio.sleep(60)
            await fresh_ports_are_seen_outside(me, "198.51.100.8")

    run_virtual(story())


async def fresh_ports_are_seen_outside(me: Owner, outside: str) -> None:
    """What a server inside our NAT sees of them, which is the first to answer, is of no use to a peer."""
    mapped, stream = await me.discovery.map_tcp(Endpoint(me.sock.local.ip, 0))
    stream.abort()
    assert str(mapped.ip) == outside
    seen, stream = await me.discovery.sample_tcp(me.sock.local.ip)
    stream.abort()
    assert {str(each.mapped.ip) for each in seen} == {outside}
    assert {str(each.mapped.ip) for each in await me.discovery.sample_udp(me.sock)} == {outside}


def test_a_slow_name_delays_nobody_and_a_name_that_comes_up_is_used() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world, "stun.example", "203.0.114.1") as me:
            await me.discovery.first(1.5)
            assert now() == pytest.approx(2 * RTT)
            assert "stun.example" in me.told(ServerFailed)[0].server
            world.internet.name("stun.example", "203.0.113.1", "2001:db8::1")
            await asyncio.sleep(20)
            assert f"203.0.113.1:{PORT}" in {event.server for event in me.told(MappingLearnt)}
            assert me.learnt.nat.filtering is Filtering.APDF

    run_virtual(story())


@pytest.mark.parametrize(("suffix", "udp", "tcp"), [("?transport=udp", 20000, None), ("?transport=tcp", None, 20000)])
def test_servers_are_asked_only_over_what_they_serve(suffix: str, udp: int | None, tcp: int | None) -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve(udp=udp is not None, tcp=tcp is not None)
        async with owner(world, f"203.0.113.1{suffix}", f"203.0.114.1{suffix}") as me:
            await me.discovery.first(1.5)
            assert now() < 0.3
            await asyncio.sleep(10)
            assert (me.learnt.udp_mapped, me.learnt.tcp_mapped) == (udp, tcp)
            assert not me.told(ServerFailed)
            assert me.learnt.nat.udp_blocked is (False if udp else None), "nobody was asked over UDP"

    run_virtual(story())


def test_a_tcp_connection_that_ends_is_opened_again_from_the_same_port() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(1)
            for server in world.servers:
                server.hang_up()
            await asyncio.sleep(4)
            assert me.learnt.tcp_mapped == 20000
            streams = [stream for server in world.servers for stream in server.connections]
            assert [stream.remote.port for stream in streams] == [20000, 20000]
            for server in world.servers:
                server.close()
            await asyncio.sleep(10)
            assert me.learnt.tcp_mapped is None, "nobody vouches for it now"

    run_virtual(story())


def test_servers_that_end_idle_connections_like_coturn_change_nothing() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(10)
            events, changes = len(me.events), len(me.changes)
            for _ in range(60):
                await asyncio.sleep(60)
                for server in world.servers:
                    assert len(server.connections) == 1, "dialled again at once"
                    server.hang_up()
            assert (len(me.events), len(me.changes)) == (events, changes)

    run_virtual(story(), limit=10_000)


def test_a_server_that_hangs_up_every_few_seconds_is_not_hammered() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world, "203.0.113.1") as me:
            dialled = 0
            for _ in range(1200):
                await asyncio.sleep(3)
                dialled += len(world.servers[0].connections)
                world.servers[0].hang_up()
            assert dialled < 200
            assert me.learnt.tcp_mapped == 20000
            assert len([event for event in me.told(ServerFailed) if "after only" in event.reason]) == 1

    run_virtual(story(), limit=10_000)


def test_only_two_tcp_connections_are_kept() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        world.servers.append(StunServer(world.internet.host("stun3", "203.0.115.1"), "203.0.115.1"))
        async with owner(world, "203.0.113.1", "203.0.114.1", "203.0.115.1"):
            await asyncio.sleep(1)
            open_now = [entry for entry in world.internet.open_sockets() if entry.host == "laptop"]
            assert sum(entry.kind == "stream" for entry in open_now) == 2
            for server in world.servers:
                if server.connections:
                    server.close()
                    break
            await asyncio.sleep(30)
            open_now = [entry for entry in world.internet.open_sockets() if entry.host == "laptop"]
            assert sum(entry.kind == "stream" for entry in open_now) == 2, "the third stands in"

    run_virtual(story())


def test_a_server_that_speaks_no_stun_is_given_up() -> None:
    async def story() -> None:
        world = World()
        web = world.first_host.listen_tcp(Endpoint.of("203.0.113.1", PORT), Babbler.accept)
        async with owner(world, "203.0.113.1?transport=tcp") as me:
            await me.discovery.first(1.5)
            assert "not a STUN server" in me.told(ServerFailed)[0].reason
            await asyncio.sleep(120)
            assert len(Babbler.streams) < 12, "and not hammered"
        web.close()

    run_virtual(story())


class Babbler:
    streams: list[Any] = []  # noqa: RUF012 - a test's own
    tasks: list[Any] = []  # noqa: RUF012

    @classmethod
    def accept(cls, stream: Any) -> None:
        cls.streams.append(stream)
        cls.tasks.append(asyncio.ensure_future(stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")))


def test_a_fresh_udp_port_is_mapped_in_one_round_trip() -> None:
    async def story() -> None:
        world = World(edm(Mapping.APDM, Assignment.SEQUENTIAL, 1))
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(10)
            fresh: list[UdpSocket] = []
            fresh.append(
                world.laptop.open_udp(
                    Endpoint.of(INSIDE, 0),
                    lambda data, source: me.discovery.receive(fresh[0], data, source) and None,
                )
            )
            before = now()
            mapped = await me.discovery.map_udp(fresh[0])
            assert str(mapped.ip) == OUTSIDE
            assert now() - before == pytest.approx(RTT)
            before = now()
            samples = await me.discovery.sample_udp(fresh[0])
            assert now() - before == pytest.approx(RTT)
            assert len(samples) == 3, "two servers, one of them with a second address"
            assert all(seen.local == fresh[0].local for seen in samples)
            fresh[0].close()

    run_virtual(story())


def test_samples_wait_little_for_the_slow() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(10)
            world.internet.partition(world.site, world.first_host)
            before = now()
            assert len(await me.discovery.sample_udp(me.sock)) == 1
            assert now() - before == pytest.approx(2 * RTT)

    run_virtual(story())


def test_a_fresh_tcp_port_is_mapped_and_kept_by_its_connection() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(10)
            before = now()
            mapped, stream = await me.discovery.map_tcp(Endpoint.of(INSIDE, 0))
            assert now() - before == pytest.approx(2 * RTT)
            assert str(mapped.ip) == OUTSIDE
            assert mapped.port == stream.local.port, "the router preserves ports"
            assert stream.local.port != LOCAL.port
            stream.abort()

    run_virtual(story())


def test_mapping_a_tcp_port_fails_with_the_reasons() -> None:
    async def story() -> None:
        world = World(NatSpec())
        async with owner(world) as me:
            with pytest.raises(ServiceError, match="connection refused"):
                await me.discovery.map_tcp(Endpoint.of(INSIDE, 0))
        async with owner(World(), "stun.example") as me:
            with pytest.raises(ServiceError, match="no STUN server for TCP"):
                await me.discovery.map_tcp(Endpoint.of(INSIDE, 0))

    run_virtual(story())


def test_after_a_change_of_networks_everything_is_asked_again() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(10)
            before = Counter_of(world)
            me.discovery.refresh()
            await asyncio.sleep(1)
            udp, tcp = (after - earlier for after, earlier in zip(Counter_of(world), before, strict=True))
            assert udp >= 4, "both servers, the second address, and the filtering test"
            assert tcp == 2
            assert me.learnt.tcp_mapped == 20000

    run_virtual(story())


def test_a_removed_socket_is_forgotten() -> None:
    async def story() -> None:
        world = World(NatSpec())
        world.serve()
        async with owner(world) as me:
            await asyncio.sleep(10)
            me.discovery.remove(LOCAL)
            me.discovery.remove(LOCAL)
            assert me.learnt == Learnt(None, None, None, NatProfile())
            before = Counter_of(world)
            await asyncio.sleep(60)
            assert Counter_of(world) == before
            me.discovery.add(me.sock, None)
            await asyncio.sleep(1)
            assert me.learnt.udp_mapped == 20000, "added again, it is asked at once"

    run_virtual(story())


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.1001, 0.15, 0.2, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("servers", ["answer", "refuse", "are silent"])
def test_closing_at_any_moment_leaves_nothing_open(moment: float, servers: str) -> None:
    async def story() -> None:
        world = World(NatSpec())
        if servers != "refuse":
            world.serve()
        for server in world.servers:
            server.silent = servers == "are silent"
        async with owner(world):
            await asyncio.sleep(moment)

    run_virtual(story())


# -- other servers -----------------------------------------------------------------------------------------------

FIRST, SECOND, THIRD, DEAD = "203.0.113.1", "203.0.114.1", "203.0.115.1", "203.0.116.1"
SLOW = "203.0.117.1", "203.0.117.2"


def with_a_third(spec: NatSpec | None) -> World:
    world = World(spec)
    third = world.internet.host("stun3", THIRD)
    world.internet.host("nobody", DEAD)
    world.serve()
    world.servers.append(StunServer(third, THIRD))
    return world


@pytest.mark.parametrize("spec", [NatSpec(), edm(Mapping.APDM)], ids=["eim", "apdm"])
def test_servers_that_leave_are_asked_until_others_have_told(spec: NatSpec) -> None:
    async def story() -> None:
        world = with_a_third(spec)
        async with owner(world, FIRST, SECOND) as me:
            await asyncio.sleep(8)
            before, told = me.learnt, len(me.changes)
            assert before.nat.filtering is Filtering.APDF
            me.discovery.follow([THIRD])
            assert me.learnt == before
            await asyncio.sleep(6)
            assert all(learnt.reflexive and learnt.udp_mapped for learnt in me.changes[told:])
            assert (me.learnt.reflexive, me.learnt.nat.mapping, me.learnt.nat.filtering) == (
                before.reflexive,
                before.nat.mapping,
                before.nat.filtering,
            )
            assert me.open_streams == [Endpoint.of(THIRD, PORT)]
            asked = [dict(server.requests) for server in world.servers[:2]]
            await asyncio.sleep(300)
            assert [dict(server.requests) for server in world.servers[:2]] == asked, "left alone"
            assert world.servers[2].requests["udp"] >= 10
            if spec.mapping is Mapping.EIM:
                assert (me.learnt.udp_mapped, me.learnt.tcp_mapped) == (20000, 20000)

    run_virtual(story())


def test_dead_servers_take_nobodys_place() -> None:
    async def story() -> None:
        world = with_a_third(NatSpec())
        async with owner(world, FIRST, SECOND) as me:
            await asyncio.sleep(8)
            before = me.learnt
            me.discovery.follow([DEAD, "gone.test"])
            await asyncio.sleep(300)
            assert me.learnt == before
            world.router.renumber("198.51.100.9")  # type: ignore[union-attr]
            me.discovery.refresh()
            await asyncio.sleep(30)
            assert str(me.learnt.reflexive) == "198.51.100.9"
            me.discovery.follow([DEAD, THIRD])
            await asyncio.sleep(30)
            assert me.open_streams == [Endpoint.of(THIRD, PORT)]
            assert str(me.learnt.reflexive) == "198.51.100.9"

    run_virtual(story())


def test_a_server_that_both_lists_have_goes_on_as_it_was() -> None:
    """Also by another name, or for one transport alone."""

    async def story() -> None:
        world = with_a_third(NatSpec())
        world.internet.name("second.test", SECOND)
        async with owner(world, FIRST, SECOND) as me:
            await asyncio.sleep(8)
            changes, streams = len(me.changes), list(world.servers[1].connections)
            me.discovery.follow(["second.test", f"{FIRST}:{PORT}?transport=udp"])
            await asyncio.sleep(60)
            assert world.servers[1].connections == streams, "the same connection"
            assert me.open_streams == [Endpoint.of(SECOND, PORT)]
            assert len(me.changes) == changes
            assert world.servers[0].requests["tcp"] <= world.servers[1].requests["tcp"]

    run_virtual(story())


def test_a_list_of_servers_that_only_udp_reaches_lets_the_others_go() -> None:
    async def story() -> None:
        world = with_a_third(NatSpec())
        async with owner(world, FIRST, SECOND) as me:
            await asyncio.sleep(8)
            me.discovery.follow([f"{THIRD}:{PORT}?transport=udp"])
            await asyncio.sleep(6)
            assert me.open_streams == []
            assert me.learnt.udp_mapped == 20000

    run_virtual(story())


def test_the_quickest_of_the_new_ones_is_not_believed_alone() -> None:
    async def story() -> None:
        world = with_a_third(NatSpec())
        for ip in SLOW:
            host = world.internet.host(ip, ip)
            world.internet.set_path(host, world.site, PathSpec(delay=0.3))
            world.servers.append(StunServer(host, ip))
        world.servers[2].lie = Endpoint.of("198.51.100.66", 66)
        async with owner(world, SECOND, tcp=False) as me:
            await asyncio.sleep(8)
            told = len(me.changes)
            me.discovery.follow([THIRD, *SLOW])
            await asyncio.sleep(60)
            assert {str(learnt.reflexive) for learnt in me.changes[told:]} <= {OUTSIDE}
            asked = world.servers[1].requests["udp"]
            await asyncio.sleep(60)
            assert world.servers[1].requests["udp"] == asked

    run_virtual(story())


@pytest.mark.parametrize("moment", [0.0, DELAY, RTT, 2 * RTT, 3.0])
def test_closing_in_the_middle_of_a_change_leaves_nothing_open(moment: float) -> None:
    async def story() -> None:
        world = with_a_third(NatSpec())
        async with owner(world, FIRST, SECOND) as me:
            await asyncio.sleep(8)
            me.discovery.follow([THIRD, "nowhere.test"])
            await asyncio.sleep(moment)

    run_virtual(story())


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError):
        Discovery(
            MemoryInternet().host("h", "203.0.113.1"),
            ["http://x"],
            Timing(),
            lambda event: None,
            lambda: None,
            random.Random(1),
        )


def endpoints() -> Iterator[tuple[str, str, bool]]:
    public, other = "8.8.8.8:3478", "8.8.4.4:3479"
    yield public, other, True
    yield public, "192.168.1.1:53", False
    yield public, "127.0.0.1:22", False
    yield public, "224.0.0.251:5353", False
    yield public, "0.0.0.0:3479", False
    yield public, public, False
    yield public, "8.8.8.8:3479", False
    yield public, "8.8.4.4:3478", False
    yield public, "[2001:4860::1]:3479", False
    yield "192.168.1.1:3478", "192.168.1.2:3479", True
    yield "127.0.0.1:3478", "127.0.0.2:3479", True


@pytest.mark.parametrize(("server", "other", "expected"), list(endpoints()))
def test_a_second_address_must_be_of_the_servers_kind(server: str, other: str, expected: bool) -> None:
    assert plausible(Endpoint.parse(server), Endpoint.parse(other)) is expected
