"""Routers in front of real kernel sockets: translation, filters, answers, hairpin, layers, punching."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from wires import QUIET, Echo, Tcp, Udp, closing

from warpgate.lab.flow import Protocol
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint

pytestmark = pytest.mark.lab


async def seen_as(udp: Udp, *echoes: Echo) -> list[Endpoint]:
    return [await echo.ask(udp) for echo in echoes]


@pytest.mark.parametrize(
    ("kind", "by_port", "by_address"),
    [("eim-apdf-random", False, False), ("adm-apdf-random", False, True), ("apdm-apdf-random", True, True)],
)
async def test_mappings_by_destination(lab: Lab, kind: str, by_port: bool, by_address: bool) -> None:
    server, host = lab.add_host("server", ipv4=2), lab.add_host("a", behind=kind)
    echoes = [Echo(server, port, ip) for port, ip in itertools.product((7, 8), server.addresses)]
    udp = Udp(host)
    with closing(udp, *echoes):
        first, other_address, other_port, _ = await seen_as(udp, *echoes)
        again = (await seen_as(udp, echoes[0]))[0]
    assert first.ip == host.routers[0].outside[0]
    assert first == again
    assert (first != other_port) == by_port
    assert (first != other_address) == by_address


@pytest.mark.parametrize(
    ("kind", "other_port", "other_address"),
    [
        ("eim-eif", True, True),
        ("eim-adf", True, False),
        ("eim-apdf", False, False),
        ("firewalled", False, False),
    ],
)
async def test_filters(lab: Lab, kind: str, other_port: bool, other_address: bool) -> None:
    server, host = lab.add_host("server", ipv4=2), lab.add_host("a", behind=kind)
    first, second = server.addresses
    echo, port, address = Echo(server, 7, first), Udp(server, 8, first), Udp(server, 7, second)
    udp = Udp(host)
    with closing(echo, port, address, udp):
        mapped = await echo.ask(udp)
        for stranger, let_in in ((port, other_port), (address, other_address)):
            stranger.send(mapped)
            assert await udp.silent() is not let_in


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("kind", "told"), [("eim-apdf+rst", True), ("eim-apdf", False), ("firewalled+rst", True)])
async def test_unsolicited_syn(lab: Lab, kind: str, told: bool, version: int) -> None:
    """Answered with a RST: the dialler gets ECONNREFUSED after a round trip. Dropped: it goes on waiting."""
    server, host = lab.add_host("server", ipv6=1), lab.add_host("a", behind=kind, ipv6=1)
    target = host.ipv6 if version == 6 else host.ipv4 if kind.startswith("fire") else host.routers[0].outside[0]
    tcp = Tcp(server, ip=server.ipv6 if version == 6 else server.ipv4)
    with closing(tcp):
        if told:
            with pytest.raises(ConnectionRefusedError):
                await tcp.connect(Endpoint(target, 80))
        else:
            with pytest.raises(TimeoutError):
                await tcp.connect(Endpoint(target, 80), timeout=QUIET)


async def test_unsolicited_datagrams_are_answered_with_icmp(lab: Lab) -> None:
    server, host = lab.add_host("server"), lab.add_host("a", behind="eim-apdf+rst")
    udp = Udp(server)
    with closing(udp):
        udp.socket.connect((str(host.routers[0].outside[0]), 9))
        udp.socket.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            await udp.receive()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["eim-eif", "edm+cgn", "firewalled"])
async def test_a_closed_port_of_a_server_is_reported_through_the_routers(lab: Lab, kind: str, version: int) -> None:
    server, host = lab.add_host("server", ipv6=1), lab.add_host("a", behind=kind, ipv6=1)
    source, target = (host.ipv6, server.ipv6) if version == 6 else (host.ipv4, server.ipv4)
    udp, tcp = Udp(host, ip=source), Tcp(host, ip=source)
    with closing(udp, tcp):
        udp.socket.connect((str(target), 9))
        udp.socket.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            await udp.receive()
        with pytest.raises(ConnectionRefusedError):
            await tcp.connect(Endpoint(target, 9))


async def test_a_closed_port_inside_is_reported_outwards(lab: Lab) -> None:
    server, host = lab.add_host("server"), lab.add_host("a", behind="eim-apdf-random")
    echo, udp = Echo(server), Udp(host)
    with closing(echo):
        with closing(udp):
            mapped = await echo.ask(udp)
        echo.socket.connect(mapped.sockaddr)
        asyncio.get_running_loop().remove_reader(echo.socket)
        echo.socket.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            await echo.receive()


@pytest.mark.parametrize(("kind", "through"), [("eim-eif+hairpin", True), ("eim-eif", False)])
async def test_hairpin(lab: Lab, kind: str, through: bool) -> None:
    home = lab.add_site("home", kind)
    a, b, server = lab.add_host("a", home), lab.add_host("b", home), lab.add_host("server")
    echo, mine, other = Echo(server), Udp(a, 5000), Udp(b, 5000)
    with closing(echo, mine, other):
        here, there = await echo.ask(mine), await echo.ask(other)
        assert here.ip == there.ip
        assert here.port != there.port
        mine.send(there)
        if through:
            assert (await other.receive())[1] == here  # RFC 4787 REQ-9: external source address and port
        else:
            assert await other.silent()


async def test_neighbours_reach_each_other_without_the_router(lab: Lab) -> None:
    home = lab.add_site("home", "edm")
    a, b = lab.add_host("a", home), lab.add_host("b", home)
    mine, other = Udp(a), Udp(b)
    with closing(mine, other):
        mine.send(other.local, ttl=1)
        assert (await other.receive())[1] == mine.local
    counters = home.routers[0].counters().nat
    assert counters is not None
    assert counters.flows_created == 0


async def test_hosts_of_two_homes_do_not_meet_on_private_addresses(lab: Lab) -> None:
    a, b = lab.add_host("a", "eim-eif"), lab.add_host("b", "eim-eif")
    mine, other = Udp(a), Udp(b)
    with closing(mine, other):
        mine.send(other.local)
        assert await other.silent()
    assert lab.internet.undeliverable == 1


async def test_double_nat(lab: Lab) -> None:
    server, host = lab.add_host("server"), lab.add_host("a", behind="eim-apdf+cgn", ipv6=1)
    echo, udp = Echo(server), Udp(host)
    with closing(echo, udp):
        mapped = await echo.ask(udp)
    home, carrier = host.routers
    assert str(home.outside[0]).startswith("100.64.")
    assert carrier.nat is not None
    assert mapped.ip in carrier.nat.external
    for router in host.routers:
        counters = router.counters().nat
        assert counters is not None
        assert (counters.packets_out, counters.packets_in, counters.mappings_live) == (1, 1, 1)


@pytest.mark.parametrize(
    ("kind", "udp_passes", "port_80", "port_443"),
    [("udp-blocked", False, True, True), ("only-443", False, False, True), ("edm+noudp", False, True, True)],
)
async def test_blocked_things(lab: Lab, kind: str, udp_passes: bool, port_80: bool, port_443: bool) -> None:
    server, host = lab.add_host("server"), lab.add_host("a", behind=kind)
    echo, udp = Echo(server), Udp(host)
    listeners = [Tcp(server, port, listen=True) for port in (80, 443)]
    dials = [Tcp(host) for _ in listeners]
    with closing(echo, udp, *listeners, *dials):
        udp.send(echo.local)
        assert await udp.silent() is not udp_passes
        for listener, tcp, passes in zip(listeners, dials, (port_80, port_443), strict=True):
            try:
                await tcp.connect(listener.local, timeout=QUIET)
            except TimeoutError:
                assert not passes
            else:
                assert passes


async def test_mappings_expire(privileges: None) -> None:
    """The clock of a router is the lab's; 20 s are waited for in the model's own tests."""
    async with Lab() as lab:
        host, server = lab.add_host("a", behind="short-lived"), lab.add_host("server")
        echo, udp = Echo(server), Udp(host)
        with closing(echo, udp):
            await echo.ask(udp)
        nat = host.routers[0].nat
        assert nat is not None
        now = lab.internet.scheduler.now()
        assert nat.counters(now + 19).mappings_live == 1
        assert nat.counters(now + 21).mappings_live == 0


class TestPunching:
    """What the strategies build on, with nothing of warpgate but the lab."""

    async def meet(self, lab: Lab, kind: str) -> tuple[Udp, Udp, Endpoint, Endpoint, Echo]:
        server = lab.add_host("server")
        echo = Echo(server)
        a, b = Udp(lab.add_host("a", kind), 5000), Udp(lab.add_host("b", kind), 6000)
        return a, b, await echo.ask(a), await echo.ask(b), echo

    async def test_udp(self, lab: Lab) -> None:
        a, b, at_a, at_b, echo = await self.meet(lab, "eim-apdf-random")
        with closing(a, b, echo):
            a.send(at_b)
            b.send(at_a)
            assert (await a.receive())[1] == at_b
            assert (await b.receive())[1] == at_a

    async def test_a_first_packet_poisons_an_accepting_router_for_good(self, lab: Lab) -> None:
        a, b, at_a, at_b, echo = await self.meet(lab, "eim-apdf+accept")
        with closing(a, b, echo):
            a.send(at_b)
            await asyncio.sleep(0.03)
            for _ in range(5):
                b.send(at_a)
                a.send(at_b)
                await asyncio.sleep(0.03)
            assert await a.silent()
            assert await b.silent()

    async def test_low_ttl_priming_cures_it(self, lab: Lab) -> None:
        a, b, at_a, at_b, echo = await self.meet(lab, "eim-apdf+accept")
        with closing(a, b, echo):
            a.send(at_b, ttl=2)
            b.send(at_a, ttl=2)
            await asyncio.sleep(0.03)
            a.send(at_b)
            b.send(at_a)
            assert (await a.receive())[1] == at_b
            assert (await b.receive())[1] == at_a

    async def open_both(self, lab: Lab, kind: str, skew: float) -> list[object]:
        """TCP from both sides, port-preserving routers, the second `skew` seconds later: what connect said."""
        a, b = lab.add_host("a", kind), lab.add_host("b", kind)
        first, second = Tcp(a, 5000), Tcp(b, 6000)

        async def later() -> None:
            await asyncio.sleep(skew)
            await second.connect(Endpoint(a.routers[0].outside[0], 5000), timeout=0.5)

        with closing(first, second):
            there = Endpoint(b.routers[0].outside[0], 6000)
            return await asyncio.gather(first.connect(there, timeout=0.5), later(), return_exceptions=True)

    @pytest.mark.parametrize("kind", ["eim-apdf", "eim-apdf+rst", "eim-apdf+accept", "masquerade"])
    async def test_tcp_simultaneous_open_works_when_the_skew_is_short(self, lab: Lab, kind: str) -> None:
        assert await self.open_both(lab, kind, 0.005) == [None, None]

    async def test_a_reset_kills_a_late_one(self, lab: Lab) -> None:
        first, second = await self.open_both(lab, "eim-apdf+rst", 0.08)
        assert isinstance(first, ConnectionRefusedError)
        assert isinstance(second, OSError)

    async def test_a_dropping_router_waits_for_the_retransmission(self, lab: Lab) -> None:
        """skew + R: the late SYN finds the early one's flow still open in the other router."""
        assert await self.open_both(lab, "eim-apdf", 0.08) == [None, None]


async def test_routers_that_forget_and_that_get_another_address(lab: Lab) -> None:
    host, peer = lab.add_host("a", behind="eim-apdf-random"), lab.add_host("server")
    echo, udp = Echo(peer), Udp(host)
    with closing(echo, udp):
        before = await echo.ask(udp)
        host.routers[0].forget()
        echo.send(before)
        assert await udp.silent()
        forgotten = await echo.ask(udp)
        assert forgotten.ip == before.ip
        assert forgotten.port != before.port
        lab.renumber(host.attached[0])
        after = await echo.ask(udp)
        assert after.ip in host.attached[0].outside
        assert before.ip not in host.attached[0].outside


async def test_a_partition_is_between_two_sites_and_of_some_protocols(lab: Lab) -> None:
    host, one, other = lab.add_host("a", behind="eim-apdf"), lab.add_host("one"), lab.add_host("other")
    echoes, udp = [Echo(one), Echo(other)], Udp(host)
    with closing(udp, *echoes):
        outside = host.attached[0].outside
        lab.internet.partition(outside, one.addresses, {Protocol.TCP})
        await echoes[0].ask(udp)
        lab.internet.partition(outside, one.addresses)
        udp.send(echoes[0].local)
        assert await udp.silent()
        await echoes[1].ask(udp)
        lab.internet.heal()
        await echoes[0].ask(udp)


async def test_a_host_moves_to_another_network(lab: Lab) -> None:
    host, server = lab.add_host("a", behind="eim-apdf", ipv6=1), lab.add_host("server", ipv6=1)
    echo, echo6 = Echo(server), Echo(server, ip=server.ipv6)
    before = host.addresses
    udp = Udp(host)
    with closing(echo, udp):
        await echo.ask(udp)
    attached = lab.move(host, "edm", ipv4=1, ipv6=1)
    assert host.addresses == attached.addresses
    assert not set(before) & set(host.addresses)
    echo, udp, udp6 = Echo(server), Udp(host), Udp(host, ip=host.ipv6)
    with closing(echo, echo6, udp, udp6):
        assert (await echo.ask(udp)).ip in attached.outside
        assert await echo6.ask(udp6) == udp6.local
