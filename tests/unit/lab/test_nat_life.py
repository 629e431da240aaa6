"""Router models over time: lifetimes, TCP connections, limits, hairpinning, ICMP (RFC 4787, RFC 5382, RFC 5508)."""

from __future__ import annotations

import pytest
from nat_cases import (
    ASSIGNMENTS,
    EXTERNAL,
    FILTERINGS,
    INSIDE,
    OTHER_INSIDE,
    Y1A,
    Y2A,
    hears,
    make,
    send,
)

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
    Nat,
    NatSpec,
    Protocol,
    Reject,
    Side,
    Unsolicited,
)
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Filtering, Mapping


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

    def test_a_slow_router_makes_so_many_flows_a_second(self) -> None:
        nat = make(NatSpec(new_flows_per_second=10.0))
        opened = [nat.outbound(Flow(Protocol.UDP, INSIDE, Endpoint(Y1A.ip, port)), 0.0) for port in range(1, 16)]
        assert [isinstance(verdict, Forward) for verdict in opened] == [True] * 10 + [False] * 5
        assert opened[-1] == Drop("too many new flows")
        assert send(nat, Endpoint(Y1A.ip, 1), 0.05)  # what is open goes on
        assert nat.outbound(Flow(Protocol.UDP, INSIDE, Y2A), 0.05) == Drop("too many new flows")
        assert send(nat, Y2A, 0.11)

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
        assert nat.error_outbound(delivered.flow, 1.0) == Forward(Flow(Protocol.UDP, INSIDE, other), Side.INSIDE)
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
        assert reply == Forward(Flow(Protocol.ICMP, Endpoint(Y1A.ip, 0), Endpoint(INSIDE.ip, 77)), Side.INSIDE)
        stranger = Flow(Protocol.ICMP, Endpoint(Y2A.ip, 1), Endpoint(EXTERNAL, 0))
        assert nat.inbound(stranger, 0.1) == Drop("unsolicited")
