"""When a relay need not wait for anything else: a table of fingerprints."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from warpgate.model.address import Attachment, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.plan.relay import Hope, direct_hope, reaches_relays, relay_families, relay_targets

UDP, TCP = frozenset({Transport.UDP}), frozenset({Transport.TCP})
KEY = bytes(33)


def nat(mapping: Mapping, filtering: Filtering, kind: Assignment, blocked: bool | None = False) -> NatProfile:
    return NatProfile(mapping, filtering, PortAssignment(kind), blocked)


EDM = nat(Mapping.APDM, Filtering.APDF, Assignment.RANDOM)
EDM_OPEN = nat(Mapping.APDM, Filtering.EIF, Assignment.RANDOM)
EDM_UNKNOWN = nat(Mapping.APDM, Filtering.APDF, Assignment.UNKNOWN)
EDM_BLOCK = nat(Mapping.APDM, Filtering.APDF, Assignment.BLOCK)
ADM_ADF = nat(Mapping.ADM, Filtering.ADF, Assignment.RANDOM)
EDM_SEQ = nat(Mapping.ADM, Filtering.APDF, Assignment.SEQUENTIAL)
EDM_PRESERVING = nat(Mapping.APDM, Filtering.APDF, Assignment.PRESERVING)
EIM = nat(Mapping.EIM, Filtering.APDF, Assignment.PRESERVING)
EIM_ADF = nat(Mapping.EIM, Filtering.ADF, Assignment.PRESERVING)
PUBLIC = nat(Mapping.NONE, Filtering.EIF, Assignment.PRESERVING)
NO_UDP = nat(Mapping.EIM, Filtering.UNKNOWN, Assignment.PRESERVING, blocked=True)
UNKNOWN = NatProfile()


def address(number: int, profile: NatProfile, host: str | None = None, **known: Listening) -> NodeAddress:
    udp = Listening(5000, None if profile.udp_blocked else 6000)
    at = Attachment(
        ip_address(host or f"192.168.{number}.2"),
        None if host else ip_address(f"203.0.113.{number}"),
        known.get("udp", udp),
        known.get("tcp", Listening(5000, 6000)),
        profile,
    )
    return NodeAddress(KEY, (), (at,))


LIVE = Listening(5000)


def public(number: int) -> NodeAddress:
    ip = ip_address(f"203.0.113.{number}")
    return NodeAddress(KEY, (), (Attachment(ip, ip, Listening(5000, 5000), Listening(5000, 5000), PUBLIC),))


def hope(own: NodeAddress, peer: NodeAddress, transports: frozenset[Transport]) -> Hope:
    return direct_hope(own, peer, transports).hope


@pytest.mark.parametrize(
    ("one", "other", "udp", "tcp"),
    [
        # one, other, and whether UDP and TCP are out
        (EDM, EDM, True, True),
        (EDM, EDM_SEQ, True, True),
        (EDM, EDM_BLOCK, True, True),
        (EDM, EDM_PRESERVING, False, True),
        (EDM, EDM_UNKNOWN, True, True),
        (EDM, EDM_OPEN, False, False),
        (EDM, EIM, False, True),
        (EDM, EIM_ADF, False, False),
        (EDM, UNKNOWN, False, True),
        (EDM, ADM_ADF, False, True),
        (ADM_ADF, ADM_ADF, False, True),
        (EDM_BLOCK, EDM_BLOCK, True, True),
        (EDM_BLOCK, EDM_SEQ, True, True),
        (EDM_BLOCK, EDM_UNKNOWN, True, True),
        (EDM_BLOCK, EIM, False, True),
        (EDM_BLOCK, EIM_ADF, False, False),
        (EDM_SEQ, EIM, False, False),
        (EDM_UNKNOWN, EIM, False, False),
        (EDM_UNKNOWN, EDM_SEQ, False, False),
        (EDM_SEQ, EDM_SEQ, False, False),
        (EDM_UNKNOWN, EDM_UNKNOWN, False, False),
        (EIM, EIM, False, False),
        (EIM, UNKNOWN, False, False),
        (UNKNOWN, UNKNOWN, False, False),
        (NO_UDP, EIM, True, False),
        (NO_UDP, EDM, True, True),
        (NO_UDP, NO_UDP, True, False),
    ],
)
def test_what_was_measured_rules_out_direct_links(one: NatProfile, other: NatProfile, udp: bool, tcp: bool) -> None:
    for near, far in ((one, other), (other, one)):
        a, b = address(1, near), address(2, far)
        assert hope(a, b, UDP) is (Hope.NONE if udp else Hope.FAIR)
        assert hope(a, b, TCP) is (Hope.NONE if tcp else Hope.FAIR)
        assert hope(a, b, UDP | TCP) is (Hope.NONE if udp and tcp else Hope.FAIR)
        assert hope(a, b, frozenset()) is Hope.NONE


def test_udp_that_was_silent_while_tcp_was_answered_does_not_get_through() -> None:
    silent = address(1, UNKNOWN, udp=Listening(5000))
    for other in (address(2, EIM), public(2)):
        for pair in ((silent, other), (other, silent)):
            assert hope(*pair, UDP) is Hope.NONE
            assert hope(*pair, TCP) is Hope.FAIR


def test_a_side_that_nobody_outside_has_seen_leaves_a_faint_hope() -> None:
    unseen = [NodeAddress(KEY, (), (Attachment(ip_address(f"192.168.{n}.2"), None, LIVE, LIVE),)) for n in (1, 2)]
    for other in (address(2, EIM), address(2, EDM), public(2)):
        for pair in ((unseen[0], other), (other, unseen[0])):
            assert hope(*pair, UDP | TCP) is Hope.FAINT
    assert hope(*unseen, UDP | TCP) is Hope.NONE
    neighbour = NodeAddress(KEY, (), (Attachment(ip_address("192.168.1.3"), None, LIVE, LIVE),))
    assert hope(unseen[0], neighbour, UDP) is Hope.FAIR


def test_neighbours_and_open_endpoints_are_direct_whatever_the_nats() -> None:
    assert hope(address(1, EDM), address(1, EDM), UDP) is Hope.FAIR
    mapped = address(2, EDM, udp=Listening(5000, 6000, LearntBy.PORT_MAP))
    assert hope(address(1, EDM), mapped, UDP) is Hope.FAIR
    assert hope(mapped, address(1, EDM), UDP) is Hope.FAIR


def test_no_family_in_common() -> None:
    v6 = address(2, nat(Mapping.NONE, Filtering.APDF, Assignment.PRESERVING), "2001:db8::2")
    assert "family" in direct_hope(address(1, EIM), v6, UDP | TCP).reason
    assert hope(NodeAddress(KEY), v6, UDP) is Hope.FAIR
    assert relay_families(v6) == {Family.V6}
    assert relay_families(NodeAddress(KEY)) == {Family.V4}


def test_a_relay_lets_in_the_peers_outside_addresses_only() -> None:
    own, peer = address(1, EDM), address(2, EDM)
    assert relay_targets(own, peer, Family.V4, Transport.UDP) == (Endpoint.parse("203.0.113.2:6000"),)
    assert relay_targets(own, peer, Family.V6, Transport.UDP) == ()
    private = NodeAddress(KEY, (), (Attachment(ip_address("10.0.0.9"), None, Listening(5000), Listening(5000)),))
    assert relay_targets(own, private, Family.V4, Transport.UDP) == ()
    multicast = address(2, EDM, "224.0.0.9")
    assert relay_targets(own, multicast, Family.V4, Transport.UDP) == ()


def test_what_gets_out_was_measured() -> None:
    assert reaches_relays(address(1, EDM), Transport.UDP)
    assert not reaches_relays(address(1, UNKNOWN), Transport.UDP)
    assert reaches_relays(address(1, UNKNOWN), Transport.TCP)
    assert not reaches_relays(address(1, EIM, tcp=Listening(5000)), Transport.TCP)
