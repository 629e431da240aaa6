"""The PCP and NAT-PMP client against a gateway that is a function, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address

import pytest

from warpgate.model.endpoint import Endpoint, Transport
from warpgate.proto.portmap import PortMapClient
from warpgate.proto.portmap_events import (
    AllReleased,
    Dialect,
    Granted,
    Lost,
    PortMapEvent,
    Refused,
    Restarted,
    Silent,
    Wish,
)
from warpgate.proto.portmap_wire import (
    PcpRequest,
    PcpResponse,
    PcpResult,
    PmpAddress,
    PmpMapped,
    PmpRefused,
    PmpResult,
)
from warpgate_testing.portmap import decode_request, encode_response

BASE = Endpoint(ip_address("192.168.1.2"), 40000)
SERVER = Endpoint(ip_address("192.168.1.1"), 5351)
OUTSIDE = IPv4Address("203.0.113.1")
TCP = Wish(Transport.TCP, 5000, b"t" * 12)
UDP = Wish(Transport.UDP, 5000, b"u" * 12)
LEASE = 1200
Gateway = Callable[[bytes, float], list[bytes]]


@dataclass
class PcpGateway:
    """Grants everything at the port asked for plus 1000; `boot` is when its clock read 0."""

    boot: float = -5000.0
    result: int = 0
    lease: int = LEASE
    requests: list[tuple[float, PcpRequest]] = field(default_factory=list)

    def __call__(self, data: bytes, now: float) -> list[bytes]:
        if data[0] != 2:
            return []
        request = decode_request(data)
        self.requests.append((now, request))
        wanted = request.mapping
        external = Endpoint(OUTSIDE, wanted.internal_port + 1000)
        mapping = type(wanted)(wanted.nonce, wanted.transport, wanted.internal_port, external)
        lifetime = min(request.lifetime, self.lease) if not self.result else 60
        return [encode_response(PcpResponse(self.result, lifetime, int(now - self.boot), mapping))]


@dataclass
class PmpGateway:
    """RFC 6886 only; `speaks_up` False: an old one that ignores what it does not know."""

    speaks_up: bool = True
    sent: list[bytes] = field(default_factory=list)

    def __call__(self, data: bytes, now: float) -> list[bytes]:
        self.sent.append(data)
        epoch = 1000 + int(now)
        if data[0] != 0:
            return [encode_response(PmpRefused(1, epoch))] if self.speaks_up else []
        if data[1] == 0:
            return [encode_response(PmpAddress(0, epoch, OUTSIDE))]
        transport = {1: Transport.UDP, 2: Transport.TCP}[data[1]]
        internal, lifetime = int.from_bytes(data[4:6], "big"), int.from_bytes(data[8:12], "big")
        return [encode_response(PmpMapped(0, epoch, transport, internal, internal + 7 if lifetime else 0, lifetime))]


def deaf(data: bytes, now: float) -> list[bytes]:
    return []


@dataclass
class World:
    client: PortMapClient
    gateway: Gateway
    now: float = 0.0
    events: list[tuple[float, PortMapEvent]] = field(default_factory=list)
    sends: list[tuple[float, bytes]] = field(default_factory=list)

    def settle(self) -> None:
        while transmit := self.client.poll_transmit():
            assert (transmit.base, transmit.remote) == (BASE, SERVER)
            self.sends.append((self.now, transmit.data))
            for answer in self.gateway(transmit.data, self.now):
                self.client.receive(answer, SERVER, self.now)
        while event := self.client.poll_event():
            self.events.append((self.now, event))

    def run(self, until: float) -> list[PortMapEvent]:
        """Events up to and including `until`."""
        before = len(self.events)
        while (due := self.client.poll_timeout()) is not None and due <= until:
            self.now = max(self.now, due)
            self.client.handle_timeout(self.now)
            self.settle()
        self.now = until
        return [event for _, event in self.events[before:]]


def world(gateway: Gateway, *wishes: Wish, stale: tuple[Wish, ...] = ()) -> World:
    return World(PortMapClient(BASE, SERVER, wishes, LEASE, 0.5, 0.0, stale), gateway)


def granted(wish: Wish, port: int, dialect: Dialect = Dialect.PCP) -> Granted:
    return Granted(wish, Endpoint(OUTSIDE, port), float(LEASE), dialect)


def test_both_ports_are_mapped_at_once_and_renewed_after_half_the_lease() -> None:
    gateway = PcpGateway()
    scene = world(gateway, TCP, UDP)
    assert scene.run(1.0) == [granted(TCP, 6000), granted(UDP, 6000)]
    assert [request.client for _, request in gateway.requests] == [BASE.ip, BASE.ip]
    assert scene.run(LEASE / 2 - 1) == []
    assert scene.run(LEASE * 5 / 8) == [granted(TCP, 6000), granted(UDP, 6000)]
    renewal = gateway.requests[2][1].mapping
    assert (renewal.nonce, renewal.external) == (
        TCP.nonce,
        Endpoint(OUTSIDE, 6000),
    )  # asks for the same again
    assert len(scene.sends) == 4  # and nothing in NAT-PMP


def test_a_nat_pmp_gateway_that_refuses_pcp_is_spoken_to_in_nat_pmp_at_once() -> None:
    scene = world(PmpGateway(), TCP, UDP)
    assert scene.run(0.0) == [granted(TCP, 5007, Dialect.NAT_PMP), granted(UDP, 5007, Dialect.NAT_PMP)]


def test_a_nat_pmp_gateway_that_ignores_pcp_is_found_after_half_a_second() -> None:
    scene = world(PmpGateway(speaks_up=False), UDP)
    assert scene.run(0.49) == []
    assert scene.run(0.5) == [granted(UDP, 5007, Dialect.NAT_PMP)]


def test_silence_is_said_once_and_pcp_is_repeated_by_its_rfc() -> None:
    scene = world(deaf, UDP)
    assert scene.run(30.0) == [Silent()]
    assert scene.events[0][0] == 5.0
    assert [at for at, data in scene.sends if data[0] == 2] == [0.0, 3.0, 9.0, 21.0]
    assert [at for at, data in scene.sends if data[0] == 0][:4] == [0.5, 0.75, 1.25, 2.25]


def test_a_refusal_is_tried_again_when_its_lifetime_is_over() -> None:
    gateway = PcpGateway(result=PcpResult.NO_RESOURCES)
    scene = world(gateway, TCP)
    assert scene.run(59.0) == [Refused(TCP, "NO_RESOURCES", Dialect.PCP)]
    gateway.result = 0
    assert scene.run(60.0) == [granted(TCP, 6000)]


def test_a_lease_that_nobody_renews_is_lost() -> None:
    scene = world(PcpGateway(), TCP)
    scene.run(1.0)
    scene.gateway = deaf
    assert scene.run(LEASE) == [Lost(TCP)]
    renewals = [at / LEASE for at, _ in scene.sends[1:4]]
    assert renewals == pytest.approx([0.5625, 0.78125, 0.890625])
    scene.gateway = PcpGateway()
    assert granted(TCP, 6000) in scene.run(LEASE + 10)


def test_renewals_of_a_short_lease_are_four_seconds_apart() -> None:
    """RFC 6887 section 11.2.1; the gateway chooses the lease, and does not answer what renews it."""
    gateway = PcpGateway(result=0, lease=10)
    scene = world(gateway, TCP)
    scene.run(1.0)
    scene.gateway = deaf
    assert Lost(TCP) in scene.run(10.0)
    renewals = [at for at, _ in scene.sends[1:] if at < 10.0]
    assert renewals == pytest.approx([5.625, 9.625])


def test_a_restarted_gateway_gets_all_mappings_again_with_the_first_answer() -> None:
    gateway = PcpGateway()
    scene = world(gateway, TCP, UDP)
    scene.run(1.0)
    gateway.boot = 500.0
    events = scene.run(LEASE * 5 / 8)
    assert events[:2] == [granted(TCP, 6000), Restarted()]
    assert events.count(granted(UDP, 6000)) >= 1


@pytest.mark.parametrize(("gateway", "dialect"), [(PcpGateway(), Dialect.PCP), (PmpGateway(), Dialect.NAT_PMP)])
def test_release_deletes_and_is_acknowledged(gateway: Gateway, dialect: Dialect) -> None:
    scene = world(gateway, TCP, UDP)
    scene.run(1.0)
    before = len(scene.sends)
    scene.client.release(scene.now)
    scene.settle()
    assert scene.events[-1] == (1.0, AllReleased())
    deletions = [data for _, data in scene.sends[before:]]
    assert len(deletions) == 2
    if dialect is Dialect.PCP:
        assert [decode_request(data).lifetime for data in deletions] == [0, 0]
        assert decode_request(deletions[0]).mapping.external == Endpoint(IPv4Address(0), 0)
    else:
        assert all(data[6:] == bytes(6) for data in deletions)
    assert scene.client.poll_timeout() is None


def test_release_gives_up_on_a_gateway_that_is_gone() -> None:
    scene = world(PcpGateway(), TCP)
    scene.run(1.0)
    scene.gateway = deaf
    scene.client.release(1.0)
    scene.settle()
    assert scene.run(2.0) == [AllReleased()]
    assert scene.events[-1][0] == 1.75


def test_what_an_earlier_run_left_is_deleted() -> None:
    gateway = PcpGateway()
    left = Wish(Transport.UDP, 4999, b"l" * 12)
    assert world(gateway, UDP, stale=(left,)).run(1.0) == [granted(UDP, 6000)]
    requests = [(request.lifetime, request.mapping.nonce) for _, request in gateway.requests]
    assert requests == [(LEASE, UDP.nonce), (0, left.nonce)]


def test_strangers_and_other_nonces_are_ignored() -> None:
    scene = world(deaf, UDP)
    scene.run(0.0)
    answer = PcpGateway()(scene.sends[0][1], 0.0)[0]
    scene.client.receive(answer, Endpoint(ip_address("192.168.1.9"), 5351), 0.1)
    scene.client.receive(answer[:24] + b"x" * 12 + answer[36:], SERVER, 0.1)
    scene.settle()
    assert scene.events == []
    scene.client.receive(answer, SERVER, 0.2)
    scene.settle()
    assert scene.events == [(0.0, granted(UDP, 6000))]


def test_a_release_before_the_first_answer_deletes_without_waiting() -> None:
    scene = world(deaf, TCP, UDP)
    scene.run(0.1)
    before = len(scene.sends)
    scene.client.release(scene.now)
    scene.settle()
    deletions = [decode_request(data) for _, data in scene.sends[before:]]
    assert [(each.lifetime, each.mapping.nonce) for each in deletions] == [(0, TCP.nonce), (0, UDP.nonce)]
    assert scene.client.poll_timeout() is None
    assert scene.events[-1][1] == AllReleased()


def test_what_is_declined_is_deleted_and_asked_for_again_after_ever_longer_pauses() -> None:
    gateway = PcpGateway()
    scene = world(gateway, TCP)
    asked = []
    for _ in range(4):
        grant = None
        while grant is None:
            due = scene.client.poll_timeout()
            assert due is not None
            grant = next((event for event in scene.run(due) if isinstance(event, Granted)), None)
        asked.append(scene.now)
        scene.client.decline(TCP, scene.now)
        scene.settle()
        assert gateway.requests[-1][1].lifetime == 0
    assert asked == [0.0, 30.0, 90.0, 210.0]
    assert [request.lifetime for _, request in gateway.requests] == [LEASE, 0] * 4


def test_a_declined_mapping_whose_deletion_is_not_acknowledged_is_not_forgotten() -> None:
    gateway = PcpGateway()
    scene = world(gateway, TCP)
    scene.run(0.0)
    scene.gateway = deaf
    scene.client.decline(TCP, scene.now)
    scene.run(20.0)
    assert len(scene.sends) == 1 + 3
    scene.gateway = gateway
    assert scene.run(31.0) == [granted(TCP, 6000)]
    scene.client.release(scene.now)
    scene.settle()
    assert gateway.requests[-1][1].lifetime == 0


@pytest.mark.parametrize("says", [None, IPv4Address(0)])
def test_a_nat_pmp_gateway_that_does_not_know_its_address_is_not_asked_without_end(
    says: IPv4Address | None,
) -> None:
    inner = PmpGateway()

    def gateway(data: bytes, now: float) -> list[bytes]:
        if data == bytes(2):
            return [] if says is None else [encode_response(PmpAddress(0, 1000 + int(now), says))]
        return inner(data, now)

    scene = world(gateway, TCP)
    events = scene.run(60.0)
    assert len(scene.sends) < 25
    if says is not None:  # the owner declines that
        assert events == [Granted(TCP, Endpoint(IPv4Address(0), 5007), float(LEASE), Dialect.NAT_PMP)]


@pytest.mark.parametrize("address_first", [True, False])
def test_what_nat_pmp_maps_while_the_gateway_has_no_address_is_deleted_again(address_first: bool) -> None:
    """RFC 6886 section 3.5, result 3: a network failure. The question and the request to map left together."""
    inner = PmpGateway()
    late: list[bytes] = []

    def gateway(data: bytes, now: float) -> list[bytes]:
        if data == bytes(2):
            failed = encode_response(PmpAddress(3, 1000 + int(now), None))
            if address_first:
                return [failed]
            late.append(failed)
            return []
        return [*inner(data, now), *late]

    scene = world(gateway, TCP, stale=(UDP,))
    events = scene.run(20.0)
    assert events == [Refused(TCP, "NETWORK_FAILURE", Dialect.NAT_PMP)]
    lifetimes = [int.from_bytes(data[8:12], "big") for data in inner.sent if data[:2] == b"\0\2"]
    assert lifetimes[0] == LEASE
    assert lifetimes[-1] == 0
    assert scene.client.poll_timeout() == pytest.approx(30.0, abs=1.0)


@pytest.mark.parametrize("result", [PcpResult.NO_RESOURCES, PcpResult.NETWORK_FAILURE])
def test_a_renewal_that_is_refused_for_the_moment_leaves_the_mapping_as_it_is(result: PcpResult) -> None:
    """Until its lease runs out; asked again every minute, as that gateway says."""
    gateway = PcpGateway()
    scene = world(gateway, TCP)
    scene.run(1.0)
    gateway.result = result
    assert scene.run(LEASE - 1.0) == []
    assert 4 < len(gateway.requests) < 12
    gateway.result = 0
    assert scene.run(LEASE - 0.5) == []
    assert set(map(type, scene.run(LEASE + 60.0))) == {Lost, Granted}
    gateway.result = result
    assert set(map(type, scene.run(3 * LEASE))) == {Lost, Refused}


def test_a_lease_of_years_is_looked_after_all_the_same() -> None:
    gateway = PcpGateway()
    scene = world(lambda data, now: [_generous(answer) for answer in gateway(data, now)], TCP)
    assert scene.run(1.0) == [granted(TCP, 6000)]
    assert scene.run(LEASE * 5 / 8) == [granted(TCP, 6000)]


def _generous(answer: bytes) -> bytes:
    """With the longest lifetime that there is."""
    return answer[:4] + b"\xff" * 4 + answer[8:]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_mapping_at_port_0_is_none_and_that_is_told(dialect: Dialect) -> None:
    inner: Gateway = PcpGateway() if dialect is Dialect.PCP else PmpGateway()
    lifetimes = []

    def gateway(data: bytes, now: float) -> list[bytes]:
        answers = inner(data, now)
        if data[0] == 2 and dialect is Dialect.PCP:
            request = decode_request(data)
            lifetimes.append(request.lifetime)
            nowhere = replace(request.mapping, external=Endpoint(OUTSIDE, 0))
            return [encode_response(PcpResponse(0, request.lifetime, 5000 + int(now), nowhere))]
        if data[:2] == b"\0\2":
            lifetimes.append(int.from_bytes(data[8:12], "big"))
            return [encode_response(PmpMapped(0, 1000 + int(now), Transport.TCP, 5000, 0, lifetimes[-1]))]
        return answers

    scene = world(gateway, TCP)
    assert scene.run(20.0) == [Refused(TCP, "the gateway granted port 0", dialect)]
    assert lifetimes == [LEASE, 0]


def test_a_gateway_that_has_always_just_restarted_is_not_asked_without_end() -> None:
    inner = PcpGateway()

    def gateway(data: bytes, now: float) -> list[bytes]:
        inner.boot = now - len(inner.requests) % 2 * 100_000
        return inner(data, now)

    scene = world(gateway, TCP, UDP)
    events = scene.run(60.0)
    assert len(scene.sends) <= 2 + 2 * 60 / 10
    assert sum(isinstance(event, Restarted) for event in events) <= 6


def test_answers_that_nobody_asked_for_are_not_heard() -> None:
    scene = world(PcpGateway(), TCP)
    scene.run(1.0)
    request = decode_request(scene.sends[0][1])
    for port in range(7000, 7100):
        mapping = replace(request.mapping, external=Endpoint(OUTSIDE, port))
        scene.client.receive(encode_response(PcpResponse(0, LEASE, 5001, mapping)), SERVER, scene.now)
        scene.client.receive(encode_response(PmpAddress(3, 5001, None)), SERVER, scene.now)
    scene.settle()
    assert [event for _, event in scene.events] == [granted(TCP, 6000)]


def test_a_gateway_of_pcp_alone_whose_first_packets_are_lost_is_spoken_to_in_pcp() -> None:
    inner = PcpGateway()

    def gateway(data: bytes, now: float) -> list[bytes]:
        if data[0] == 0:  # NAT-PMP's question for the address, which leaves because nothing was heard
            return [encode_response(PmpAddress(PmpResult.UNSUPPORTED_VERSION, 5000 + int(now), None))]
        return inner(data, now) if now else []

    scene = world(gateway, TCP, UDP)
    assert scene.run(0.6) == [granted(TCP, 6000), granted(UDP, 6000)]
    assert scene.run(20.0) == []


def test_a_refusal_of_nat_pmp_that_names_no_mapping_is_told_and_not_asked_again_at_once() -> None:
    inner = PmpGateway()

    def gateway(data: bytes, now: float) -> list[bytes]:
        if data[:2] == b"\0\2":
            return [encode_response(PmpRefused(PmpResult.NOT_AUTHORIZED, 1000 + int(now)))]
        return inner(data, now)

    scene = world(gateway, TCP)
    assert scene.run(25.0) == [Refused(TCP, "NOT_AUTHORIZED", Dialect.NAT_PMP)]
    assert len(scene.sends) == 3  # PCP, and NAT-PMP's question and wish


@pytest.mark.parametrize("lifetime", [0, 1, 3])
def test_a_lease_that_only_flickers_is_none_and_deleted(lifetime: int) -> None:
    asked = []

    def gateway(data: bytes, now: float) -> list[bytes]:
        request = decode_request(data)
        asked.append(request.lifetime)
        return [encode_response(PcpResponse(0, lifetime, 5000 + int(now), request.mapping))]

    scene = world(gateway, replace(TCP, external_port=6000))
    events = scene.run(25.0)
    assert events == [
        Refused(
            replace(TCP, external_port=6000),
            f"the gateway granted a lease of {lifetime} seconds",
            Dialect.PCP,
        )
    ]
    assert asked == ([LEASE, 0] if not lifetime else [LEASE, 0, 0, 0])
