"""The UPnP client against a little router, in virtual time: routers of the field, and hostile ones."""

from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
from collections.abc import Callable, Coroutine, Iterable
from ipaddress import ip_address
from itertools import chain, pairwise, repeat

import pytest
from services_kit import Leases

from warpgate.errors import NetworkError, ServiceError
from warpgate.events import Event, PortMapped, ServerFailed
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.network import Gateway, Interface, TcpStream
from warpgate.proto.device_xml import LARGEST_DOCUMENT
from warpgate.proto.igd import IP_CONNECTION_1, PPP_CONNECTION_1
from warpgate.services.gateway_http import REQUEST_TIMEOUT
from warpgate.services.http_connection import (
    CHUNK,
)  # imported before the clock is virtual: a thread takes real time
from warpgate.services.portmap_board import Remembered, Route
from warpgate.services.portmapper import MOST_TOLD, PortMapper
from warpgate.services.upnp import Igd, IgdLease, Pinholes, find
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, PathSpec
from warpgate_testing.upnp_router import DESCRIBED_AT, Entry, UpnpRouter, http_response, ssdp_answer

LAPTOP, GATEWAY, NEIGHBOUR = (ip_address(f"192.168.1.{host}") for host in (2, 1, 9))
ROUTE = Route(Interface("eth0", LAPTOP, 24), Gateway("eth0", GATEWAY))
OURS = Endpoint(LAPTOP, 5000)
THEIRS = Endpoint(NEIGHBOUR, 80)
TCP, UDP = Transport.TCP, Transport.UDP


class Home:
    """A laptop, its router's management side, and another host, on one LAN."""

    def __init__(self, version: int = 1, delay: float = 0.0) -> None:
        self.internet = MemoryInternet(seed=4)
        nat = self.internet.router("nat", "203.0.113.1", lan=PathSpec(delay=delay, hops=0))
        self.laptop = self.internet.host("laptop", str(LAPTOP), behind=nat)
        self.neighbour = self.internet.host("neighbour", str(NEIGHBOUR), behind=nat)
        self.laptop.default_gateways = (GATEWAY,)
        management = self.internet.host("router", str(GATEWAY), behind=nat)
        self.router = UpnpRouter(management, GATEWAY, version=version)
        self.store = Leases()
        self.events: list[Event] = []

    async def igd(self) -> Igd:
        found = await find(self.laptop, ROUTE, random.Random(5))
        assert isinstance(found, Igd)
        return found

    def mapper(self, lease: int = 1200, port: int = OURS.port) -> PortMapper:
        rng = random.Random(1)
        return PortMapper(self.laptop, port, self.store, self.events.append, lambda: None, rng.randbytes, rng, lease)

    async def mapped(self, mapper: PortMapper, seconds: float = 10.0) -> PortMapper:
        mapper.follow(self.laptop.interfaces())
        await asyncio.sleep(seconds)
        return mapper

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, ServerFailed)]

    async def close(self) -> None:
        await self.router.close()
        assert not [entry for entry in self.internet.open_sockets() if entry.host == "laptop"]


def virtual(story: Callable[[Home], Coroutine[None, None, None]], version: int = 1, delay: float = 0.0) -> None:
    async def main() -> None:
        home = Home(version, delay)
        try:
            await story(home)
        finally:
            await home.close()

    run_virtual(main())


# -- what a gateway does for us ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_both_ports_are_mapped_renewed_and_deleted(version: int) -> None:
    async def story(home: Home) -> None:
        mapper = await home.mapped(home.mapper(lease=60))
        assert home.router.table == {("TCP", 5000): Entry(OURS, 60), ("UDP", 5000): Entry(OURS, 60)}
        mapped = mapper.mapped(LAPTOP, TCP)
        assert mapped is not None
        assert (str(mapped.external), mapped.protocol) == ("203.0.113.1:5000", f"UPnP IGD {version}")
        before = home.router.counts["AddPortMapping"]
        await asyncio.sleep(60)
        assert home.router.counts["AddPortMapping"] >= before + 4  # two ports, at half of their leases
        await mapper.close()
        assert home.router.table == {}
        assert home.store.leases == ()
        assert sum(isinstance(event, PortMapped) for event in home.events) == 2

    virtual(story, version)


def test_no_description_of_a_service_is_ever_asked_for() -> None:
    async def story(home: Home) -> None:
        await (await home.igd()).map(TCP, OURS, 5000, 60)
        assert {path for method, path in home.router.requests if method == "GET"} == {DESCRIBED_AT}

    virtual(story)


def test_a_gateway_that_hears_no_multicast_is_asked_directly_and_the_other_way_round() -> None:
    async def story(home: Home) -> None:
        await home.igd()
        hosts = {line for text in home.router.searches for line in text.split("\r\n") if line.startswith("HOST")}
        assert hosts == {"HOST: 239.255.255.250:1900", "HOST: 192.168.1.1:1900"}

    virtual(story)


def test_a_silent_gateway_is_given_up_after_two_and_a_half_seconds() -> None:
    async def story(home: Home) -> None:
        home.router.silent = True
        with pytest.raises(ServiceError, match="no UPnP gateway answers"):
            await home.igd()
        assert asyncio.get_running_loop().time() == pytest.approx(2.5)

    virtual(story)


def test_another_device_of_the_router_is_not_the_end_of_the_search() -> None:
    async def story(home: Home) -> None:
        good = home.router.location
        home.router.location = "http://192.168.1.1:9/media.xml"  # nobody listens there

        async def better() -> None:
            await asyncio.sleep(0.5)
            home.router.location = good

        later = asyncio.ensure_future(better())
        await home.igd()
        await later

    virtual(story)


def test_the_connection_that_is_up_is_taken() -> None:
    async def story(home: Home) -> None:
        home.router.controls = [(IP_CONNECTION_1, "/ctl/down"), (PPP_CONNECTION_1, "/ctl/up")]
        down = http_response(500, "<html/>")
        home.router.override = lambda method, path: [down] if path == "/ctl/down" else None
        assert await (await home.igd()).external_ip() == ip_address("203.0.113.1")

    virtual(story)


@pytest.mark.parametrize("status", [404, 500])
def test_another_service_of_the_router_is_used_where_the_first_maps_nothing(status: int) -> None:
    async def story(home: Home) -> None:
        home.router.controls = [(IP_CONNECTION_1, "/ctl/dead"), (PPP_CONNECTION_1, "/ctl/good")]
        up = f"<GetExternalIPAddressResponse>{'<NewExternalIPAddress>203.0.113.9</NewExternalIPAddress>'}"
        up = f'<e:Envelope xmlns:e="e"><e:Body>{up}</GetExternalIPAddressResponse></e:Body></e:Envelope>'
        answers = chain([http_response(200, up)] * 2, repeat(http_response(status, "")))
        home.router.override = lambda method, path: [next(answers)] if path == "/ctl/dead" else None
        mapper = await home.mapped(home.mapper(), 20.0)
        assert set(home.router.table) == {("TCP", 5000), ("UDP", 5000)}
        mapped = mapper.mapped(LAPTOP, TCP)
        assert mapped is not None
        assert str(mapped.external) == "203.0.113.1:5000"
        await mapper.close()
        assert home.router.table == {}

    virtual(story)


def with_dead_device(router: UpnpRouter) -> None:
    """It answers before the good one, and does nothing."""
    instead = {
        "/dead.xml": [http_response(200, router.description().replace("/ctl/IPConn", "/ctl/dead"))],
        "/ctl/dead": [http_response(404, "")],
    }
    router.override = lambda method, path: instead.get(path)
    router.others = (router.location,)
    router.location = router.location.replace(DESCRIBED_AT, "/dead.xml")


def test_another_device_of_the_router_is_used_where_the_first_maps_nothing() -> None:
    async def story(home: Home) -> None:
        with_dead_device(home.router)
        mapper = await home.mapped(home.mapper(), 20.0)
        assert set(home.router.table) == {("TCP", 5000), ("UDP", 5000)}
        await mapper.close()
        assert home.router.table == {}

    virtual(story)


def test_our_own_private_address_is_no_external_one() -> None:
    async def story(home: Home) -> None:
        home.router.external = str(LAPTOP)
        mapper = await home.mapped(home.mapper())
        assert (mapper.mappings, home.router.table) == ((), {})
        assert "UPnP IGD 1: what it calls its external address is none (192.168.1.2)" in home.reasons()
        await mapper.close()

    virtual(story)


def test_a_port_that_a_router_calls_reserved_and_leaves_to_another() -> None:
    async def story(home: Home) -> None:
        home.router.table = {("TCP", 5000): Entry(THEIRS, 0)}
        reserved = "<AddAnyPortMappingResponse><NewReservedPort>5000</NewReservedPort></AddAnyPortMappingResponse>"
        lies = iter([[http_response(200, f'<e:Envelope xmlns:e="e"><e:Body>{reserved}</e:Body></e:Envelope>')]])
        home.router.override = lambda method, path: next(lies, None) if method == "POST" else None
        lease = await (await home.igd()).map(TCP, OURS, 5000, 60)
        assert lease.external_port != 5000
        assert home.router.table[("TCP", lease.external_port)] == Entry(OURS, 60)

    virtual(story, 2)


def test_a_device_that_is_mended_when_all_had_failed_has_its_turn_again() -> None:
    async def story(home: Home) -> None:
        with_dead_device(home.router)
        home.router.conditions["AddPortMapping"] = lambda _: 501
        mapper = await home.mapped(home.mapper(), 60.0)
        assert home.router.table == {}
        home.router.conditions.clear()
        await asyncio.sleep(120.0)
        assert set(home.router.table) == {("TCP", 5000), ("UDP", 5000)}
        await mapper.close()

    virtual(story)


# -- routers of the field ------------------------------------------------------------------------------------


def lease_is_not_zero(arguments: dict[str, str]) -> bool:
    return arguments["NewLeaseDuration"] != "0"


def map_with(rule: Callable[[dict[str, str]], int], version: int = 1) -> tuple[IgdLease, dict[tuple[str, int], Entry]]:
    """What a router maps that answers AddPortMapping with these codes."""
    result: list[IgdLease] = []
    table: dict[tuple[str, int], Entry] = {}

    async def story(home: Home) -> None:
        home.router.conditions = {"AddPortMapping": rule, "AddAnyPortMapping": rule}
        result.append(await (await home.igd()).map(TCP, OURS, 5001, 1200))
        table.update(home.router.table)

    virtual(story, version)
    return result[0], table


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("code", [402, 501, 725])
def test_a_router_without_leases(code: int, version: int) -> None:
    lease, table = map_with(lambda arguments: code * lease_is_not_zero(arguments), version)
    assert lease == IgdLease(5001, 0.0)
    assert table == {("TCP", 5001): Entry(OURS, 0)}


@pytest.mark.parametrize("code", [402, 501, 718, 728, 729])
def test_a_port_that_is_taken_by_whatever_name(code: int) -> None:
    lease, table = map_with(lambda arguments: code * (arguments["NewExternalPort"] == "5001"))
    assert lease.external_port >= 49_152
    assert table == {("TCP", lease.external_port): Entry(OURS, 1200)}


def test_a_router_that_maps_only_like_to_like() -> None:
    lease, table = map_with(lambda arguments: 724 * (arguments["NewExternalPort"] != arguments["NewInternalPort"]))
    assert lease == IgdLease(5000, 1200.0)
    assert table == {("TCP", 5000): Entry(OURS, 1200)}


def test_a_router_that_wants_the_wildcard_written_out() -> None:
    lease, _ = map_with(lambda arguments: 726 * (arguments["NewRemoteHost"] != "0.0.0.0"))
    assert lease == IgdLease(5001, 1200.0)


def test_a_router_that_would_only_open_all_ports_opens_none() -> None:
    with pytest.raises(ServiceError, match="error 727"):
        map_with(lambda arguments: 727 * (arguments["NewExternalPort"] != "0"))


def test_a_port_of_somebody_else_is_left_alone() -> None:
    async def story(home: Home) -> None:
        home.router.table = {("TCP", 5000): Entry(THEIRS, 0)}
        igd = await home.igd()
        lease = await igd.map(TCP, OURS, 5000, 60)
        assert lease.external_port != 5000
        assert home.router.table[("TCP", 5000)] == Entry(THEIRS, 0)
        with pytest.raises(ServiceError, match="error 718"):
            await igd.renew(TCP, OURS, 5000, 60)
        await igd.unmap(TCP, OURS, 5000)
        assert home.router.table[("TCP", 5000)] == Entry(THEIRS, 0)

    virtual(story)


def test_a_router_that_says_yes_and_leaves_the_port_to_another() -> None:
    async def story(home: Home) -> None:
        home.router.table = {("TCP", 5000): Entry(THEIRS, 0)}
        yes = '<s:Envelope xmlns:s="e"><s:Body><AddPortMappingResponse/></s:Body></s:Envelope>'
        adds = 0

        def answer(method: str, path: str) -> list[bytes] | None:
            nonlocal adds
            adds += method == "POST"
            return [http_response(200, yes)] if adds == 1 and method == "POST" else None

        igd = await home.igd()
        home.router.override = answer
        lease = await igd.map(TCP, OURS, 5000, 60)
        assert lease.external_port != 5000
        assert home.router.table[("TCP", lease.external_port)] == Entry(OURS, 60)

    virtual(story)


def test_a_router_that_conflicts_with_its_own_mapping_of_ours() -> None:
    async def story(home: Home) -> None:
        router = home.router
        router.conditions["AddPortMapping"] = lambda arguments: 718 * (("TCP", 5000) in router.table)
        igd = await home.igd()
        for _ in range(2):
            assert await igd.renew(TCP, OURS, 5000, 60) == IgdLease(5000, 60.0)
        router.conditions["AddPortMapping"] = lambda _: 718  # for ever, and it shows ours: no endless circle
        with pytest.raises(ServiceError):
            await igd.renew(TCP, OURS, 5000, 60)

    virtual(story)


def test_requests_for_one_port_are_few_whatever_the_router_says() -> None:
    async def story(home: Home) -> None:
        home.router.conditions["AddPortMapping"] = lambda _: 718
        with pytest.raises(ServiceError):
            await (await home.igd()).map(TCP, OURS, 5000, 60)
        assert len(home.router.requests) < 25

    virtual(story)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n{body}",
        b"HTTP/1.0 200\n\n{body}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n{body}\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\r\n{body}\0\0",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nEXT:\r\n\r\n{body}",
    ],
)
def test_http_as_poor_routers_speak_it(response: bytes) -> None:
    async def story(home: Home) -> None:
        body = home.router.description().encode()
        whole = response.replace(b"{body}", body).replace(b"{size}", b"%x" % len(body))
        home.router.override = lambda method, path: [whole] if method == "GET" else None
        assert await (await home.igd()).external_ip() == ip_address("203.0.113.1")

    virtual(story)


# -- nothing is left behind ----------------------------------------------------------------------------------


@pytest.mark.parametrize("external", ["", "0.0.0.0", "nonsense", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::1"])
def test_without_an_external_address_nothing_is_mapped(external: str) -> None:
    async def story(home: Home) -> None:
        home.router.external = external
        mapper = await home.mapped(home.mapper())
        assert (home.router.table, mapper.mappings, home.store.leases) == ({}, (), ())
        assert home.router.counts["AddPortMapping"] == 0
        assert [reason for reason in home.reasons() if "external address" in reason]
        home.router.external = "203.0.113.1"  # the line comes up
        await asyncio.sleep(60)
        assert len(mapper.mappings) == 2
        home.router.external = external  # and goes down: found out by the next renewal
        await asyncio.sleep(700)
        assert (home.router.table, mapper.mappings) == ({}, ())
        await mapper.close()

    virtual(story)


@pytest.mark.parametrize("external", ["192.168.0.7", "100.64.0.9", "10.1.1.1"])
def test_behind_another_nat_nothing_is_mapped_and_that_is_known(external: str) -> None:
    async def story(home: Home) -> None:
        home.router.external = external
        mapper = await home.mapped(home.mapper())
        assert (home.router.table, mapper.mappings) == ({}, ())
        assert mapper.behind(LAPTOP) == ip_address(external)
        home.router.external = "203.0.113.1"
        await asyncio.sleep(60)
        assert mapper.behind(LAPTOP) is None
        await mapper.close()
        assert home.router.table == {}

    virtual(story)


def test_a_mapping_whose_answer_was_lost_is_deleted() -> None:
    async def story(home: Home) -> None:
        add = home.router._do_AddPortMapping

        def add_and_hang_up(arguments: dict[str, str]) -> dict[str, object]:
            add(arguments)
            raise NetworkError("a power cut")

        home.router._do_AddPortMapping = add_and_hang_up  # type: ignore[method-assign]
        mapper = await home.mapped(home.mapper(), 2.0)
        assert home.router.table
        home.router.external = ""  # and now it would not be mapped again
        await asyncio.sleep(60)
        assert home.router.table == {}
        await mapper.close()

    virtual(story)


def test_what_cannot_be_deleted_at_the_end_is_deleted_by_the_next_run() -> None:
    async def story(home: Home) -> None:
        router = home.router
        add, delete = router._do_AddPortMapping, router._do_DeletePortMapping

        def hang_up(_: dict[str, str]) -> dict[str, object]:
            raise NetworkError("a power cut")

        def add_and_hang_up(arguments: dict[str, str]) -> dict[str, object]:
            add(arguments)
            return hang_up(arguments)

        router._do_AddPortMapping = add_and_hang_up  # type: ignore[method-assign]
        router._do_DeletePortMapping = hang_up  # type: ignore[method-assign]
        mapper = await home.mapped(home.mapper(), 2.0)
        await mapper.close()
        assert {port for _, port in router.table} == {5000}
        assert {lease.external_port for lease in home.store.leases} == {5000}
        router._do_AddPortMapping = add  # type: ignore[method-assign]
        later = await home.mapped(home.mapper(port=6000))
        assert {port for _, port in router.table} == {5000, 6000}  # still cannot
        router._do_DeletePortMapping = delete  # type: ignore[method-assign]
        await asyncio.sleep(700)
        assert {port for _, port in router.table} == {6000}
        await later.close()
        assert (router.table, home.store.leases) == ({}, ())

    virtual(story)


def test_a_router_that_deletes_nothing_is_still_of_use() -> None:
    async def story(home: Home) -> None:
        home.store.leases = (Remembered("upnp", str(GATEWAY), TCP, Endpoint(LAPTOP, 4000), 4000),)
        home.router.table = {("TCP", 4000): Entry(Endpoint(LAPTOP, 4000), 0)}
        home.router.conditions["DeletePortMapping"] = lambda _: 501
        mapper = await home.mapped(home.mapper())
        assert len(mapper.mappings) == 2
        assert {lease.external_port for lease in home.store.leases} == {5000}
        await mapper.close()

    virtual(story)


def test_one_port_that_fails_does_not_cost_the_other_its_lease() -> None:
    async def story(home: Home) -> None:
        home.router.conditions["AddPortMapping"] = lambda arguments: 606 * (arguments["NewProtocol"] == "TCP")
        mapper = await home.mapped(home.mapper(lease=72))
        renewed = [at for at in range(600) if await _renewed_at(home.router)]
        assert len(renewed) >= 600 / 72
        assert max(later - earlier for earlier, later in pairwise(renewed)) < 72
        await mapper.close()

    async def _renewed_at(router: UpnpRouter) -> bool:
        before = sum(arguments.get("NewProtocol") == "UDP" for action, arguments in router.calls if "Add" in action)
        await asyncio.sleep(1)
        after = sum(arguments.get("NewProtocol") == "UDP" for action, arguments in router.calls if "Add" in action)
        return after > before

    virtual(story)


def test_a_router_that_refuses_is_asked_ever_less_often() -> None:
    async def story(home: Home) -> None:
        home.router.conditions["AddPortMapping"] = lambda _: 606
        mapper = await home.mapped(home.mapper(), 3000.0)
        assert len(home.router.calls) < 80
        await mapper.close()

    virtual(story)


@pytest.mark.parametrize("version", [1, 2])
def test_a_close_at_any_moment_leaves_nothing_mapped(version: int) -> None:
    """10 ms to the router and as long back, so that requests and answers are on their way."""
    mapped = set()

    async def story(home: Home) -> None:
        mapper = await home.mapped(home.mapper(), moment)
        mapped.add(len(home.router.table))
        await mapper.close()
        assert home.router.table == {}, moment

    for step in range(50):
        moment = 0.3 + step * 0.0131
        virtual(story, version, delay=0.01)
    assert mapped == {0, 1, 2}


def test_what_an_earlier_run_left_is_deleted_unless_it_is_somebody_elses_by_now() -> None:
    async def story(home: Home) -> None:
        old = Endpoint(LAPTOP, 4000)
        home.store.leases = tuple(Remembered("upnp", str(GATEWAY), TCP, old, port) for port in (4000, 4001, 4002))
        home.router.table = {("TCP", 4000): Entry(old, 0), ("TCP", 4001): Entry(THEIRS, 0)}
        mapper = await home.mapped(home.mapper())
        assert {port for _, port in home.router.table} == {4001, 5000}
        assert {lease.external_port for lease in home.store.leases} == {5000}
        await mapper.close()

    virtual(story)


# -- hostile ones --------------------------------------------------------------------------------------------


class Victim:
    """A program that must not be talked to."""

    def __init__(self, network: MemoryNetwork, local: Endpoint) -> None:
        self.visits: list[Endpoint] = []
        self._listener = network.listen_tcp(local, self._accepted)

    def _accepted(self, stream: TcpStream) -> None:
        self.visits.append(stream.remote)
        stream.abort()

    def close(self) -> None:
        self._listener.close()


VICTIMS = ["127.0.0.1:8080", "192.168.1.9:8080", "192.168.1.2:8080"]


def attacked(victim: str, attack: Callable[[UpnpRouter], None]) -> None:
    """The mapper does what it can for a while, and the victim sees nothing of it."""

    async def story(home: Home) -> None:
        place = Endpoint.parse(victim)
        seen = Victim(home.neighbour if place.ip == NEIGHBOUR else home.laptop, place)
        attack(home.router)
        mapper = await home.mapped(home.mapper(), 12)
        await mapper.close()
        assert seen.visits == []
        assert home.router.searches
        seen.close()

    virtual(story)


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_redirects_are_not_followed(victim: str, status: int, method: str) -> None:
    away = http_response(status, "", f"Location: http://{victim}/")

    def attack(router: UpnpRouter) -> None:
        router.override = lambda asked, path: [away] if asked == method else None

    attacked(victim, attack)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_description_or_control_elsewhere_is_not_asked(victim: str) -> None:
    def location(router: UpnpRouter) -> None:
        router.location = f"http://{victim}{DESCRIBED_AT}"

    def control(router: UpnpRouter) -> None:
        router.controls = [(IP_CONNECTION_1, f"http://{victim}/ctl/IPConn")]

    def without_scheme(router: UpnpRouter) -> None:
        router.controls = [(IP_CONNECTION_1, f"//{victim}/ctl/IPConn")]

    def base(router: UpnpRouter) -> None:
        router.base = f"http://{victim}/"

    for attack in (location, control, without_scheme, base):
        attacked(victim, attack)


def test_answers_of_other_hosts_are_not_believed() -> None:
    async def story(home: Home) -> None:
        home.router.silent = True
        rogue = UpnpRouter(home.neighbour, NEIGHBOUR)
        pointing = UpnpRouter(home.internet.host("third", "192.168.1.8"), ip_address("192.168.1.8"))
        rogue.location = home.router.location  # even if it names the gateway
        mapper = await home.mapped(home.mapper(), 60)
        assert rogue.searches
        assert (rogue.requests, pointing.requests, home.router.requests, mapper.mappings) == ([], [], [], ())
        await mapper.close()
        await rogue.close()
        await pointing.close()

    virtual(story)


def endless(head: bytes, piece: bytes) -> Callable[[str, str], Iterable[bytes]]:
    """Every request gets this head, and then this piece for ever."""
    return lambda method, path: chain([head], repeat(piece))


PLAIN = b"HTTP/1.1 200 OK\r\n\r\n"
FLOODS = {
    "endless body": (PLAIN, b"x" * 4096),
    "endless spaces": (PLAIN, b" " * 4096),
    "two million tags": (PLAIN + b"<root>", b"<a/>" * 1024),
    "deep": (PLAIN, b"<a>" * 1024),
    "endless head": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 512),
    "one field": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 4096),
    "provisional": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 128),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 512),
    "one chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"x" * 4096),
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 4096),
    "gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(bytes(3 * 2**20))),
}
# What is on its way in the two sockets' buffers when the reader stops.
IN_FLIGHT = 16 * CHUNK


@pytest.mark.parametrize("name", FLOODS)
def test_an_answer_without_end_costs_little(name: str) -> None:
    async def story(home: Home) -> None:
        home.router.override = endless(*FLOODS[name])
        tracemalloc.start()
        with pytest.raises(ServiceError):
            await home.igd()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert home.router.sent <= LARGEST_DOCUMENT + IN_FLIGHT
        assert peak < 8 * 2**20
        assert home.router.cut_off == 1

    virtual(story)


@pytest.mark.parametrize("pause", [0.5, 4.0])
def test_a_slow_answer_has_five_seconds_in_all(pause: float) -> None:
    async def story(home: Home) -> None:
        home.router.override, home.router.pause = endless(PLAIN, b"<"), pause
        with pytest.raises(ServiceError, match="does not answer within 5 s"):
            await home.igd()
        assert asyncio.get_running_loop().time() < REQUEST_TIMEOUT + 3

    virtual(story)


def test_an_answer_in_thousands_of_pieces_is_given_up() -> None:
    """It is short, and each piece costs time of the loop."""

    async def story(home: Home) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        home.router.override = lambda method, path: [head + b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n"]
        with pytest.raises(ServiceError, match="too many pieces"):
            await home.igd()

    virtual(story)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x-gzip", "identity, gzip"])
def test_what_is_compressed_is_not_unpacked(encoding: str) -> None:
    async def story(home: Home) -> None:
        body = gzip.compress(home.router.description().encode())
        bomb = http_response(200, body, f"Content-Encoding: {encoding}")
        home.router.override = lambda method, path: [bomb]
        with pytest.raises(ServiceError, match="compressed"):
            await home.igd()

    virtual(story)


def test_an_error_text_is_harmless() -> None:
    async def story(home: Home) -> None:
        home.router.reason = "no&#x9b;31m&#x202e;" + "x" * 900
        home.router.conditions["AddPortMapping"] = lambda _: 606
        mapper = await home.mapped(home.mapper())
        (reason,) = (reason for reason in home.reasons() if "606" in reason)
        assert reason.isprintable()
        assert len(reason) < 250
        await mapper.close()

    virtual(story)


def test_reasons_that_never_end_are_not_all_kept() -> None:
    async def story(home: Home) -> None:
        mapper = home.mapper()
        for number in range(1000):
            mapper._refused(str(GATEWAY), "UPnP", str(number))
        assert len(mapper._told) == MOST_TOLD
        await mapper.close()

    virtual(story)


# -- IPv6 ----------------------------------------------------------------------------------------------------

LAPTOP6, GATEWAY6 = ip_address("2001:db8:1::2"), ip_address("2001:db8:1::1")


def test_a_pinhole_that_was_forgotten_is_made_anew() -> None:
    async def main() -> None:
        internet = MemoryInternet(seed=4)
        nat = internet.router("nat", "203.0.113.1")
        laptop = internet.host("laptop", str(LAPTOP6), behind=nat)
        router = UpnpRouter(internet.host("router", str(GATEWAY6), behind=nat), GATEWAY6, version=2)
        route = Route(Interface("eth0", LAPTOP6, 64), Gateway("eth0", GATEWAY6))
        found = await find(laptop, route, random.Random(5))
        assert isinstance(found, Pinholes)
        internal = Endpoint(LAPTOP6, 5000)
        assert await found.map(TCP, internal, 9, 60) == IgdLease(5000, 60.0)
        await found.renew(TCP, internal, 5000, 60)
        router.pinholes.clear()
        assert await found.renew(TCP, internal, 5000, 60) == IgdLease(5000, 60.0)
        assert router.pinholes == {1: internal}
        await found.unmap(TCP, internal, 5000)
        assert router.pinholes == {}
        assert await found.external_ip() == LAPTOP6
        await router.close()

    run_virtual(main())


def test_a_close_at_any_moment_leaves_no_pinhole() -> None:
    """A pinhole is deleted by the number in the answer to AddPinhole, which may still be under way."""
    opened = set()

    async def main(moment: float) -> None:
        internet = MemoryInternet(seed=4)
        nat = internet.router("nat", "203.0.113.1", lan=PathSpec(delay=0.01, hops=0))
        laptop = internet.host("laptop", str(LAPTOP6), behind=nat)
        laptop.default_gateways = (GATEWAY6,)
        router = UpnpRouter(internet.host("router", str(GATEWAY6), behind=nat), GATEWAY6, version=2)
        store, rng = Leases(), random.Random(1)
        mapper = PortMapper(laptop, 5000, store, lambda _: None, lambda: None, rng.randbytes, rng, 1200)
        mapper.follow(laptop.interfaces())
        await asyncio.sleep(moment)
        opened.add(len(router.pinholes))
        await mapper.close()
        assert router.pinholes == {}, moment
        await router.close()
        assert not [entry for entry in internet.open_sockets() if entry.host == "laptop"]

    for step in range(40):
        run_virtual(main(0.3 + step * 0.0131))
    assert opened == {0, 1, 2}


def test_an_answer_is_as_long_as_a_datagram() -> None:
    assert len(ssdp_answer("http://192.168.1.1/")) < 512
