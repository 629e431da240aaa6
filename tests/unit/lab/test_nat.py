"""The router models against the definitions of RFC 4787 and RFC 5382, for every mapping x filtering x assignment."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from ipaddress import ip_address

import pytest

from warpgate.errors import ConfigError
from warpgate.lab.nat import (
    ACK,
    FIN,
    RST,
    SYN,
    Answer,
    Drop,
    Flow,
    Forward,
    Lifetimes,
    Local,
    Nat,
    NatSpec,
    Pooling,
    Protocol,
    Reject,
    Side,
    Unsolicited,
)
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Assignment, Filtering, Mapping, PortAssignment

EXTERNAL = ip_address("203.0.113.1")
INSIDE = Endpoint.of("192.168.1.2", 5000)
OTHER_INSIDE = Endpoint.of("192.168.1.3", 5000)
# Y1:y1, Y1:y2, Y2:y1, Y2:y2 of RFC 4787 section 4.1
Y1A, Y1B = Endpoint.of("198.51.100.1", 3478), Endpoint.of("198.51.100.1", 3479)
Y2A, Y2B = Endpoint.of("198.51.100.2", 3478), Endpoint.of("198.51.100.2", 3479)

ASSIGNMENTS = (
    PortAssignment(Assignment.PRESERVING),
    PortAssignment(Assignment.SEQUENTIAL, step=1),
    PortAssignment(Assignment.SEQUENTIAL, step=-3),
    PortAssignment(Assignment.RANDOM),
    PortAssignment(Assignment.BLOCK, low=30000, high=30999),
)
TRANSLATING = (Mapping.EIM, Mapping.ADM, Mapping.APDM)
FILTERINGS = (Filtering.EIF, Filtering.ADF, Filtering.APDF)
PROTOCOLS = (Protocol.UDP, Protocol.TCP)


def make(spec: NatSpec, seed: int = 1) -> Nat:
    addresses = [EXTERNAL + i for i in range(spec.pool_size)] if spec.translates else []
    return Nat(spec, addresses, random.Random(seed))


def opening(protocol: Protocol) -> int:
    return SYN if protocol is Protocol.TCP else 0


def send(
    nat: Nat, to: Endpoint, now: float = 0.0, source: Endpoint = INSIDE, protocol: Protocol = Protocol.UDP
) -> Endpoint:
    """The external endpoint that `to` sees."""
    verdict = nat.outbound(Flow(protocol, source, to), now, opening(protocol))
    assert isinstance(verdict, Forward), verdict
    assert verdict.side is Side.OUTSIDE
    assert verdict.flow.destination == to
    return verdict.flow.source


def hears(
    nat: Nat, source: Endpoint, to: Endpoint, now: float = 0.0, protocol: Protocol = Protocol.UDP
) -> bool:
    """Whether a packet from outside reaches the inside endpoint."""
    verdict = nat.inbound(Flow(protocol, source, to), now, opening(protocol))
    if isinstance(verdict, Forward):
        assert verdict.side is Side.INSIDE
        assert verdict.flow.source == source
        return True
    return False


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
@pytest.mark.parametrize("assignment", ASSIGNMENTS, ids=lambda a: f"{a.kind.value}{a.step or ''}")
@pytest.mark.parametrize("filtering", FILTERINGS, ids=lambda f: f.name)
@pytest.mark.parametrize("mapping", TRANSLATING, ids=lambda m: m.name)
def test_mapping_behaviour(
    mapping: Mapping, filtering: Filtering, assignment: PortAssignment, protocol: Protocol
) -> None:
    """RFC 4787 section 4.1: X1':x1' equals X2':x2' for all Y2:y2 / only when Y2 = Y1 / only when Y2:y2 = Y1:y1."""
    nat = make(NatSpec(mapping=mapping, filtering=filtering, assignment=assignment))
    seen = {to: send(nat, to, protocol=protocol) for to in (Y1A, Y1B, Y2A)}
    assert all(endpoint.ip == EXTERNAL for endpoint in seen.values())
    assert (seen[Y1A] == seen[Y1B]) == (mapping is not Mapping.APDM)
    assert (seen[Y1A] == seen[Y2A]) == (mapping is Mapping.EIM)
    assert {to: send(nat, to, protocol=protocol) for to in seen} == seen  # and stays so


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
@pytest.mark.parametrize("filtering", FILTERINGS, ids=lambda f: f.name)
@pytest.mark.parametrize("mapping", [*TRANSLATING, Mapping.NONE], ids=lambda m: m.name)
def test_filtering_behaviour(mapping: Mapping, filtering: Filtering, protocol: Protocol) -> None:
    """RFC 4787 section 5, for a mapping that was made by sending to Y1:y1 alone."""
    nat = make(NatSpec(mapping=mapping, filtering=filtering, assignment=ASSIGNMENTS[3]))
    external = send(nat, Y1A, protocol=protocol)
    assert hears(nat, Y1A, external, protocol=protocol)
    assert hears(nat, Y1B, external, protocol=protocol) == (filtering is not Filtering.APDF)
    assert hears(nat, Y2A, external, protocol=protocol) == (filtering is Filtering.EIF)
    unused = Endpoint(external.ip, external.port ^ 1)
    assert not hears(nat, Y1A, unused, protocol=protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
@pytest.mark.parametrize("mapping", [*TRANSLATING, Mapping.NONE], ids=lambda m: m.name)
def test_an_answer_to_a_stranger_leaves_through_the_same_mapping(
    mapping: Mapping, protocol: Protocol
) -> None:
    nat = make(NatSpec(mapping=mapping, filtering=Filtering.EIF, assignment=ASSIGNMENTS[3]))
    external = send(nat, Y1A, protocol=protocol)
    assert hears(nat, Y2B, external, protocol=protocol)
    verdict = nat.outbound(Flow(protocol, INSIDE, Y2B), 0.0, SYN | ACK if protocol is Protocol.TCP else 0)
    assert verdict == Forward(Flow(protocol, external, Y2B), Side.OUTSIDE)


def test_no_translation_keeps_the_inside_endpoint() -> None:
    nat = make(NatSpec(mapping=Mapping.NONE))
    assert send(nat, Y1A) == INSIDE
    assert hears(nat, Y1A, INSIDE)
    assert not hears(nat, Y2A, INSIDE)


class TestPorts:
    def test_preserving_keeps_the_port_until_another_host_has_it(self) -> None:
        nat = make(NatSpec(assignment=PortAssignment(Assignment.PRESERVING)))
        assert send(nat, Y1A).port == INSIDE.port
        assert send(nat, Y2A, source=OTHER_INSIDE).port != INSIDE.port

    def test_overloading_shares_a_port_between_destinations_but_not_a_flow(self) -> None:
        """Linux: the port is kept unless the very 5-tuple is taken."""
        spec = NatSpec(
            mapping=Mapping.APDM, assignment=PortAssignment(Assignment.PRESERVING), overloading=True
        )
        nat = make(spec)
        assert send(nat, Y1A).port == send(nat, Y2A).port == INSIDE.port
        assert send(nat, Y1B, source=OTHER_INSIDE).port == INSIDE.port
        assert send(nat, Y1A, source=OTHER_INSIDE).port != INSIDE.port

    def test_a_port_that_moved_takes_later_flows_along(self) -> None:
        """Linux, find_appropriate_src(): seen in tests/lab/test_against_linux.py."""
        nat = make(NatSpec(mapping=Mapping.APDM, overloading=True, unsolicited=Unsolicited.ACCEPT))
        nat.inbound(Flow(Protocol.UDP, Y1A, Endpoint(EXTERNAL, 5000)), 0.0)
        moved = send(nat, Y1A)
        assert moved.port != 5000
        assert send(nat, Y2A) == moved

    def test_overloading_with_adm_keeps_remote_addresses_apart(self) -> None:
        spec = NatSpec(
            mapping=Mapping.ADM, assignment=PortAssignment(Assignment.PRESERVING), overloading=True
        )
        nat = make(spec)
        assert send(nat, Y1A).port == send(nat, Y2A, source=OTHER_INSIDE).port == INSIDE.port
        assert send(nat, Y1B, source=OTHER_INSIDE).port != INSIDE.port

    @pytest.mark.parametrize(("port", "low", "high"), [(100, 1, 511), (600, 600, 1023), (5000, 1024, 65535)])
    def test_preserving_falls_back_within_the_class_of_the_port(self, port: int, low: int, high: int) -> None:
        nat = make(NatSpec())
        send(nat, Y1A, source=Endpoint(INSIDE.ip, port))
        assert low <= send(nat, Y1A, source=Endpoint(OTHER_INSIDE.ip, port)).port <= high

    @pytest.mark.parametrize("step", [1, 2, -5])
    def test_sequential_goes_in_steps_and_skips_what_is_taken(self, step: int) -> None:
        spec = NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.SEQUENTIAL, step=step))
        nat = make(spec)
        ports = [send(nat, Endpoint(Y1A.ip, 1000 + i)).port for i in range(10)]
        span = 65536 - 1024
        assert {(b - a) % span for a, b in itertools.pairwise(ports)} == {step % span}

    def test_sequential_wraps_within_the_dynamic_range(self) -> None:
        nat = make(
            NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.SEQUENTIAL, step=30000))
        )
        ports = [send(nat, Endpoint(Y1A.ip, 1000 + i)).port for i in range(50)]
        assert all(1024 <= port <= 65535 for port in ports)
        assert len(set(ports)) == 50

    def test_block_stays_in_the_block_and_then_runs_out(self) -> None:
        block = PortAssignment(Assignment.BLOCK, low=4000, high=4099)
        nat = make(NatSpec(mapping=Mapping.APDM, assignment=block))
        ports = {send(nat, Endpoint(Y1A.ip, 1000 + i)).port for i in range(100)}
        assert ports == set(range(4000, 4100))
        assert nat.outbound(Flow(Protocol.UDP, INSIDE, Y2A), 0.0) == Drop("no free port")

    def test_a_host_has_a_block_of_its_own(self) -> None:
        spec = NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.BLOCK), block_size=64)
        nat = make(spec)
        mine = {send(nat, Endpoint(Y1A.ip, 1000 + i)).port for i in range(64)}
        other = {send(nat, Endpoint(Y1A.ip, 1000 + i), source=OTHER_INSIDE).port for i in range(64)}
        assert max(mine) - min(mine) == max(other) - min(other) == 63
        assert not mine & other

    def test_random_ports_cover_the_range(self) -> None:
        nat = make(NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.RANDOM)))
        ports = [send(nat, Endpoint(Y1A.ip, 1000 + i)).port for i in range(2000)]
        assert len(set(ports)) == 2000
        assert min(ports) < 3000
        assert max(ports) > 63000

    def test_the_same_seed_gives_the_same_ports(self) -> None:
        spec = NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.RANDOM))
        assert send(make(spec, 7), Y1A) == send(make(spec, 7), Y1A) != send(make(spec, 8), Y1A)

    @pytest.mark.parametrize("pooling", list(Pooling))
    def test_pooling(self, pooling: Pooling) -> None:
        """RFC 4787 section 4.1: "paired" keeps one external address for an internal one, "arbitrary" does not."""
        nat = make(NatSpec(mapping=Mapping.APDM, assignment=ASSIGNMENTS[3], pooling=pooling, pool_size=4))
        used = {send(nat, Endpoint(Y1A.ip, 1000 + i)).ip for i in range(60)}
        assert len(used) == (1 if pooling is Pooling.PAIRED else 4)


class TestUnsolicited:
    UDP_IN = Flow(Protocol.UDP, Y1A, Endpoint(EXTERNAL, 5000))
    TCP_IN = Flow(Protocol.TCP, Y1A, Endpoint(EXTERNAL, 5000))

    def test_drop(self) -> None:
        nat = make(NatSpec())
        assert nat.inbound(self.UDP_IN, 0.0) == nat.inbound(self.TCP_IN, 0.0, SYN) == Drop("unsolicited")
        assert nat.counters(0.0).unsolicited == 2

    def test_reject(self) -> None:
        nat = make(NatSpec(unsolicited=Unsolicited.REJECT))
        assert nat.inbound(self.UDP_IN, 0.0) == Reject(Answer.PORT_UNREACHABLE)
        assert nat.inbound(self.TCP_IN, 0.0, SYN) == Reject(Answer.TCP_RESET)
        assert nat.inbound(self.TCP_IN, 0.0, RST) == Drop("unsolicited")  # never a RST for a RST
        assert send(nat, Y1A).port == 5000  # nothing was claimed

    @pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
    @pytest.mark.parametrize("mapping", TRANSLATING, ids=lambda m: m.name)
    def test_accept_poisons_the_tuple_and_nothing_else(self, mapping: Mapping, protocol: Protocol) -> None:
        preserving = PortAssignment(Assignment.PRESERVING)
        nat = make(NatSpec(mapping=mapping, assignment=preserving, unsolicited=Unsolicited.ACCEPT))
        flow = Flow(protocol, Y1A, Endpoint(EXTERNAL, 5000))
        assert isinstance(nat.inbound(flow, 0.0, opening(protocol)), Local)
        assert send(nat, Y2A, protocol=protocol).port == 5000
        assert send(nat, Y1A, protocol=protocol).port != 5000

    @pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
    def test_accept_poisons_a_mapping_that_exists(self, protocol: Protocol) -> None:
        """An EIM mapping kept open towards a STUN server does not help: the tuple belongs to the router."""
        nat = make(NatSpec(unsolicited=Unsolicited.ACCEPT))
        external = send(nat, Y2A, protocol=protocol)
        assert not hears(nat, Y1A, external, protocol=protocol)
        moved = send(nat, Y1A, protocol=protocol)
        assert moved != external
        assert send(nat, Y2A, protocol=protocol) == external
        assert send(nat, Y2B, protocol=protocol) == external

    @pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
    def test_hammering_the_same_ports_never_heals_it(self, protocol: Protocol) -> None:
        nat = make(NatSpec(unsolicited=Unsolicited.ACCEPT))
        flow = Flow(protocol, Y1A, Endpoint(EXTERNAL, 5000))
        for second in range(0, 300, 5):
            assert isinstance(nat.inbound(flow, float(second), opening(protocol)), Local)
            assert send(nat, Y1A, second + 0.1, protocol=protocol).port != 5000

    @pytest.mark.parametrize(
        ("protocol", "held"), [(Protocol.UDP, 30.0), (Protocol.TCP, 10.0)], ids=["UDP", "TCP"]
    )
    def test_the_claim_ends(self, protocol: Protocol, held: float) -> None:
        for after, poisoned in ((held - 0.1, True), (held + 0.1, False)):
            nat = make(NatSpec(unsolicited=Unsolicited.ACCEPT))
            nat.inbound(Flow(protocol, Y1A, Endpoint(EXTERNAL, 5000)), 0.0, opening(protocol))
            assert (send(nat, Y1A, after, protocol=protocol).port != 5000) == poisoned

    def test_sending_first_prevents_the_poisoning(self) -> None:
        """What low-TTL priming is for: our own packet makes the flow before the peer's arrives."""
        nat = make(NatSpec(unsolicited=Unsolicited.ACCEPT))
        external = send(nat, Y1A)
        assert hears(nat, Y1A, external, 0.01)

    def test_a_firewall_has_nothing_to_accept_on(self) -> None:
        with pytest.raises(ConfigError, match="no address of its own"):
            NatSpec(mapping=Mapping.NONE, unsolicited=Unsolicited.ACCEPT)


class TestLifetimes:
    def alive(self, nat: Nat, external: Endpoint, now: float) -> bool:
        return hears(nat, Y1A, external, now)

    def test_unreplied_udp_lives_30_seconds(self) -> None:
        for after, expected in ((29.9, True), (30.0, False)):
            nat = make(NatSpec())
            assert self.alive(nat, send(nat, Y1A), after) == expected

    def test_replied_udp_lives_120_seconds_once_it_is_two_seconds_old(self) -> None:
        for spoke, after, expected in ((0.1, 30.2, False), (2.1, 122.0, True), (2.1, 122.2, False)):
            nat = make(NatSpec())
            external = send(nat, Y1A)
            assert self.alive(nat, external, spoke)
            assert self.alive(nat, external, after) == expected

    def test_traffic_keeps_a_mapping_whose_other_flows_have_gone(self) -> None:
        nat = make(NatSpec(filtering=Filtering.APDF, assignment=ASSIGNMENTS[3]))
        external = send(nat, Y1A)
        for second in range(0, 200, 20):
            assert send(nat, Y2A, float(second)) == external
        assert not hears(nat, Y1A, external, 181.0)  # the filter forgot Y1, the mapping stands
        assert nat.counters(181.0).mappings_live == 1

    def test_refresh_from_inside_only(self) -> None:
        for refresh, expected in ((True, True), (False, False)):
            lifetimes = Lifetimes(udp_unreplied=30.0, udp_replied=30.0)
            nat = make(NatSpec(filtering=Filtering.EIF, refresh_inbound=refresh, lifetimes=lifetimes))
            external = send(nat, Y1A)
            for now in (10.0, 20.0, 29.0):
                assert hears(nat, Y1A, external, now)
                assert hears(nat, Y2A, external, now)
            assert hears(nat, Y1A, external, 40.0) == expected
            assert nat.counters(40.0).mappings_live == expected

    def test_absolute_age_ends_a_busy_mapping(self) -> None:
        nat = make(NatSpec(assignment=ASSIGNMENTS[3], lifetimes=Lifetimes(absolute=60.0)))
        first = send(nat, Y1A)
        assert {send(nat, Y1A, float(now)) for now in range(0, 60, 5)} == {first}
        assert send(nat, Y1A, 60.0) != first

    def test_counters_forget_what_expired_and_remember_the_peak(self) -> None:
        nat = make(NatSpec(mapping=Mapping.APDM, assignment=ASSIGNMENTS[3]))
        for port in range(1000, 1050):
            send(nat, Endpoint(Y1A.ip, port))
        before, after = nat.counters(1.0), nat.counters(31.0)
        assert (before.mappings_live, before.flows_live) == (50, 50)
        assert (after.mappings_live, after.flows_live) == (0, 0)
        assert (after.mappings_created, after.mappings_peak, after.flows_peak) == (50, 50, 50)


class TestTcp:
    """RFC 5382 and Linux's table, as far as punching meets them."""

    OUT = Flow(Protocol.TCP, INSIDE, Y1A)

    def heard(self, external: Endpoint) -> Flow:
        return Flow(Protocol.TCP, Y1A, external)

    def open(self, nat: Nat, now: float = 0.0) -> Endpoint:
        external = send(nat, Y1A, now, protocol=Protocol.TCP)
        nat.inbound(self.heard(external), now, SYN | ACK)
        nat.outbound(self.OUT, now, ACK)
        return external

    def test_a_syn_in_the_reply_direction_is_a_simultaneous_open(self) -> None:
        nat = make(NatSpec())
        external = send(nat, Y1A, protocol=Protocol.TCP)
        assert isinstance(nat.inbound(self.heard(external), 0.1, SYN), Forward)
        assert isinstance(nat.outbound(self.OUT, 0.1, SYN | ACK), Forward)
        assert isinstance(nat.inbound(self.heard(external), 0.2, SYN | ACK), Forward)
        nat.outbound(self.OUT, 0.2, ACK)
        assert isinstance(nat.inbound(self.heard(external), 7000.0, ACK), Forward)  # it counts as established

    def test_a_reset_as_only_answer_deletes_the_flow_but_is_delivered(self) -> None:
        nat = make(NatSpec())
        external = send(nat, Y1A, protocol=Protocol.TCP)
        assert isinstance(nat.inbound(self.heard(external), 0.1, RST | ACK), Forward)
        assert nat.counters(0.1).flows_live == 0
        assert nat.inbound(self.heard(external), 0.2, SYN) == Drop("unsolicited")

    def test_a_reset_of_a_connection_leaves_it_ten_seconds(self) -> None:
        nat = make(NatSpec())
        external = self.open(nat)
        nat.inbound(self.heard(external), 1.0, RST)
        assert nat.counters(10.9).flows_live == 1
        assert nat.counters(11.1).flows_live == 0

    def test_established_outlives_the_opening_and_closing_timers(self) -> None:
        for closing, expected in ((0, 1), (FIN | ACK, 0)):
            nat = make(NatSpec())
            self.open(nat)
            nat.outbound(self.OUT, 1.0, closing or ACK)
            assert nat.counters(200.0).flows_live == expected

    def test_an_unanswered_syn_is_forgotten_after_120_seconds(self) -> None:
        nat = make(NatSpec())
        send(nat, Y1A, protocol=Protocol.TCP)
        assert (nat.counters(119.0).flows_live, nat.counters(121.0).flows_live) == (1, 0)

    def test_a_new_syn_after_the_end_gets_a_new_mapping(self) -> None:
        nat = make(NatSpec(mapping=Mapping.APDM, assignment=ASSIGNMENTS[3]))
        first = self.open(nat)
        nat.inbound(self.heard(first), 1.0, RST)
        assert send(nat, Y1A, 2.0, protocol=Protocol.TCP) != first

    @pytest.mark.parametrize("flags", [RST, FIN | ACK, SYN | ACK])
    def test_segments_of_no_connection_do_not_leave(self, flags: int) -> None:
        assert isinstance(make(NatSpec()).outbound(self.OUT, 0.0, flags), Drop)

    def test_a_connection_is_picked_up_in_the_middle(self) -> None:
        assert isinstance(make(NatSpec()).outbound(self.OUT, 0.0, ACK), Forward)

    @pytest.mark.parametrize("flags", [ACK, RST, FIN, SYN | ACK])
    def test_only_a_bare_syn_opens_from_outside(self, flags: int) -> None:
        nat = make(NatSpec(filtering=Filtering.EIF))
        external = send(nat, Y1A, protocol=Protocol.TCP)
        assert isinstance(nat.inbound(Flow(Protocol.TCP, Y2A, external), 0.0, flags), Drop)
        assert isinstance(nat.inbound(Flow(Protocol.TCP, Y2A, external), 0.0, SYN), Forward)


class TestLimits:
    def test_udp_blocked(self) -> None:
        nat = make(NatSpec(udp_blocked=True))
        assert nat.outbound(Flow(Protocol.UDP, INSIDE, Y1A), 0.0) == Drop("udp blocked")
        assert send(nat, Y1A, protocol=Protocol.TCP)

    def test_only_some_tcp_ports(self) -> None:
        nat = make(NatSpec(tcp_ports=frozenset({443})))
        assert nat.outbound(Flow(Protocol.TCP, INSIDE, Y1A), 0.0, SYN) == Drop("tcp port blocked")
        assert send(nat, Endpoint(Y1A.ip, 443), protocol=Protocol.TCP)

    def test_a_full_table_refuses_new_flows_and_keeps_the_old(self) -> None:
        nat = make(NatSpec(table_limit=10))
        for port in range(1000, 1010):
            send(nat, Endpoint(Y1A.ip, port))
        assert nat.outbound(Flow(Protocol.UDP, INSIDE, Y2A), 1.0) == Drop("table full")
        assert send(nat, Endpoint(Y1A.ip, 1000), 1.0)
        assert send(nat, Y2A, 30.5)  # nine have expired
        assert nat.counters(31.0).dropped == (("table full", 1),)

    def test_a_host_limit_does_not_touch_other_hosts(self) -> None:
        nat = make(NatSpec(host_limit=4))
        for port in range(4):
            send(nat, Y1A, source=Endpoint(INSIDE.ip, 7000 + port))
        assert nat.outbound(Flow(Protocol.UDP, INSIDE, Y1A), 0.0) == Drop("table full")
        assert send(nat, Y1A, source=OTHER_INSIDE)
        assert send(nat, Y2A, source=Endpoint(INSIDE.ip, 7000))  # an old mapping, a new flow


class TestHairpin:
    """RFC 4787 REQ-9: the receiver sees the sender's external endpoint."""

    @pytest.mark.parametrize("filtering", FILTERINGS, ids=lambda f: f.name)
    def test_external_source_and_filter(self, filtering: Filtering) -> None:
        nat = make(NatSpec(filtering=filtering, assignment=ASSIGNMENTS[3], hairpin=True))
        mine, other = send(nat, Y1A), send(nat, Y1A, source=OTHER_INSIDE)
        first = nat.outbound(Flow(Protocol.UDP, INSIDE, other), 1.0)
        if filtering is Filtering.EIF:
            assert first == Forward(Flow(Protocol.UDP, mine, OTHER_INSIDE), Side.INSIDE)
        else:
            assert first == Drop("unsolicited")
        back = nat.outbound(Flow(Protocol.UDP, OTHER_INSIDE, mine), 1.0)
        assert back == Forward(Flow(Protocol.UDP, other, INSIDE), Side.INSIDE)
        again = nat.outbound(Flow(Protocol.UDP, INSIDE, other), 1.0)
        assert again == Forward(Flow(Protocol.UDP, mine, OTHER_INSIDE), Side.INSIDE)

    def test_off(self) -> None:
        nat = make(NatSpec(filtering=Filtering.EIF))
        other = send(nat, Y1A, source=OTHER_INSIDE)
        assert nat.outbound(Flow(Protocol.UDP, INSIDE, other), 0.0) == Drop("no hairpin")
        rejecting = make(NatSpec(unsolicited=Unsolicited.REJECT))
        assert rejecting.outbound(Flow(Protocol.TCP, INSIDE, other), 0.0, SYN) == Reject(Answer.TCP_RESET)

    def test_to_oneself(self) -> None:
        nat = make(NatSpec(filtering=Filtering.EIF, hairpin=True))
        mine = send(nat, Y1A)
        assert nat.outbound(Flow(Protocol.UDP, INSIDE, mine), 0.0) == Forward(
            Flow(Protocol.UDP, mine, INSIDE), Side.INSIDE
        )

    def test_errors_find_their_way(self) -> None:
        nat = make(NatSpec(filtering=Filtering.EIF, assignment=ASSIGNMENTS[3], hairpin=True))
        mine, other = send(nat, Y1A), send(nat, Y1A, source=OTHER_INSIDE)
        delivered = nat.outbound(Flow(Protocol.UDP, INSIDE, other), 1.0)
        assert isinstance(delivered, Forward)
        assert nat.error_outbound(delivered.flow, 1.0) == Forward(
            Flow(Protocol.UDP, INSIDE, other), Side.INSIDE
        )
        assert mine != INSIDE


class TestIcmp:
    def test_an_error_about_a_known_flow_is_translated(self) -> None:
        nat = make(NatSpec(assignment=ASSIGNMENTS[3]))
        external = send(nat, Y1A)
        verdict = nat.error_inbound(Flow(Protocol.UDP, external, Y1A), 0.1)
        assert verdict == Forward(Flow(Protocol.UDP, INSIDE, Y1A), Side.INSIDE)
        back = nat.error_outbound(Flow(Protocol.UDP, Y1A, INSIDE), 0.1)
        assert back == Forward(Flow(Protocol.UDP, Y1A, external), Side.OUTSIDE)

    def test_other_errors_are_dropped_and_nothing_is_refreshed(self) -> None:
        nat = make(NatSpec())
        external = send(nat, Y1A)
        assert isinstance(nat.error_inbound(Flow(Protocol.UDP, external, Y2A), 0.1), Drop)
        assert isinstance(nat.error_inbound(Flow(Protocol.UDP, external, Y1A), 29.0), Forward)
        assert nat.counters(30.1).flows_live == 0

    def test_echo(self) -> None:
        nat = make(NatSpec(unsolicited=Unsolicited.REJECT))
        request = nat.outbound(Flow(Protocol.ICMP, Endpoint(INSIDE.ip, 77), Endpoint(Y1A.ip, 0)), 0.0)
        assert isinstance(request, Forward)
        reply = nat.inbound(request.flow.reverse, 0.1)
        assert reply == Forward(
            Flow(Protocol.ICMP, Endpoint(Y1A.ip, 0), Endpoint(INSIDE.ip, 77)), Side.INSIDE
        )
        stranger = Flow(Protocol.ICMP, Endpoint(Y2A.ip, 1), Endpoint(EXTERNAL, 0))
        assert nat.inbound(stranger, 0.1) == Drop("unsolicited")


@pytest.mark.parametrize(
    "change",
    [
        {"mapping": Mapping.UNKNOWN},
        {"filtering": Filtering.UNKNOWN},
        {"assignment": PortAssignment()},
        {"assignment": PortAssignment(Assignment.SEQUENTIAL)},
        {"assignment": PortAssignment(Assignment.BLOCK, low=9, high=8)},
        {"overloading": True},
        {"pool_size": 0},
    ],
    ids=str,
)
def test_impossible_routers(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(NatSpec(), **change)


@pytest.mark.parametrize(("mapping", "external"), [(Mapping.NONE, [EXTERNAL]), (Mapping.EIM, [])], ids=str)
def test_external_addresses_belong_to_translation(mapping: Mapping, external: list[object]) -> None:
    with pytest.raises(ConfigError):
        Nat(NatSpec(mapping=mapping), external, random.Random(0))  # type: ignore[arg-type]
