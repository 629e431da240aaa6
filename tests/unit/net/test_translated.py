"""IPv4 on a host that has none, seen from above and from the wire: the world is IPv6 in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.model.translation import WELL_KNOWN_PREFIX, Nat64Prefix
from warpgate.net.network import Interface, TcpStream
from warpgate.net.translated import TranslatedNetwork, without_ipv4
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork

PREFIX = Nat64Prefix(WELL_KNOWN_PREFIX)
SERVER = IPv4Address("198.51.100.7")
OWN = IPv4Address("192.0.0.1")
HOST = IPv6Address("2001:db8::2")


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(main(), limit=100)


def world() -> tuple[MemoryInternet, TranslatedNetwork, MemoryNetwork]:
    """A host with IPv6 alone, and what its NAT64 makes of an IPv4 server."""
    internet = MemoryInternet()
    network = TranslatedNetwork(internet.host("host", str(HOST)))
    server = internet.host("server", str(PREFIX.embed(SERVER)))
    network.prefix = PREFIX
    network.interfaces()
    return internet, network, server


def test_an_interface_without_ipv4_gets_an_address_that_lasts() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        network = TranslatedNetwork(internet.host("host", str(HOST)))
        plain = network.interfaces()
        assert plain == network.inner.interfaces()
        network.prefix = PREFIX
        assert network.interfaces() == (*plain, Interface("eth0", OWN, 32))
        assert network.interfaces() == (*plain, Interface("eth0", OWN, 32))
        network.prefix = None
        assert network.interfaces() == plain

    virtually(main)


def test_only_interfaces_with_ipv6_and_without_ipv4() -> None:
    found = (
        Interface("lo", IPv6Address("::1"), 128),
        Interface("wlan0", IPv4Address("192.168.1.2"), 24),
        Interface("wlan0", IPv6Address("2001:db8::3"), 64),
        Interface("wwan0", IPv6Address("fd00::4"), 64),
        Interface("wwan0", IPv6Address("2001:db8:1::4"), 64),
    )
    assert without_ipv4(found) == {"wwan0": IPv6Address("2001:db8:1::4")}  # a global address before a local one


def test_datagrams_carry_ipv4_endpoints_above_and_ipv6_ones_below() -> None:
    async def main() -> None:
        internet, network, server = world()
        above: list[tuple[bytes, SockAddr]] = []
        below: list[tuple[bytes, SockAddr]] = []
        sock = network.open_udp(Endpoint(OWN, 4000), lambda data, source: above.append((data, source)))
        peer = server.open_udp(Endpoint(PREFIX.embed(SERVER), 9), lambda data, source: below.append((data, source)))
        assert sock.local == Endpoint(OWN, 4000)
        assert sock.send(b"out", (str(SERVER), 9))
        await asyncio.sleep(1)
        assert [(data, source[:2]) for data, source in below] == [(b"out", (str(HOST), 4000))]
        peer.send(b"back", (str(HOST), 4000))
        # IPv6 itself is not for this socket.
        stranger = internet.host("stranger", "2001:db8::9").open_udp(Endpoint.of("2001:db8::9", 1), lambda *_: None)
        stranger.send(b"IPv6", (str(HOST), 4000))
        await asyncio.sleep(1)
        assert above == [(b"back", (str(SERVER), 9))]
        # Nor is what the well-known prefix must not stand for.
        assert not sock.send(b"private", ("10.0.0.1", 9))
        sock.close()

    virtually(main)


def test_connections_both_ways() -> None:
    async def main() -> None:
        _, network, server = world()
        calls: list[TcpStream] = []
        server.listen_tcp(Endpoint(PREFIX.embed(SERVER), 80), calls.append)
        listener = network.listen_tcp(Endpoint(OWN, 4000), calls.append)
        assert listener.local == Endpoint(OWN, 4000)
        out = await network.dial_tcp(Endpoint(SERVER, 80), Endpoint(OWN, 5000))
        await asyncio.sleep(1)
        assert (out.local, out.remote) == (Endpoint(OWN, 5000), Endpoint(SERVER, 80))
        assert calls[0].remote == Endpoint(HOST, 5000)
        await out.send(b"hello")
        assert await calls[0].recv(10) == b"hello"
        # Nothing but IPv6 is there to reach an IPv4 broker by: no local endpoint is named.
        plain = await network.dial_tcp(Endpoint(SERVER, 80))
        assert plain.local.ip == OWN
        inward = await server.dial_tcp(Endpoint(HOST, 4000))
        await asyncio.sleep(1)
        assert calls[-1].remote == Endpoint(SERVER, inward.local.port)
        for stream in (out, plain, inward, *calls):
            stream.abort()

    virtually(main)


def test_an_ipv6_peer_is_not_let_in_at_the_ipv4_port() -> None:
    async def main() -> None:
        internet, network, _ = world()
        calls: list[TcpStream] = []
        network.listen_tcp(Endpoint(OWN, 4000), calls.append)
        stream = await internet.host("stranger", "2001:db8::9").dial_tcp(Endpoint(HOST, 4000))
        with pytest.raises(NetworkError):
            await stream.recv(1)
        assert calls == []

    virtually(main)


def test_routes_and_names() -> None:
    async def main() -> None:
        internet, network, _ = world()
        assert network.route_source(Endpoint(SERVER, 80)) == OWN
        assert network.route_source(Endpoint.of("10.0.0.1", 80)) is None
        assert network.route_source(Endpoint.of("2001:db8::5", 80)) == HOST
        internet.name("broker", str(PREFIX.embed(SERVER)), str(SERVER), "2001:db8::5")
        assert await network.resolve("broker", 80) == (Endpoint(SERVER, 80), Endpoint.of("2001:db8::5", 80))
        network.prefix = None
        assert network.route_source(Endpoint(SERVER, 80)) is None
        assert len(await network.resolve("broker", 80)) == 3
        with pytest.raises(NetworkError):
            await network.dial_tcp(Endpoint(SERVER, 80))

    virtually(main)


def test_a_host_with_ipv4_is_left_alone() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        inner = internet.host("host", "198.51.100.1", "2001:db8::2")
        network = TranslatedNetwork(inner)
        network.prefix = Nat64Prefix(IPv6Network("2001:db8:64::/96"))
        assert network.interfaces() == inner.interfaces()
        assert network.route_source(Endpoint(SERVER, 80)) == IPv4Address("198.51.100.1")

    virtually(main)
