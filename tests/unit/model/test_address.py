"""Addresses: sizes, the one encoding, and telling mangled text from wrong text."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from warpgate.errors import AddressError
from warpgate.model.address import Attachment, BrokerRef, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.model.identity import Identity
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment

KEY = Identity.generate().public_key
NAT = NatProfile(
    mapping=Mapping.APDM,
    filtering=Filtering.APDF,
    assignment=PortAssignment(Assignment.BLOCK, low=1024, high=2047),
    udp_blocked=False,
    mapping_samples=3,
    filtering_samples=2,
    assignment_samples=15,
)
V4 = Attachment(
    ip_address("192.168.1.20"),
    ip_address("203.0.113.9"),
    Listening(20000, 1030, LearntBy.STUN),
    Listening(20000, 41000, LearntBy.PORT_MAP),
    NAT,
)
V6 = Attachment(
    ip_address("2001:db8::20"),
    ip_address("2001:db8::20"),
    Listening(20000, 20000, LearntBy.STUN),
    Listening(20000, 20000, LearntBy.STUN),
    NatProfile(Mapping.NONE, Filtering.APDF, udp_blocked=False, mapping_samples=2, filtering_samples=1),
)
ADDRESS = NodeAddress(
    KEY, (BrokerRef("mqtt://192.0.2.1:1884", 0.037), BrokerRef("mqtts://192.0.2.2:443", 0.25)), (V4, V6)
)


def test_a_dual_stack_interface_with_two_brokers_fits_in_140_bytes() -> None:
    worst = replace(V6, reflexive=ip_address("2001:db8::1"), udp=V4.udp, tcp=Listening(1, 2), nat=NAT)
    assert len(replace(ADDRESS, attachments=(replace(V4, tcp=Listening(1, 2)), worst)).encode()) <= 140
    assert len(ADDRESS.encode()) <= 110


@pytest.mark.parametrize(
    "address",
    [
        ADDRESS,
        NodeAddress(KEY),
        NodeAddress(KEY, tuple(BrokerRef.of(f"mqtt://broker-{i}.example") for i in range(4)), (V4, V6) * 4),
        NodeAddress(KEY, (), (Attachment(ip_address("10.0.0.1")),)),
        NodeAddress(KEY, (), (Attachment(ip_address("10.0.0.1"), nat=NatProfile(pooled=True)),)),
        NodeAddress(KEY, (), (replace(V4, udp=Listening(0), tcp=Listening(7, 7, LearntBy.STUN)),)),
        NodeAddress(KEY, (), (replace(V4, nat=NatProfile(assignment=PortAssignment(Assignment.SEQUENTIAL, -2))),)),
    ],
)
def test_bytes_and_text_give_the_address_back(address: NodeAddress) -> None:
    assert NodeAddress.decode(address.encode()) == address
    assert NodeAddress.from_text(address.to_text()) == address


def test_pasted_text_may_be_wrapped_and_padded_with_blanks() -> None:
    text = ADDRESS.to_text()
    assert NodeAddress.from_text(f"\n  {text[:60]}\n {text[60:]} \n") == ADDRESS


@pytest.mark.parametrize(
    ("mangle", "complaint"),
    [
        (lambda text: text[:-1], "mangled"),
        (lambda text: text[:50] + text[51:], "mangled"),
        (lambda text: text[:50] + ("A" if text[50] != "A" else "B") + text[51:], "mangled"),
        (lambda text: text[:50] + "!" + text[51:], "mangled"),
        (lambda text: text + "=", "mangled"),
        (lambda text: text + "é", "mangled"),
        (lambda text: text.upper(), "mangled"),
        (lambda text: "wg1", "mangled"),
        (lambda text: "wg2" + text[3:], "another version"),
        (lambda text: "alice", "not a node address"),
        (lambda text: "", "not a node address"),
        (lambda text: "https://example.org/" + text, "not a node address"),
    ],
)
def test_the_error_tells_mangled_wrong_and_newer_text_apart(mangle: object, complaint: str) -> None:
    assert callable(mangle)
    with pytest.raises(AddressError, match=complaint):
        NodeAddress.from_text(mangle(ADDRESS.to_text()))


def test_every_changed_character_is_noticed() -> None:
    text = ADDRESS.to_text()
    for index in range(3, len(text)):
        with pytest.raises(AddressError):
            NodeAddress.from_text(text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :])


def test_a_host_name_has_labels_and_survives_what_is_done_to_host_names() -> None:
    name = ADDRESS.to_host_name()
    assert re.fullmatch(r"wg1(\.[a-z2-7]{1,63})+", name)
    assert NodeAddress.from_text(name.upper()) == ADDRESS
    for index in range(4, len(name)):
        if name[index] != ".":
            with pytest.raises(AddressError, match="mangled"):
                NodeAddress.from_text(name[:index] + ("a" if name[index] != "a" else "b") + name[index + 1 :])


def test_every_cut_and_every_trailing_byte_is_refused() -> None:
    data = ADDRESS.encode()
    for size in range(len(data)):
        with pytest.raises(AddressError):
            NodeAddress.decode(data[:size])
    with pytest.raises(AddressError):
        NodeAddress.decode(data + b"\0")


def test_another_version_is_named() -> None:
    with pytest.raises(AddressError, match="version 2"):
        NodeAddress.decode(b"\2" + ADDRESS.encode()[1:])


def test_a_key_that_is_no_point_is_refused() -> None:
    bad = NodeAddress(b"\x02" + b"\xff" * 32)
    with pytest.raises(AddressError, match="public key"):
        NodeAddress.decode(bad.encode())


def test_the_digest_follows_the_content() -> None:
    assert len(ADDRESS.digest) == 8
    assert ADDRESS.digest == NodeAddress.decode(ADDRESS.encode()).digest
    assert ADDRESS.digest != replace(ADDRESS, brokers=()).digest


EIM = NatProfile(Mapping.EIM, udp_blocked=False, mapping_samples=2)


@pytest.mark.parametrize(
    ("mine", "theirs", "learnt", "same"),
    [
        (EIM, EIM, {"filtering": Filtering.APDF, "filtering_samples": 2}, True),
        (EIM, NAT, {"filtering": Filtering.APDF, "filtering_samples": 2}, False),
        (NAT, EIM, {"filtering": Filtering.ADF}, False),
        (
            NAT,
            EIM,
            {"assignment_samples": 3, "assignment": PortAssignment(Assignment.BLOCK, 0, 900, 2100)},
            True,
        ),
        (EIM, EIM, {"mapping": Mapping.ADM}, False),
        (EIM, EIM, {"udp_blocked": True}, False),
    ],
)
def test_the_plan_digest_follows_what_the_peer_decides_by(
    mine: NatProfile, theirs: NatProfile, learnt: dict[str, object], same: bool
) -> None:
    peer = NodeAddress(KEY, (), (replace(V4, nat=theirs),))
    before = NodeAddress(KEY, (), (replace(V4, nat=mine),))
    after = NodeAddress(KEY, (), (replace(V4, nat=replace(mine, **learnt)),))
    assert (before.plan_digest(peer) == after.plan_digest(peer)) is same
    assert before.plan_digest(peer) != replace(before, attachments=(V4, V6)).plan_digest(peer)


def test_sample_counts_and_round_trips_are_capped() -> None:
    many = replace(V4, nat=replace(NAT, mapping_samples=400))
    address = NodeAddress(KEY, (BrokerRef("mqtt://192.0.2.1:1883", 1e9),), (many,))
    again = NodeAddress.decode(address.encode())
    assert again.attachments[0].nat.mapping_samples == 15
    assert again.brokers[0].rtt == 65.535


def test_endpoints_of_an_attachment() -> None:
    assert V4.host_endpoint(Transport.UDP) == Endpoint.of("192.168.1.20", 20000)
    assert V4.reflexive_endpoint(Transport.TCP) == Endpoint.of("203.0.113.9", 41000)
    assert V4.family is Family.V4
    bare = Attachment(ip_address("10.0.0.1"), udp=Listening(5), tcp=Listening(0, 9))
    assert bare.host_endpoint(Transport.TCP) is None
    assert bare.reflexive_endpoint(Transport.UDP) is None
    assert bare.reflexive_endpoint(Transport.TCP) is None


def test_broker_urls_people_write_become_canonical() -> None:
    assert BrokerRef.of("MQTT://Broker.Example").url == "mqtt://broker.example:1883"
    six = BrokerRef.of("mqtts://[2001:DB8:0::1]", 0.01)
    assert (six.url, six.host, six.port, six.tls) == ("mqtts://[2001:db8::1]:8883", "2001:db8::1", 8883, True)
    web = BrokerRef.of("WSS://Broker.Example")
    assert (web.url, web.port, web.tls, web.path) == ("wss://broker.example:443/mqtt", 443, True, "/mqtt")
    assert BrokerRef.of("ws://Broker.Example/Path").url == "ws://broker.example:80/Path"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://broker:1883",
        "mqtt://",
        "mqtt://user:pass@broker:1883",
        "mqtt://broker:0",
        "mqtt://broker:70000",
        "mqtt://broker:1883/path",
        "mqtt://broker:1883/",
        "wss://broker//",
        "wss://broker/a b",
        "wss://broker/" + "x" * 64,
        "mqtt://1.2.3:1883",
        "mqtt://1.2.3.4.5:1883",
        "mqtt://[nonsense]:1883",
        "mqtt://b\u00fccher:1883",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(AddressError):
        BrokerRef.of(url)


def test_impossible_values_cannot_be_built_or_encoded() -> None:
    for build in (
        lambda: Listening(65536),
        lambda: Listening(1, 0),
        lambda: Attachment(ip_address("10.0.0.1"), ip_address("2001:db8::1")),
        lambda: Attachment(ip_address("::ffff:10.0.0.1")),
        lambda: BrokerRef("mqtt://broker"),
        lambda: BrokerRef("mqtt://broker:1883", -1.0),
        lambda: BrokerRef("mqtt://broker:1883", float("nan")),
        lambda: NodeAddress(b"short"),
        lambda: NodeAddress(KEY, (), (V4,) * 9),
        lambda: NodeAddress(KEY, (BrokerRef("mqtt://broker:1883"),) * 5),
        lambda: NodeAddress(KEY, tuple(BrokerRef(f"mqtt://{'a' * 250}{i}:1883") for i in range(4))).encode(),
        lambda: NodeAddress(
            KEY, (), (replace(V4, nat=NatProfile(assignment=PortAssignment(Assignment.SEQUENTIAL, 40000))),)
        ).encode(),
    ):
        with pytest.raises(AddressError):
            build()
