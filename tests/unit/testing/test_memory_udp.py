"""UDP through the internet in memory: paths, faults and routers, in exact virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from warpgate.errors import ConfigError, NetworkError
from warpgate.lab.nat import Lifetimes, NatSpec, Unsolicited
from warpgate.model.endpoint import Endpoint, Family
from warpgate.model.nat import Assignment, Filtering, Mapping, PortAssignment
from warpgate.net.network import UdpSocket
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, PathSpec

E = Endpoint.parse


class Inbox:
    """Everything a socket received: when, what, from where."""

    def __init__(self, network: MemoryNetwork, local: str) -> None:
        self.got: list[tuple[float, bytes, Endpoint]] = []
        self.socket: UdpSocket = network.open_udp(E(local), self._receive)

    def _receive(self, data: bytes, source: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.got.append((round(now, 6), data, Endpoint.from_sockaddr(source)))

    def send(self, data: bytes, to: str | Endpoint, ttl: int | None = None) -> bool:
        to = E(to) if isinstance(to, str) else to
        return self.socket.send(data, to.sockaddr, ttl)

    @property
    def data(self) -> list[bytes]:
        return [data for _, data, _ in self.got]

    @property
    def sources(self) -> list[Endpoint]:
        return [source for _, _, source in self.got]


def two_sites(spec_a: NatSpec, spec_b: NatSpec, **path: float) -> tuple[MemoryInternet, MemoryNetwork, MemoryNetwork]:
    internet = MemoryInternet(seed=3, path=PathSpec(**path))  # type: ignore[arg-type]
    home, office = (
        internet.router("home", "198.51.100.1", spec_a),
        internet.router("office", "203.0.113.1", spec_b),
    )
    return (
        internet,
        internet.host("alice", "192.168.1.2", behind=home),
        internet.host("bob", "10.0.0.2", behind=office),
    )


def test_delay_order_and_loss_are_as_asked_and_reproducible() -> None:
    async def burst(seed: int) -> list[tuple[float, bytes, Endpoint]]:
        path = PathSpec(delay=0.04, jitter=0.02, loss=0.2, duplication=0.1)
        internet = MemoryInternet(seed=seed)
        a, b = internet.host("a", "192.0.2.1"), internet.host("b", "192.0.2.2")
        internet.set_path(a, b, path, back=PathSpec(delay=0.2))
        at_a, at_b = Inbox(a, "192.0.2.1:1000"), Inbox(b, "192.0.2.2:2000")
        for number in range(1000):
            at_a.send(number.to_bytes(2, "big"), at_b.socket.local)
        at_b.send(b"back", at_a.socket.local)
        await asyncio.sleep(1)
        assert [time for time, _, _ in at_a.got] == [0.2]
        assert all(0.04 <= time <= 0.06 for time, _, _ in at_b.got)
        assert 750 <= len(set(at_b.data)) <= 850
        assert 60 <= len(at_b.data) - len(set(at_b.data)) <= 110
        assert at_b.data != sorted(at_b.data)
        return at_b.got

    assert run_virtual(burst(1)) == run_virtual(burst(1))
    assert run_virtual(burst(1)) != run_virtual(burst(2))


def test_without_jitter_nothing_overtakes() -> None:
    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.05))
        a, b = internet.host("a", "192.0.2.1"), internet.host("b", "192.0.2.2")
        at_a, at_b = Inbox(a, "192.0.2.1:1"), Inbox(b, "192.0.2.2:1")
        for number in range(256):
            at_a.send(bytes([number]), at_b.socket.local)
        await asyncio.sleep(0.05)
        await asyncio.sleep(0)
        assert at_b.data == [bytes([number]) for number in range(256)]

    run_virtual(main())


def test_a_nat_translates_and_filters_and_two_sides_punch() -> None:
    async def main() -> None:
        _, alice, bob = two_sites(NatSpec(), NatSpec(), delay=0.05)
        at_a, at_b = Inbox(alice, "192.168.1.2:5000"), Inbox(bob, "10.0.0.2:6000")
        at_a.send(b"too early", "203.0.113.1:6000")
        await asyncio.sleep(1)
        assert at_b.got == []
        at_b.send(b"opens", "198.51.100.1:5000")
        await asyncio.sleep(0.05)
        at_a.send(b"passes", "203.0.113.1:6000")
        await asyncio.sleep(1)
        assert at_a.got == [(1.05, b"opens", E("203.0.113.1:6000"))]
        assert at_b.got == [(1.1, b"passes", E("198.51.100.1:5000"))]

    run_virtual(main())


def test_endpoint_dependent_mapping_shows_each_destination_another_port() -> None:
    async def main() -> None:
        internet = MemoryInternet(seed=5)
        spec = NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.RANDOM))
        home = internet.router("home", "198.51.100.1", spec)
        inside = Inbox(internet.host("in", "192.168.1.2", behind=home), "192.168.1.2:5000")
        servers = [Inbox(internet.host(f"s{n}", f"192.0.2.{n}"), f"192.0.2.{n}:3478") for n in (1, 2)]
        for server in servers:
            inside.send(b"?", server.socket.local)
        await asyncio.sleep(1)
        first, second = (server.sources[0] for server in servers)
        assert first.ip == second.ip == E("198.51.100.1:0").ip
        assert first.port != second.port
        counters = home.counters()
        assert counters.mappings_live == 2

    run_virtual(main())


def test_first_packet_poisoning_and_its_cure() -> None:
    """A router that takes unsolicited packets itself is lost to the punch, unless the first ones die on the
    way.
    """

    async def punch(ttl: int | None) -> tuple[list[bytes], list[bytes]]:
        masquerade = NatSpec(mapping=Mapping.APDM, unsolicited=Unsolicited.ACCEPT, overloading=True)
        _, alice, bob = two_sites(masquerade, masquerade, delay=0.05)
        at_a, at_b = Inbox(alice, "192.168.1.2:5000"), Inbox(bob, "10.0.0.2:6000")
        at_a.send(b"first", "203.0.113.1:6000", ttl)
        await asyncio.sleep(0.1)
        for _ in range(3):
            at_b.send(b"from b", "198.51.100.1:5000")
            await asyncio.sleep(0.06)
            at_a.send(b"from a", "203.0.113.1:6000")
            await asyncio.sleep(0.2)
        return at_a.data, at_b.data

    assert run_virtual(punch(None)) == ([], [])
    assert run_virtual(punch(2)) == ([b"from b"] * 3, [b"from a"] * 3)


def test_ttl_counts_routers() -> None:
    async def main() -> None:
        internet, alice, bob = two_sites(NatSpec(), NatSpec(filtering=Filtering.EIF), hops=5)
        at_a, at_b = Inbox(alice, "192.168.1.2:5000"), Inbox(bob, "10.0.0.2:6000")
        at_b.send(b"open", "192.0.2.99:1")
        for ttl in (1, 2, 6, 7, 8):
            at_a.send(bytes([ttl]), "203.0.113.1:6000", ttl)
        await asyncio.sleep(1)
        assert at_b.data == [b"\x08"]  # two NATs and five routers were passed
        assert internet.drops("ttl") == 4

    run_virtual(main())


def test_a_router_that_drops_by_ttl_opens_nothing_and_one_further_on_leaves_it_open() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        home = internet.router("home", "198.51.100.1")
        inside = Inbox(internet.host("in", "192.168.1.2", behind=home), "192.168.1.2:5000")
        for ttl, opened in ((1, 0), (2, 1)):
            inside.send(b"x", "192.0.2.1:1", ttl)
            await asyncio.sleep(1)
            assert home.counters().flows_created == opened

    run_virtual(main())


def test_double_nat_hairpin_and_neighbours() -> None:
    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.05))
        carrier = internet.router("carrier", "198.51.100.1", NatSpec(hairpin=True, filtering=Filtering.EIF))
        homes = [internet.router(f"home{n}", f"100.64.0.{n}", NatSpec(), behind=carrier) for n in (1, 2)]
        one, two = (internet.host(f"h{n}", "192.168.1.2", behind=home) for n, home in enumerate(homes))
        server = Inbox(internet.host("server", "192.0.2.1"), "192.0.2.1:3478")
        boxes = [Inbox(host, "192.168.1.2:5000") for host in (one, two)]
        for box in boxes:
            box.send(b"?", "192.0.2.1:3478")
        await asyncio.sleep(0.2)
        seen = server.sources
        assert {endpoint.ip for endpoint in seen} == {E("198.51.100.1:0").ip}
        boxes[1].send(b"opens home2", seen[0])
        await asyncio.sleep(0.01)
        boxes[0].send(b"hairpinned", seen[1])  # carrier to itself, no time passes
        await asyncio.sleep(0.01)
        assert boxes[1].got == [(0.21, b"hairpinned", seen[0])]
        neighbour = Inbox(internet.host("neighbour", "192.168.1.3", behind=homes[0]), "192.168.1.3:9")
        boxes[0].send(b"on the LAN", "192.168.1.3:9")
        await asyncio.sleep(0.01)
        assert neighbour.got == [(0.22, b"on the LAN", E("192.168.1.2:5000"))]

    run_virtual(main())


def test_mappings_expire_in_virtual_time() -> None:
    async def main() -> None:
        spec = NatSpec(lifetimes=Lifetimes(udp_unreplied=30, udp_replied=30))
        internet = MemoryInternet()
        home = internet.router("home", "198.51.100.1", spec)
        inside = Inbox(internet.host("in", "192.168.1.2", behind=home), "192.168.1.2:5000")
        server = Inbox(internet.host("s", "192.0.2.1"), "192.0.2.1:1")
        inside.send(b"?", server.socket.local)
        await asyncio.sleep(29)
        server.send(b"in time", "198.51.100.1:5000")
        await asyncio.sleep(31)
        server.send(b"too late", "198.51.100.1:5000")
        await asyncio.sleep(1)
        assert inside.data == [b"in time"]
        assert internet.drops("unsolicited") == 1

    run_virtual(main())


def test_v6_is_routed_and_firewalled_while_v4_is_translated() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        firewall = NatSpec(mapping=Mapping.NONE)
        home = internet.router("home", "198.51.100.1", v6=firewall)
        open_home = internet.router("open", "198.51.100.2")
        inside = Inbox(internet.host("in", "192.168.1.2", "2001:db8:1::2", behind=home), "[2001:db8:1::2]:5000")
        free = Inbox(internet.host("free", "192.168.1.2", "2001:db8:2::2", behind=open_home), "[2001:db8:2::2]:5000")
        free.send(b"unasked", inside.socket.local)
        await asyncio.sleep(0.2)
        inside.send(b"hello", free.socket.local)
        await asyncio.sleep(0.2)
        assert (inside.data, free.data) == ([], [b"hello"])
        assert free.sources == [inside.socket.local]
        free.send(b"answer", inside.socket.local)
        await asyncio.sleep(0.2)
        assert inside.data == [b"answer"]
        assert home.counters(Family.V6).mappings_live == 1
        with pytest.raises(ConfigError, match="open does nothing"):
            open_home.counters(Family.V6)

    run_virtual(main())


def test_partition_crash_and_account() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        a, b = internet.host("a", "192.0.2.1"), internet.host("b", "192.0.2.2")
        at_a, at_b = Inbox(a, "192.0.2.1:1"), Inbox(b, "0.0.0.0:1")
        assert [str(entry) for entry in internet.open_sockets()] == ["a: udp 192.0.2.1:1", "b: udp 0.0.0.0:1"]
        internet.partition(a, b)
        at_a.send(b"lost", "192.0.2.2:1")
        at_b.send(b"lost too", "192.0.2.1:1")
        await asyncio.sleep(1)
        internet.heal(b, a)
        at_a.send(b"heard", "192.0.2.2:1")
        await asyncio.sleep(1)
        assert (at_a.data, at_b.data) == ([], [b"heard"])
        b.crash()
        assert [entry.host for entry in internet.open_sockets()] == ["a"]
        at_a.send(b"nobody", "192.0.2.2:1")
        assert not at_b.send(b"dead", "192.0.2.1:1")
        await asyncio.sleep(1)
        assert (internet.drops("partition"), internet.drops("host is down")) == (2, 1)
        b.boot()
        again = Inbox(b, "192.0.2.2:1")
        at_a.send(b"back", "192.0.2.2:1")
        await asyncio.sleep(1)
        assert again.data == [b"back"]
        at_a.socket.close()
        again.socket.close()
        assert internet.open_sockets() == ()

    run_virtual(main())


def test_capture_names_and_what_does_not_exist() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        a, b = internet.host("a", "192.0.2.1"), internet.host("b", "192.0.2.2")
        with pytest.raises(ConfigError, match=r"192\.0\.2\.2 is taken"):
            internet.host("c", "192.0.2.2")
        internet.name("stun.example", "192.0.2.2", "2001:db8::2")
        assert await a.resolve("stun.example", 1) == (E("192.0.2.2:1"), E("[2001:db8::2]:1"))
        with pytest.raises(NetworkError, match=r"resolve 'nowhere\.example'"):
            await a.resolve("nowhere.example", 1)
        assert a.route_source(E("[2001:db8::2]:1")) is None
        packets = internet.capture()
        at_a, at_b = Inbox(a, "192.0.2.1:0"), Inbox(b, "192.0.2.2:0")
        assert 32768 <= at_a.socket.local.port < 61000
        at_a.send(b"x", at_b.socket.local)
        at_a.send(b"y", "192.0.2.77:1")
        await asyncio.sleep(1)
        assert [(entry.host, entry.sent, entry.packet.payload) for entry in packets] == [
            ("a", True, b"x"),
            ("a", True, b"y"),
            ("b", False, b"x"),
        ]
        assert internet.drops("no such address") == 1

    run_virtual(main())


def test_sites_that_share_nothing_cannot_have_a_path() -> None:
    one, other = MemoryInternet(), MemoryInternet()
    with pytest.raises(ConfigError, match="not part of one internet"):
        one.set_path(one.host("a", "192.0.2.1"), other.host("b", "192.0.2.2"), PathSpec())
