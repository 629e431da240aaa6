"""A NAT64 in the lab: what becomes of packets and of errors about them, held against RFC 6146 and RFC 7915."""

from __future__ import annotations

import random
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packet_kit import addresses4, addresses6, build, payloads, ports, protocols

from warpgate.errors import ConfigError
from warpgate.lab.answers import Complaint, complain
from warpgate.lab.flow import SYN, Flow, Protocol
from warpgate.lab.kinds import kind_of
from warpgate.lab.nat import Nat, NatSpec
from warpgate.lab.nat64 import LAB_PREFIX, Nat64Router, translate
from warpgate.lab.packet import Packet, parse
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Filtering

INSIDE = ip_address("2001:db8:0:1::2")
OUTSIDE = ip_address("203.0.113.1")
PEER = ip_address("198.51.100.7")
ROUTER6 = ip_address("2001:db8:0:1::1")


def peer6(port: int) -> Endpoint:
    return Endpoint(LAB_PREFIX.embed(PEER), port)


class Place:
    """A router with one host inside, and what came out of it on either side."""

    def __init__(self, **spec: object) -> None:
        self.up: list[Packet] = []
        self.down: list[Packet] = []
        rng = random.Random(1)
        self.router = Nat64Router(
            "router",
            nat=Nat(NatSpec(**spec), [OUTSIDE], rng),  # type: ignore[arg-type]
            firewall=None,
            inside=(ROUTER6,),
            outside=(OUTSIDE, ROUTER6),
            clock=lambda: 1.0,
        )
        self.router.up = self.up.append
        self.router.below[INSIDE.packed] = self.down.append

    def out(self, flow: Flow, **options: int) -> Packet:
        """One packet from inside; what left the router."""
        self.router.from_below(parse(build(flow, b"data", **options)))
        return self.up.pop()

    def into(self, data: bytearray) -> Packet:
        self.router.from_above(parse(data))
        return self.down.pop()


def same(packet: Packet, data: bytearray) -> bool:
    """Alike but for the IPv4 identification and fragmentation fields, which IPv6 does not have."""
    other = parse(data)
    if packet.version == 4:
        return bytes(packet.data[packet.body :]) == bytes(other.data[other.body :]) and (
            packet.source_ip,
            packet.destination_ip,
            packet.hops,
        ) == (other.source_ip, other.destination_ip, other.hops)
    return bytes(packet.data) == bytes(data)


@st.composite
def both_families(draw: st.DrawFn) -> tuple[Flow, Flow]:
    protocol = draw(protocols)
    six, four = draw(st.tuples(addresses6, addresses6)), draw(st.tuples(addresses4, addresses4))
    first = [draw(ports), 0 if protocol is Protocol.ICMP else draw(ports)]
    second = [draw(ports), 0 if protocol is Protocol.ICMP else draw(ports)]
    return (
        Flow(protocol, Endpoint(six[0], first[0]), Endpoint(six[1], first[1])),
        Flow(protocol, Endpoint(four[0], second[0]), Endpoint(four[1], second[1])),
    )


@given(both_families(), payloads, st.integers(1, 255))
def test_a_translated_packet_is_as_if_it_had_been_built_so(pair: tuple[Flow, Flow], payload: bytes, hops: int) -> None:
    six, four = pair
    for before, after in ((six, four), (four, six)):
        packet = translate(parse(build(before, payload, hops=hops)), after)
        assert packet is not None
        assert packet.flow == after
        assert same(packet, build(after, payload, hops=hops))


@pytest.mark.parametrize("protocol", list(Protocol))
def test_there_and_back(protocol: Protocol) -> None:
    place = Place()
    port = 0 if protocol is Protocol.ICMP else 80
    flow = Flow(protocol, Endpoint(INSIDE, 4000), peer6(port))
    out = place.out(flow, bits=SYN, hops=9)
    assert (out.version, out.hops, out.source_ip, out.destination_ip) == (4, 8, OUTSIDE, PEER)
    assert out.flow is not None
    assert out.flow.source == Endpoint(OUTSIDE, 4000)  # the port is kept where it is free
    back = place.into(build(out.flow.reverse, b"answer", hops=9))
    assert same(back, build(flow.reverse, b"answer", hops=8))


def test_strangers_meet_the_filter_of_the_nat() -> None:
    flow = Flow(Protocol.UDP, Endpoint(INSIDE, 4000), peer6(80))
    stranger = Flow(Protocol.UDP, Endpoint.of("198.51.100.8", 5), Endpoint(OUTSIDE, 4000))
    strict = Place()
    strict.out(flow)
    strict.router.from_above(parse(build(stranger)))
    assert strict.down == []
    lax = Place(filtering=Filtering.EIF)
    lax.out(flow)
    assert lax.into(build(stranger)).source_ip == LAB_PREFIX.embed(ip_address("198.51.100.8"))


def test_two_hosts_inside_meet_by_hairpin() -> None:
    """RFC 6146 section 3.8: the packet comes back with the sender's outside address as its source."""
    place = Place(hairpin=True, filtering=Filtering.EIF)
    place.out(Flow(Protocol.UDP, Endpoint(INSIDE, 4000), peer6(80)))
    other = Endpoint.of("2001:db8:0:1::3", 5000)
    to = Endpoint(LAB_PREFIX.embed(OUTSIDE), 4000)
    place.router.from_below(parse(build(Flow(Protocol.UDP, other, to))))
    [packet] = place.down
    assert packet.flow == Flow(Protocol.UDP, Endpoint(LAB_PREFIX.embed(OUTSIDE), 5000), Endpoint(INSIDE, 4000))


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [
        (Complaint.TIME_EXCEEDED, (3, 0)),
        (Complaint.PORT_UNREACHABLE, (1, 4)),
        (Complaint.HOST_UNREACHABLE, (1, 0)),
    ],
)
def test_an_error_from_outside_quotes_what_the_host_sent(complaint: Complaint, kind: tuple[int, int]) -> None:
    place = Place()
    flow = Flow(Protocol.UDP, Endpoint(INSIDE, 4000), peer6(80))
    out = place.out(flow)
    hop = ip_address("192.0.2.2")
    error = complain(out, complaint, hop)
    assert error is not None
    seen = place.into(error.data)
    assert (seen.source_ip, seen.destination_ip) == (LAB_PREFIX.embed(hop), INSIDE)
    assert (seen.data[seen.body], seen.data[seen.body + 1]) == kind
    assert seen.quoted == flow
    assert parse(bytearray(seen.data)).quoted == flow  # well formed, its checksum is tested below
    assert _icmp6_sum_is_right(seen)


def test_an_error_from_inside_quotes_what_the_peer_sent() -> None:
    place = Place()
    out = place.out(Flow(Protocol.UDP, Endpoint(INSIDE, 4000), peer6(80)))
    assert out.flow is not None
    heard = place.into(build(out.flow.reverse))
    error = complain(heard, Complaint.PORT_UNREACHABLE, INSIDE)
    assert error is not None
    place.router.from_below(error)
    [told] = place.up
    assert told.version == 4
    assert (told.data[told.body], told.data[told.body + 1]) == (3, 3)
    assert told.destination_ip == PEER
    assert told.quoted == out.flow.reverse


def test_the_router_answers_for_itself() -> None:
    place = Place()
    flow = Flow(Protocol.UDP, Endpoint(INSIDE, 4000), peer6(80))
    place.router.from_below(parse(build(flow, hops=1)))
    [error] = place.down
    assert (error.data[error.body], error.source_ip, error.quoted) == (3, ROUTER6, flow)
    # RFC 6052 section 3.1: nothing private by the well-known prefix.
    private = Endpoint(LAB_PREFIX.embed(ip_address("10.0.0.1")), 80)
    place.router.from_below(parse(build(Flow(Protocol.UDP, Endpoint(INSIDE, 4000), private))))
    assert (place.down[-1].data[place.down[-1].body], place.up) == (1, [])


def test_what_would_not_fit_into_ipv6_is_told_the_size_that_does() -> None:
    place = Place()
    out = place.out(Flow(Protocol.UDP, Endpoint(INSIDE, 4000), peer6(80)))
    assert out.flow is not None
    place.router.from_above(parse(build(out.flow.reverse, bytes(1472))))
    [error] = place.up
    assert (place.down, error.destination_ip) == ([], PEER)
    assert bytes(error.data[error.body : error.body + 2]) == b"\x03\x04"
    assert int.from_bytes(error.data[error.body + 6 : error.body + 8], "big") == 1480
    assert place.into(build(out.flow.reverse, bytes(1452))).flow is not None


def test_ipv6_itself_passes_by_the_translator() -> None:
    place = Place()
    flow = Flow(Protocol.UDP, Endpoint(INSIDE, 4000), Endpoint.of("2001:db8:9::1", 80))
    assert place.out(flow).flow == flow
    assert place.into(build(flow.reverse)).flow == flow.reverse


def test_the_kind() -> None:
    assert kind_of("nat64").layers[0].nat64
    assert kind_of("edm-seq+nat64+rst").layers[0].nat64
    for name in ("cgn+nat64", "firewalled+nat64"):
        with pytest.raises(ConfigError, match="single router"):
            kind_of(name)


def _icmp6_sum_is_right(packet: Packet) -> bool:
    data, body = packet.data, packet.body
    assert isinstance(packet.source_ip, IPv6Address)
    pseudo = bytes(data[8:40]) + (len(data) - body).to_bytes(4, "big") + b"\0\0\0\x3a"
    words = pseudo + bytes(data[body:]) + b"\0" * (len(data[body:]) % 2)
    return sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2)) % 0xFFFF == 0
