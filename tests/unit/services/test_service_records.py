"""Services found by SRV records: a real dnsmasq on loopback, resolvers that lie, and none."""

from __future__ import annotations

import asyncio
import random
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
from services_kit import free_port

from warpgate.config import Timing
from warpgate.errors import NetworkError
from warpgate.events import Event, MappingLearnt
from warpgate.model.endpoint import Endpoint
from warpgate.model.scope import Scope
from warpgate.model.turn_server import TurnServer, TurnTransport
from warpgate.net.system import SystemNetwork
from warpgate.services.discovery import Discovery
from warpgate.services.relay import Relays
from warpgate.services.service_records import service_endpoints
from warpgate_testing.servers import MemoryStun

HOSTS = {
    "r1.example.org": "203.0.113.1",
    "r2.example.org": "203.0.113.2",
    "example.org": "203.0.113.9",
    "silent.example": "203.0.113.8",
    "inside.example": "192.168.7.7",
    "here.example": "127.0.0.1",
    "link.example": "169.254.1.1",
    "none.example": "0.0.0.0",
}
LARGE = [f"{number:02}.{'x' * 60}.large.example" for number in range(1, 30)]


class Machine(SystemNetwork):
    """Loopback, with a resolver of the test's, and names of its own."""

    def __init__(self, *ports: int, hosts: dict[str, str] = HOSTS) -> None:
        super().__init__()
        self._ports = ports
        self._hosts = hosts

    def resolvers(self) -> tuple[Endpoint, ...]:
        return tuple(Endpoint.of("127.0.0.1", port) for port in self._ports)

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        if host not in self._hosts:
            raise NetworkError(f"resolve {host}: no such name")
        return (Endpoint(ip_address(self._hosts[host]), port),)


@pytest.fixture(scope="module")
def dnsmasq() -> Iterator[int]:
    """Its port. It knows `example.org` and `large.example`, whose answer fits no datagram."""
    port = free_port()
    records = [
        "_turn._udp.example.org,r2.example.org,3480,20",
        "_turn._udp.example.org,r1.example.org,3480,10",
    ]
    records += [
        "_turns._tcp.example.org,r1.example.org,443,10",
        "_stun._udp.inside.example,inside.example,3478",
    ]
    records += [f"_turn._udp.large.example,{name},3478,{number}" for number, name in enumerate(LARGE, 1)]
    words = [f"--srv-host={record}" for record in records]
    process = subprocess.Popen(
        [
            *(
                "dnsmasq",
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
                "--user=root",
            ),
            *("--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}", "--pid-file=", *words),
            *("--local=/example/", "--local=/org/", "--log-facility=/dev/null"),
        ]
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


async def up(port: int) -> Machine:
    machine = Machine(port)
    async with asyncio.timeout(10):
        while (await service_endpoints(machine, "_turn._udp", "example.org", 1))[0].port == 1:
            pass
    return machine


def texts(found: tuple[Endpoint, ...]) -> list[str]:
    return [str(endpoint) for endpoint in found]


async def test_a_real_resolver(dnsmasq: int) -> None:
    machine = await up(dnsmasq)
    found = await service_endpoints(machine, "_turn._udp", "example.org", 3478)
    assert texts(found) == ["203.0.113.1:3480", "203.0.113.2:3480"]
    assert texts(await service_endpoints(machine, "_turn._tcp", "example.org", 3478)) == ["203.0.113.9:3478"]
    found = await service_endpoints(machine, "_stun._udp", "inside.example", 3478)
    assert texts(found) == ["192.168.7.7:3478"], "a company's own servers"
    with pytest.raises(NetworkError, match="no such name"):
        await service_endpoints(machine, "_stun._udp", "unknown.example", 3478)


async def test_an_answer_that_fits_no_datagram_is_asked_for_over_tcp(dnsmasq: int) -> None:
    await up(dnsmasq)
    hosts = {name: f"203.0.113.{number}" for number, name in enumerate(LARGE, 1)}
    machine = Machine(dnsmasq, hosts={**hosts, "large.example": "203.0.113.99"})
    found = await service_endpoints(machine, "_turn._udp", "large.example", 1)
    assert texts(found) == [f"203.0.113.{number}:3478" for number in range(1, 5)]


async def test_relays_and_stun_servers_are_found_by_their_services(dnsmasq: int) -> None:
    machine = await up(dnsmasq)
    relays = Relays(machine, ["turn:u:p@example.org", "turn:u:p@example.org:99"], lambda _: None)

    async def routes(text: str, transport: TurnTransport) -> list[tuple[str, str]]:
        machine.route_source = lambda endpoint: ip_address("127.0.0.1")  # type: ignore[method-assign]
        found = await relays._routes(TurnServer.parse(text), transport)
        return [(str(route.endpoint), route.name) for route in found]

    both = [("203.0.113.1:3480", "example.org"), ("203.0.113.2:3480", "example.org")]
    assert await routes("turn:u:p@example.org", TurnTransport.UDP) == both
    assert await routes("turn:u:p@example.org", TurnTransport.TCP) == [("203.0.113.9:3478", "example.org")]
    # RFC 5928 section 3: the certificate is of the domain that was named, not of what its records say.
    assert await routes("turns:u:p@example.org", TurnTransport.TLS) == [("203.0.113.1:443", "example.org")]
    assert await routes("turn:u:p@example.org:99", TurnTransport.UDP) == [("203.0.113.9:99", "example.org")]


# -- resolvers that lie ------------------------------------------------------------------------------------------


class Resolver(asyncio.DatagramProtocol):
    """Answers each question with what `answers` makes of it: datagrams."""

    def __init__(self, answers: Callable[[bytes], list[bytes]]) -> None:
        self.answers = answers
        self.asked = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        for answer in self.answers(data):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def resolver(answers: Callable[[bytes], list[bytes]]) -> AsyncIterator[tuple[Machine, Resolver]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Resolver(answers), local_addr=("127.0.0.1", 0))
    try:
        yield Machine(transport.get_extra_info("sockname")[1]), protocol
    finally:
        transport.close()


def told(question: bytes, *targets: str, port: int = 3478, flags: int = 0x8180) -> bytes:
    """An answer with these targets, one priority after the other."""
    end = question.index(b"\0", 12) + 5
    records = b""
    for priority, target in enumerate(targets):
        name = b"".join(bytes((len(label),)) + label.encode() for label in target.split(".") if label) + b"\0"
        data = struct.pack("!HHH", priority, 0, port) + name
        records += b"\xc0\x0c" + struct.pack("!HHIH", 33, 1, 1, len(data)) + data
    return question[:2] + struct.pack("!HHHHH", flags, 1, len(targets), 0, 0) + question[12:end] + records


def forged(question: bytes) -> list[bytes]:
    """Another id, another question, garbage; then the true one."""
    other_id = bytes((question[0] ^ 1,)) + question[1:]
    other_name = question[:13] + b"_tuxn" + question[18:]
    true = told(question, "r1.example.org")
    lies = [told(other_id, "r2.example.org"), told(other_name, "r2.example.org"), b"\xff" * 40, question[:5]]
    return [*lies, true]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (forged, ["203.0.113.1:3478"]),
        (
            lambda q: [told(q, "here.example", "link.example", "none.example", "r1.example.org")],
            ["203.0.113.1:3478"],
        ),
        (lambda q: [told(q, *["unknown.example"] * 3, "r1.example.org")], ["203.0.113.1:3478"]),
        (lambda q: [told(q, *[f"x{n}.example" for n in range(60)])], "lead nowhere"),
        (lambda q: [told(q, "here.example", "link.example")], "lead nowhere"),
        (lambda q: [told(q, "r1.example.org", port=0)], "does not serve this"),
        (lambda q: [told(q, ".")], "does not serve this"),
        (lambda q: [], ["203.0.113.8:99"]),
        (lambda q: [b"\xff" * 1000] * 50, ["203.0.113.8:99"]),
        (lambda q: [told(q, flags=0x8182)], ["203.0.113.8:99"]),
        (lambda q: [told(q, flags=0x8380)], ["203.0.113.8:99"]),
        (lambda q: [told(q, flags=0x8183)], ["203.0.113.8:99"]),
    ],
)
async def test_resolvers_and_zones_that_lie(
    monkeypatch: pytest.MonkeyPatch, answers: Callable[[bytes], list[bytes]], expected: list[str] | str
) -> None:
    monkeypatch.setattr("warpgate.services.service_records.PATIENCE", 0.6)
    async with resolver(answers) as (machine, _):
        asked = service_endpoints(machine, "_turn._udp", "silent.example", 99)
        if isinstance(expected, str):
            with pytest.raises(NetworkError, match=expected):
                await asked
        else:
            assert texts(await asked) == expected


async def test_the_second_resolver_helps_out() -> None:
    async with (
        resolver(lambda _: []) as (dead, _),
        resolver(lambda q: [told(q, "r1.example.org")]) as (well, _),
    ):
        machine = Machine(*dead._ports, *well._ports)
        found = await service_endpoints(machine, "_turn._udp", "silent.example", 99)
    assert texts(found) == ["203.0.113.1:3478"]


@pytest.mark.parametrize("host", ["localhost", "nas.local", "a.localhost", "router"])
async def test_names_of_this_machine_and_its_network_are_asked_nobody(host: str) -> None:
    async with resolver(lambda q: [told(q, "r1.example.org")]) as (machine, asked):
        machine._hosts = {host: "192.0.2.1"}
        assert texts(await service_endpoints(machine, "_turn._udp", host, 99)) == ["192.0.2.1:99"]
    assert asked.asked == 0


async def test_discovery_asks_what_the_records_name(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    stun = MemoryStun(SystemNetwork(), Endpoint.of("127.0.0.1", port))  # type: ignore[arg-type]
    events: list[Event] = []

    def answers(question: bytes) -> list[bytes]:
        return [told(question, "stun.test.example", port=port)]

    async with resolver(answers) as (machine, asked):
        # Loopback is no place that a record may name: here it stands for the internet.
        machine._hosts = {"stun.test.example": "127.0.0.1", "test.example": "203.0.113.9"}
        monkeypatch.setattr("warpgate.services.service_records._REACHED", tuple(Scope))
        discovery = Discovery(machine, ["test.example"], Timing(), events.append, lambda: None, random.Random(1))
        sock = machine.open_udp(Endpoint.of("127.0.0.1", 0), lambda *of: discovery.receive(sock, *of))
        discovery.add(sock, None)
        running = asyncio.ensure_future(discovery.run())
        await discovery.first(5.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        discovery.close()
        sock.close()
    await stun.close()
    assert asked.asked >= 1
    assert any(isinstance(event, MappingLearnt) and event.server == f"127.0.0.1:{port}" for event in events)
