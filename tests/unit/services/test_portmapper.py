"""When ports are mapped, by whom, and what is kept: against gateways in this process; nothing leaves it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

import pytest
from services_kit import Leases

from warpgate.errors import NetworkError, ServiceError
from warpgate.events import Event, PortMapped, ServerFailed
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.network import Gateway, Interface
from warpgate.proto.portmap_wire import PcpMapping, PcpResponse
from warpgate.services import portmap_igd, portmapper
from warpgate.services.portmap_board import Remembered
from warpgate.services.portmapper import PortMapper
from warpgate.services.upnp import IgdLease
from warpgate_testing.portmap import decode_request, encode_response

HOME = Interface("eth0", ip_address("192.168.1.2"), 24)
LOOPBACK = Interface("lo", ip_address("127.0.0.1"), 8)
GATEWAY = Gateway("eth0", ip_address("192.168.1.1"))
OUTSIDE = IPv4Address("203.0.113.1")
SERVER = ("192.168.1.1", 5351)


@dataclass
class FakeSocket:
    """A UDP socket whose only correspondent is the gateway."""

    network: FakeNetwork
    local: Endpoint
    receiver: Callable[[bytes, tuple[str, int]], None]

    def send(self, data: bytes, to: tuple[str, int], ttl: int | None = None) -> bool:
        assert to == SERVER
        self.network.sent.append(data)
        answer = self.network.answer(data)
        if answer is not None:
            asyncio.get_running_loop().call_soon(self.receiver, answer, SERVER)
        return True

    def close(self) -> None:
        self.network.open -= 1


@dataclass
class FakeNetwork:
    """A machine with one gateway, which speaks PCP or is silent."""

    speaks: bool = True
    outside: IPv4Address = OUTSIDE
    sent: list[bytes] = field(default_factory=list)
    open: int = 0
    asked: int = 0

    def gateways(self) -> tuple[Gateway, ...]:
        self.asked += 1
        return (GATEWAY,)

    def open_udp(self, local: Endpoint, receiver: Callable[[bytes, tuple[str, int]], None]) -> FakeSocket:
        if local.ip != HOME.ip:
            raise NetworkError("no such address")
        self.open += 1
        return FakeSocket(self, Endpoint(local.ip, 40000), receiver)

    def answer(self, data: bytes) -> bytes | None:
        if not self.speaks or data[0] != 2:
            return None
        request = decode_request(data)
        asked = request.mapping
        external = Endpoint(self.outside, asked.external.port or 7777)
        mapping = PcpMapping(asked.nonce, asked.transport, asked.internal_port, external)
        return encode_response(PcpResponse(0, request.lifetime, 1000, mapping))

    def requests(self) -> list[tuple[str, int, int, bytes]]:
        """Transport, internal port, lifetime and nonce of each PCP request."""
        found = [decode_request(data) for data in self.sent if data[0] == 2]
        return [(it.mapping.transport.value, it.mapping.internal_port, it.lifetime, it.mapping.nonce) for it in found]


@dataclass
class FakeIgd:
    """A UPnP gateway: what is mapped, by transport and external port."""

    table: dict[tuple[Transport, int], Endpoint] = field(default_factory=dict)
    name: str = "UPnP IGD 2"
    down: bool = False
    renewed: int = 0
    doubtful: set[tuple[Transport, int]] = field(default_factory=set)

    async def external_ip(self) -> IPv4Address:
        return OUTSIDE

    async def map(self, transport: Transport, internal: Endpoint, wanted: int, lease: int) -> IgdLease:
        return await self.renew(transport, internal, wanted, lease)

    async def renew(self, transport: Transport, internal: Endpoint, port: int, lease: int) -> IgdLease:
        if self.down:
            raise ServiceError("it is down")
        self.renewed += (transport, port) in self.table
        self.table[transport, port] = internal
        return IgdLease(port, float(lease))

    async def unmap(self, transport: Transport, internal: Endpoint, port: int) -> None:
        if self.down:
            raise ServiceError("it is down")
        del self.table[transport, port]


@dataclass
class Scene:
    network: FakeNetwork
    store: Leases
    igd: FakeIgd | None
    monkeypatch: pytest.MonkeyPatch
    events: list[Event] = field(default_factory=list)
    changes: int = 0

    def mapper(self, port: int = 5000, lease: int = 1200) -> PortMapper:
        async def find(*_: object) -> FakeIgd:
            if self.igd is None or self.igd.down:
                raise ServiceError("no UPnP gateway answers")
            return self.igd

        self.monkeypatch.setattr(portmap_igd, "find", find)
        self.monkeypatch.setattr(portmapper, "HEAD_START", 0.01)
        rng = random.Random(1)
        return PortMapper(self.network, port, self.store, self.events.append, self.changed, rng.randbytes, rng, lease)  # type: ignore[arg-type]

    def changed(self) -> None:
        self.changes += 1

    def protocols(self) -> list[str]:
        return [event.protocol for event in self.events if isinstance(event, PortMapped)]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(FakeNetwork(), Leases(), None, monkeypatch)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_pcp_maps_both_ports_upnp_is_not_asked_and_close_deletes(scene: Scene) -> None:
    scene.igd = FakeIgd()
    mapper = scene.mapper()
    mapper.follow((HOME, LOOPBACK))
    assert mapper.mappings == ()  # nothing is waited for
    await until(lambda: len(mapper.mappings) == 2)
    await asyncio.sleep(0.03)
    mapped = mapper.mapped(HOME.ip, Transport.TCP)
    assert mapped is not None
    assert (mapped.external, mapped.protocol) == (Endpoint(OUTSIDE, 5000), "PCP")
    assert scene.igd.table == {}
    assert {lease.transport for lease in scene.store.leases} == set(Transport)
    assert scene.changes == 2
    await mapper.close()
    assert [lifetime for _, _, lifetime, _ in scene.network.requests()] == [1200, 1200, 0, 0]
    assert scene.store.leases == ()
    assert scene.network.open == 0


@pytest.mark.parametrize("outside", ["0.0.0.0", "10.0.0.7", "127.0.0.1", "240.0.0.1", "224.0.0.1"])
async def test_what_pcp_maps_at_a_useless_address_is_deleted_again(scene: Scene, outside: str) -> None:
    scene.network.outside = IPv4Address(outside)
    mapper = scene.mapper()
    mapper.follow((HOME,))
    await until(lambda: [lifetime for _, _, lifetime, _ in scene.network.requests()] == [1200, 1200, 0, 0])
    await asyncio.sleep(0.03)
    assert (mapper.mappings, scene.store.leases, scene.protocols()) == ((), (), [])
    assert mapper.behind(HOME.ip) == (ip_address(outside) if outside.startswith("10.") else None)
    assert [event.reason for event in scene.events if isinstance(event, ServerFailed)]
    await mapper.close()
    asked = [lifetime for _, _, lifetime, _ in scene.network.requests()]
    assert asked.count(1200) == 2  # not again so soon


async def test_on_loopback_alone_not_even_the_gateways_are_looked_up(scene: Scene) -> None:
    mapper = scene.mapper()
    mapper.follow((LOOPBACK,))
    await asyncio.sleep(0.03)
    assert (scene.network.asked, scene.network.sent, mapper.routes) == (0, [], ())
    await mapper.close()


async def test_upnp_maps_what_pcp_leaves_and_close_deletes(scene: Scene) -> None:
    scene.network.speaks = False
    scene.igd = FakeIgd()
    mapper = scene.mapper()
    mapper.follow((HOME,))
    await until(lambda: len(mapper.mappings) == 2)
    assert scene.protocols() == ["UPnP IGD 2", "UPnP IGD 2"]
    assert set(scene.igd.table) == {(Transport.TCP, 5000), (Transport.UDP, 5000)}
    await mapper.close()
    assert scene.igd.table == {}
    assert scene.store.leases == ()


async def test_upnp_leases_are_renewed_at_half_and_permanent_ones_looked_after(scene: Scene) -> None:
    scene.network.speaks = False
    scene.igd = FakeIgd()
    mapper = scene.mapper(lease=1)
    mapper.follow((HOME,))
    await until(lambda: len(mapper.mappings) == 2)
    await until(lambda: scene.igd is not None and scene.igd.renewed >= 2)
    assert len(scene.protocols()) == 2  # a renewal is no news
    await mapper.close()


async def test_what_could_not_be_deleted_is_deleted_at_the_next_start(scene: Scene) -> None:
    scene.network.speaks = False
    scene.igd = FakeIgd()
    first = scene.mapper()
    first.follow((HOME,))
    await until(lambda: len(first.mappings) == 2)
    scene.igd.down = True
    await first.close()
    assert len(scene.store.leases) == 2
    scene.igd.down = False
    second = scene.mapper(port=6000)
    second.follow((HOME,))
    await until(lambda: len(second.mappings) == 2)
    assert {port for _, port in scene.igd.table} == {6000}
    await second.close()


async def test_after_a_crash_the_nonce_is_used_again_and_another_port_is_deleted(scene: Scene) -> None:
    gateway, nonce, old = str(GATEWAY.ip), b"n" * 12, b"o" * 12
    scene.store.leases = (
        Remembered("pcp", gateway, Transport.TCP, Endpoint(HOME.ip, 5000), 5001, nonce),
        Remembered("pcp", gateway, Transport.UDP, Endpoint(HOME.ip, 4000), 4000, old),
        Remembered("upnp", "192.168.7.1", Transport.UDP, Endpoint(ip_address("192.168.7.9"), 4000), 4000),
    )
    elsewhere = scene.store.leases[-1]
    mapper = scene.mapper()
    mapper.follow((HOME,))
    await until(lambda: len(mapper.mappings) == 2)
    requests = scene.network.requests()
    assert ("tcp", 5000, 1200, nonce) in requests
    assert ("udp", 4000, 0, old) in requests
    await mapper.close()
    assert scene.store.leases == (elsewhere,)  # another network's: kept for when we are there again


async def test_absence_is_said_once_and_asked_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.network.speaks = False
    monkeypatch.setattr(portmapper, "ABSENCE_TRUST", 0.02)
    mapper = scene.mapper()
    mapper.follow((HOME,))
    await until(lambda: bool(scene.events))
    scene.igd = FakeIgd()
    await until(lambda: len(mapper.mappings) == 2)
    assert [event for event in scene.events if isinstance(event, ServerFailed)] == [
        ServerFailed("port mapping", "192.168.1.1 (UPnP)", "no UPnP gateway answers")
    ]
    await mapper.close()


async def test_a_route_that_goes_takes_its_mappings_with_it(scene: Scene) -> None:
    mapper = scene.mapper()
    mapper.follow((HOME,))
    await until(lambda: len(mapper.mappings) == 2)
    mapper.follow((LOOPBACK,))
    assert mapper.mappings == ()
    await until(lambda: scene.network.open == 0)
    mapper.follow((HOME,))
    await until(lambda: len(mapper.mappings) == 2)
    nonces = {nonce for _, _, _, nonce in scene.network.requests()}
    assert len(nonces) == 2  # the same ones: it is the same mapping
    await mapper.close()


async def test_a_change_of_network_asks_again_where_the_route_looks_the_same(scene: Scene) -> None:
    mapper = scene.mapper()
    mapper.follow((HOME,))
    await until(lambda: len(mapper.mappings) == 2)
    mapper.follow((HOME,))
    await until(lambda: len(scene.network.requests()) == 4)
    await mapper.close()
