"""Lines and hops, as kernel sockets see them."""

from __future__ import annotations

import asyncio
import errno
import time

import pytest
from wires import QUIET, Echo, Tcp, Udp, closing

from warpgate.lab.line import Quality
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint

pytestmark = pytest.mark.lab


# That each line delays once. The lab's own share grows with a slow machine; bench/lab_speed.py measures it.
ONCE = 0.040, 0.060


async def round_trip(asking: Udp, to: Echo) -> float:
    start = time.monotonic()
    await to.ask(asking)
    return time.monotonic() - start


@pytest.mark.alone
@pytest.mark.parametrize("version", [4, 6])
async def test_a_round_trip_takes_40_ms(lab: Lab, version: int) -> None:
    server = lab.add_host("server", ipv4=version == 4, ipv6=version == 6)
    host = lab.add_host("a", behind="eim-apdf", ipv4=version == 4, ipv6=version == 6)
    echo, udp = Echo(server), Udp(host)
    with closing(echo, udp):
        times = [await round_trip(udp, echo) for _ in range(15)]
    assert ONCE[0] <= min(times) < ONCE[1]


@pytest.mark.alone
async def test_between_hosts_too(lab: Lab) -> None:
    a, b = lab.add_host("a", behind="eim-eif"), lab.add_host("b", behind="eim-eif")
    server = lab.add_host("server")
    echo, meeting, udp = Echo(server), Udp(b), Udp(a)
    with closing(echo, meeting, udp):
        there = await echo.ask(meeting)
        times = []
        for _ in range(15):
            start = time.monotonic()
            udp.send(there)
            _, back = await meeting.receive()
            meeting.send(back)
            await udp.receive()
            times.append(time.monotonic() - start)
    assert ONCE[0] <= min(times) < ONCE[1]


async def test_loss_is_the_rate_asked_for(lab: Lab) -> None:
    server = lab.add_host("server")
    host = lab.add_host("a", link=Quality(loss=0.2, delay=0.001))
    echo, udp = Udp(server, 9), Udp(host)
    with closing(echo, udp):
        for _ in range(20):
            for _ in range(50):
                udp.send(echo.local)
            await asyncio.sleep(0)
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)
    line = host.access.up.counters
    assert line.packets == 1000
    assert 150 <= line.lost <= 250  # 4 sigma; the seed is fixed
    assert server.counters[0].packets_in == 1000 - line.lost


async def test_duplicates_arrive_twice(lab: Lab) -> None:
    server = lab.add_host("server")
    host = lab.add_host("a", link=Quality(duplicate=1.0))
    sink, udp = Udp(server, 9), Udp(host)
    with closing(sink, udp):
        udp.send(sink.local, b"once")
        assert [await sink.receive(), await sink.receive()] == [(b"once", udp.local)] * 2
        assert await sink.silent()


@pytest.mark.parametrize(("jitter", "ordered"), [(0.0, True), (0.03, False)])
async def test_order_is_kept_unless_jitter_reorders(lab: Lab, jitter: float, ordered: bool) -> None:
    server = lab.add_host("server")
    host = lab.add_host("a", link=Quality(jitter=jitter))
    sink, udp = Udp(server, 9), Udp(host)
    with closing(sink, udp):
        for number in range(60):
            udp.send(sink.local, bytes((number,)))
        arrived = [(await sink.receive())[0][0] for _ in range(60)]
    assert sorted(arrived) == list(range(60))
    assert (arrived == sorted(arrived)) == ordered


@pytest.mark.alone
async def test_bandwidth_spaces_packets_and_overflows(lab: Lab) -> None:
    server = lab.add_host("server")
    host = lab.add_host("a", link=Quality(bandwidth=1e6))
    sink, udp = Udp(server, 9), Udp(host)
    with closing(sink, udp):
        for _ in range(100):  # 100 x 1028 octets: 0.82 s at 1 Mbit/s, of which a quarter second is queued
            udp.send(sink.local, bytes(1000))
        start = time.monotonic()
        await sink.receive()
        heard = 1
        while not await sink.silent(0.1):
            heard += 1
        took = time.monotonic() - start - 0.1
    assert host.access.up.counters.overflowed == 100 - heard
    assert 28 <= heard <= 36
    assert 0.2 < took < 0.35


async def test_a_cut_line_can_be_mended(lab: Lab) -> None:
    server = lab.add_host("server")
    host = lab.add_host("a", behind="edm")
    echo, udp = Echo(server), Udp(host)
    with closing(echo, udp):
        await echo.ask(udp)
        host.access.up.quality = Quality(loss=1.0)
        udp.send(echo.local)
        assert await udp.silent()
        host.access.up.quality = Quality()
        await echo.ask(udp)


@pytest.mark.parametrize(("ttl", "passed_router", "arrives"), [(1, 0, 0), (2, 1, 0), (7, 1, 0), (8, 1, 1), (64, 1, 1)])
async def test_where_low_ttls_die(lab: Lab, ttl: int, passed_router: int, arrives: int) -> None:
    """Own router 1, three hops to the core, three to the other side's router, which takes what is for itself."""
    a, b = lab.add_host("a", behind="eim-apdf"), lab.add_host("b", behind="eim-apdf")
    udp, target = Udp(a), Endpoint.of(str(b.routers[0].outside[0]), 9)
    with closing(udp):
        udp.send(target, ttl=ttl)
        await asyncio.sleep(0.05)
    own, other = a.routers[0].counters().nat, b.routers[0].counters().nat
    assert own is not None
    assert other is not None
    assert own.flows_created == passed_router
    assert other.unsolicited == arrives


async def test_a_low_ttl_syn_fails_with_ehostunreach(lab: Lab) -> None:
    """references.md: why TCP punching must not use low TTLs. The error passes the router to the right socket."""
    server, host = lab.add_host("server"), lab.add_host("a", behind="edm")
    listener, tcp = Tcp(server, 80, listen=True), Tcp(host)
    with closing(listener, tcp):
        tcp.socket.setsockopt(0, 2, 2)  # IPPROTO_IP, IP_TTL
        with pytest.raises(OSError) as caught:  # noqa: PT011
            await tcp.connect(listener.local)
        assert caught.value.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("unreachable", [True, False])
async def test_packets_for_nobody(privileges: None, unreachable: bool) -> None:
    async with Lab(unreachable=unreachable) as lab:
        tcp = Tcp(lab.add_host("a", behind="eim"))
        with closing(tcp):
            with pytest.raises(OSError if unreachable else TimeoutError) as caught:
                await tcp.connect(Endpoint.of("198.51.100.250", 80), timeout=QUIET)
            if unreachable:
                assert caught.value.errno == errno.EHOSTUNREACH  # type: ignore[attr-defined]
        assert lab.internet.undeliverable == 1


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["public", "eim-apdf-random+cgn"])
async def test_large_datagrams_pass_in_fragments(lab: Lab, kind: str, version: int) -> None:
    server, host = lab.add_host("server", ipv6=1), lab.add_host("a", behind=kind, ipv6=1)
    first, second = (server.ipv4, host.ipv4) if version == 4 else (server.ipv6, host.ipv6)
    sink, udp = Udp(server, 9, first), Udp(host, ip=second)
    with closing(sink, udp):
        udp.send(sink.local, bytes(range(250)) * 20)
        data, source = await sink.receive()
        assert data == bytes(range(250)) * 20
        sink.send(source, data)
        assert (await udp.receive())[0] == data


async def test_an_unused_lab_is_silent(lab: Lab) -> None:
    """No router solicitation, no duplicate address detection, nothing that was not asked for."""
    hosts = [lab.add_host(name, behind=kind, ipv6=1) for name, kind in (("a", "public"), ("b", "eim+open6"))]
    await asyncio.sleep(QUIET)
    assert [host.counters[0].packets_out for host in hosts] == [0, 0]


async def test_what_is_larger_than_a_line_takes_vanishes_without_a_word(lab: Lab) -> None:
    server = lab.add_host("server")
    host = lab.add_host("a", link=Quality(mtu=1280))
    sink, udp = Udp(server, 9), Udp(host)
    with closing(sink, udp):
        for size in (1253, 1252):  # less 28 of IP and UDP headers
            udp.send(sink.local, bytes(size))
        assert len((await sink.receive())[0]) == 1252
        assert await sink.silent()
        assert await udp.silent(0.01)
    assert host.access.up.counters.too_large == 1
