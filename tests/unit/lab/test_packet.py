"""Headers against checksums computed from scratch: translation, hops, answers, and translated ICMP errors."""

from __future__ import annotations

import contextlib
import random
import time
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packet_kit import (
    build,
    flags,
    flows,
    payloads,
    slow_checksum,
)

from warpgate.errors import DecodeError
from warpgate.lab.answers import Complaint, complain, reset
from warpgate.lab.flow import ACK, FIN, RST, SYN, Flow, Forward, Protocol
from warpgate.lab.nat import Nat, NatSpec
from warpgate.lab.packet import (
    Packet,
    checksum,
    parse,
    readdress,
    rewrite,
    spend_hops,
    translate_error,
)
from warpgate.model.endpoint import Endpoint, IPAddress

ROUTER = {4: ip_address("203.0.113.9"), 6: ip_address("2001:db8::9")}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Flow, Flow]:
    first = draw(flows())
    return first, draw(flows(first.protocol, first.source.ip.version))


@given(st.binary(max_size=200))
def test_checksum(data: bytes) -> None:
    assert checksum(data) == slow_checksum(data)


@given(flows(), payloads, flags)
def test_parse_finds_the_flow(flow: Flow, payload: bytes, bits: int) -> None:
    packet = parse(build(flow, payload, bits))
    assert packet.flow == flow
    assert packet.destination == flow.destination.ip.packed
    assert (packet.source_ip, packet.destination_ip) == (flow.source.ip, flow.destination.ip)
    assert packet.flags == (bits if flow.protocol is Protocol.TCP else 0)
    assert packet.quoted is None


@given(pairs(), payloads)
def test_rewriting_equals_building_anew(pair: tuple[Flow, Flow], payload: bytes) -> None:
    old, new = pair
    packet = parse(build(old, payload))
    rewrite(packet, new)
    assert packet.data == build(new, payload)
    assert packet.flow == new
    assert packet.destination == new.destination.ip.packed


@given(flows(Protocol.ICMP))
def test_echo_replies_are_translated_at_their_destination(flow: Flow) -> None:
    packet = parse(build(flow.reverse))
    assert packet.flow == flow.reverse
    inside = Flow(Protocol.ICMP, flow.destination, Endpoint(flow.source.ip, flow.source.port ^ 0x101 or 1))
    rewrite(packet, inside)
    assert packet.data == build(inside)


@given(pairs(), payloads)
def test_udp_without_checksum_stays_without(pair: tuple[Flow, Flow], payload: bytes) -> None:
    old, new = (Flow(Protocol.UDP, flow.source, flow.destination) for flow in pair)
    packet = parse(build(old, payload, udp_sum=False))
    rewrite(packet, new)
    assert packet.data == build(new, payload, udp_sum=False)


@given(pairs(), payloads, st.integers(1, 0xFFFE))
def test_a_corrupt_packet_stays_corrupt(pair: tuple[Flow, Flow], payload: bytes, error: int) -> None:
    old, new = (Flow(Protocol.TCP, flow.source, flow.destination) for flow in pair)
    data = build(old, payload)
    at = (20 if old.source.ip.version == 4 else 40) + 16
    wrong = (data[at] << 8 | data[at + 1]) ^ error
    data[at : at + 2] = wrong.to_bytes(2, "big")
    packet = parse(data)
    rewrite(packet, new)
    assert packet.data[at : at + 2] != build(new, payload)[at : at + 2]


@given(flows(), st.integers(1, 255), st.integers(0, 12))
def test_hops(flow: Flow, hops: int, count: int) -> None:
    packet = parse(build(flow, hops=hops))
    if count < hops:
        assert spend_hops(packet, count)
        assert packet.data == build(flow, hops=hops - count)
        assert packet.hops == hops - count
    else:
        assert not spend_hops(packet, count)
        assert packet.hops == hops


@given(st.binary(max_size=120))
def test_garbage_raises_decode_error_or_parses(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        parse(bytearray(data))


@given(flows(), st.data())
def test_truncated_packets_raise_nothing_else(flow: Flow, data: st.DataObject) -> None:
    whole = build(flow, b"hello")
    with contextlib.suppress(DecodeError):
        parse(whole[: data.draw(st.integers(0, len(whole)))])


@given(flows(), flows(), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=6))
def test_damaged_errors_are_handled_like_any_packet(flow: Flow, other: Flow, damage: list[tuple[int, int]]) -> None:
    """Whatever a host sends through a raw socket, translation stays within the packet or is not tried."""
    error = complain(parse(build(flow, b"hello")), Complaint.PORT_UNREACHABLE, ROUTER[flow.source.ip.version])
    data = error.data if error is not None else build(flow)
    for at, value in damage:
        data[at % len(data)] = value
    with contextlib.suppress(DecodeError):
        packet = parse(data)
        same = other.protocol is (packet.quoted or packet.flow or other).protocol
        if same and other.source.ip.version == packet.version:
            length = len(data)
            translate_error(packet, other)
            rewrite(packet, other)
            assert len(data) == length


@given(pairs(), st.binary(min_size=8, max_size=64))
def test_fragments_know_each_other_and_take_new_addresses(pair: tuple[Flow, Flow], payload: bytes) -> None:
    old, new = (Flow(Protocol.UDP, flow.source, flow.destination) for flow in pair)
    if old.source.ip.version == 6:
        return
    first, later, other = build(old, payload), build(old, payload), build(new, payload)
    for data, bits in ((first, 0x20), (later, 0x01), (other, 0x01)):  # more fragments; offset 256 x 8
        data[6] = bits
        data[10:12] = b"\0\0"
        data[10:12] = slow_checksum(bytes(data[:20])).to_bytes(2, "big")
    head, tail = parse(first), parse(later)
    assert head.flow == old
    assert tail.flow is None
    assert head.fragment == tail.fragment is not None
    readdress(tail, new)
    assert tail.data[:20] == other[:20]
    assert tail.destination == new.destination.ip.packed


def test_fragments_of_ipv6() -> None:
    flow = Flow(Protocol.UDP, Endpoint.of("2001:db8::1", 1), Endpoint.of("2001:db8::2", 2))
    whole = build(flow, bytes(64))
    parts = []
    for bits in (0x0001, 0x0010 | 1):  # offset 0 and more; offset 16 and more
        header = bytes((int(Protocol.UDP), 0)) + bits.to_bytes(2, "big") + b"mark"
        part = whole[:40] + header + whole[40:]
        part[4:6] = (len(part) - 40).to_bytes(2, "big")
        part[6] = 44
        parts.append(parse(part))
    first, later = parts
    assert first.flow == flow
    assert later.flow is None
    assert first.fragment == later.fragment is not None


@given(flows(Protocol.TCP), payloads, flags)
def test_reset_follows_rfc_9293(flow: Flow, payload: bytes, bits: int) -> None:
    answer = reset(parse(build(flow, payload, bits)))
    if bits & RST:
        assert answer is None
        return
    assert answer is not None
    assert answer.flow == flow.reverse
    segment = answer.data[answer.body :]
    sequence, acknowledged = (int.from_bytes(segment[i : i + 4], "big") for i in (4, 8))
    if bits & ACK:
        assert (sequence, acknowledged, answer.flags) == (0x05060708, 0, RST)
    else:
        taken = len(payload) + bool(bits & SYN) + bool(bits & FIN)
        assert (sequence, acknowledged, answer.flags) == (0, 0x01020304 + taken, RST | ACK)
    assert_checksums(answer)


def assert_checksums(packet: Packet) -> None:
    data, body = bytes(packet.data), packet.body
    if packet.version == 4:
        assert slow_checksum(data[:20]) == 0
        number, addresses = data[9], data[12:20]
        assert len(data) == int.from_bytes(data[2:4], "big")
    else:
        number, addresses = data[6], data[8:40]
        assert len(data) == 40 + int.from_bytes(data[4:6], "big")
    pseudo = addresses + (len(data) - body).to_bytes(4, "big") + number.to_bytes(4, "big")
    assert slow_checksum(data[body:] if number == Protocol.ICMP else pseudo + data[body:]) == 0


@given(flows(), payloads, st.sampled_from(Complaint))
def test_complaints_quote_the_packet(flow: Flow, payload: bytes, complaint: Complaint) -> None:
    packet = parse(build(flow, payload))
    error = complain(packet, complaint, ROUTER[packet.version])
    if flow.destination.ip.is_multicast:
        assert error is None
        return
    assert error is not None
    assert error.flow is None
    assert error.quoted == flow
    assert error.source_ip == ROUTER[packet.version]
    assert error.destination_ip == flow.source.ip
    assert (error.data[error.body], error.data[error.body + 1]) in complaint.value
    assert_checksums(error)
    assert complain(error, complaint, ROUTER[packet.version]) is None  # RFC 1122 3.2.2: never about an error


@pytest.mark.parametrize(("low", "high"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_complaints_are_bounded(low: str, high: str) -> None:
    packet = parse(build(Flow(Protocol.UDP, Endpoint.of(low, 1), Endpoint.of(high, 2)), bytes(1400)))
    error = complain(packet, Complaint.PORT_UNREACHABLE, ip_address(low))
    assert error is not None
    assert len(error.data) == (576 if packet.version == 4 else 1280)
    assert_checksums(error)


@given(pairs(), payloads, st.booleans())
def test_translated_errors_equal_errors_about_the_translated(
    pair: tuple[Flow, Flow], payload: bytes, by_the_destination: bool
) -> None:
    """The error a router passes in must be the one the inside host would have got without the router."""
    outside, inside = pair
    about = parse(build(outside, payload))
    sender: IPAddress = outside.destination.ip if by_the_destination else ROUTER[about.version]
    error = complain(about, Complaint.PORT_UNREACHABLE, sender)
    if error is None:
        return
    translate_error(error, inside)
    translated = outside.destination.ip != inside.destination.ip
    seen_sender = inside.destination.ip if translated else sender
    wanted = complain(parse(build(inside, payload)), Complaint.PORT_UNREACHABLE, seen_sender)
    assert wanted is None or error.data == wanted.data
    assert error.quoted == inside
    assert error.destination == inside.source.ip.packed


@pytest.mark.alone
def test_two_nats_cost_less_than_60_microseconds() -> None:
    """A UDP packet parsed, passed by two routers with a hop each, as the lab does; best of several runs."""
    first = Nat(NatSpec(), [ip_address("203.0.113.1")], random.Random(1))
    second = Nat(NatSpec(), [ip_address("203.0.113.2")], random.Random(1))
    server = Endpoint.of("198.51.100.1", 1)
    data = [
        bytes(build(Flow(Protocol.UDP, Endpoint.of("192.168.1.2", 5000 + i), server), bytes(100))) for i in range(100)
    ]

    def once() -> float:
        start = time.perf_counter()
        for raw in data:
            packet = parse(bytearray(raw))
            for nat in (first, second):
                assert packet.flow is not None
                spend_hops(packet, 1)
                verdict = nat.outbound(packet.flow, 1.0, packet.flags)
                assert isinstance(verdict, Forward)
                rewrite(packet, verdict.flow)
        return (time.perf_counter() - start) / len(data)

    assert min(once() for _ in range(20)) < 60e-6
