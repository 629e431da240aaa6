"""The router models against the definitions of RFC 4787 and RFC 5382, for every mapping x filtering x assignment."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from nat_cases import (
    ASSIGNMENTS,
    EXTERNAL,
    FILTERINGS,
    INSIDE,
    OTHER_INSIDE,
    PROTOCOLS,
    TRANSLATING,
    Y1A,
    Y1B,
    Y2A,
    Y2B,
    hears,
    make,
    opening,
    send,
)

from warpgate.errors import ConfigError
from warpgate.lab.nat import (
    ACK,
    RST,
    SYN,
    Answer,
    Drop,
    Flow,
    Forward,
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
def test_an_answer_to_a_stranger_leaves_through_the_same_mapping(mapping: Mapping, protocol: Protocol) -> None:
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
        spec = NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.PRESERVING), overloading=True)
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
        spec = NatSpec(mapping=Mapping.ADM, assignment=PortAssignment(Assignment.PRESERVING), overloading=True)
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
        nat = make(NatSpec(mapping=Mapping.APDM, assignment=PortAssignment(Assignment.SEQUENTIAL, step=30000)))
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
        assert len(used) == (4 if pooling is Pooling.ARBITRARY else 1)

    def test_each_destination_is_reached_by_one_uplink(self) -> None:
        """And has there a mapping of its own, with the port kept in each."""
        nat = make(NatSpec(pooling=Pooling.BY_DESTINATION, pool_size=2))
        even, odd = (Endpoint.of(f"198.51.100.{number}", 7) for number in (2, 3))
        seen = [send(nat, to) for to in (even, odd, even)]
        assert seen[0] == seen[2]
        assert seen[0].ip != seen[1].ip
        assert seen[0].port == seen[1].port == INSIDE.port


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

    @pytest.mark.parametrize(("protocol", "held"), [(Protocol.UDP, 30.0), (Protocol.TCP, 10.0)], ids=["UDP", "TCP"])
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
