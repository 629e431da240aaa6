"""Foretelling ports against the lab's own router models, and the order in which two counts meet."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from warpgate.lab.flow import Flow, Forward, Protocol
from warpgate.lab.nat import Nat
from warpgate.lab.spec import NatSpec
from warpgate.model.address import Attachment, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.plan.classify import Observation
from warpgate.plan.counting import both_count, crosswise, foretold, in_aim, one_count, target_to_foretell
from warpgate.plan.targets import pairs

SERVERS = [Endpoint.parse(text) for text in ("203.0.113.1:3478", "203.0.113.2:3478", "203.0.113.2:3479")]
PUBLIC = ip_address("198.51.100.1")


def counting(step: int, filtering: Filtering = Filtering.APDF) -> NatProfile:
    return NatProfile(Mapping.APDM, filtering, PortAssignment(Assignment.SEQUENTIAL, step=step))


def eim(filtering: Filtering = Filtering.APDF) -> NatProfile:
    return NatProfile(Mapping.EIM, filtering, PortAssignment(Assignment.PRESERVING))


def behind(number: int, *nats: NatProfile) -> NodeAddress:
    live = Listening(5000, 6000)
    return NodeAddress(
        bytes(33),
        (),
        tuple(
            Attachment(
                ip_address(f"192.168.{number}.{2 + place}"),
                ip_address(f"198.51.100.{number}"),
                live,
                live,
                nat,
            )
            for place, nat in enumerate(nats)
        ),
    )


class Home:
    """A socket behind a router that counts, and neighbours that make mappings of their own."""

    def __init__(self, step: int, seed: int, public: IPAddress = PUBLIC) -> None:
        assignment = PortAssignment(Assignment.SEQUENTIAL, step=step)
        self.nat = Nat(NatSpec(Mapping.APDM, Filtering.APDF, assignment), [public], random.Random(seed))

    def mapped(self, destination: Endpoint, host: str = "192.168.1.2") -> Endpoint:
        verdict = self.nat.outbound(Flow(Protocol.UDP, Endpoint.of(host, 5000), destination), 0.0)
        assert isinstance(verdict, Forward)
        return verdict.flow.source

    def neighbours_map(self, count: int) -> None:
        for port in range(count):
            self.mapped(Endpoint.of("203.0.113.9", 1000 + port), "192.168.1.77")

    def samples(self, host: str = "192.168.1.2") -> list[Observation]:
        local = Endpoint.of(host, 5000)
        return [Observation(local, server, self.mapped(server, host)) for server in SERVERS]


@pytest.mark.parametrize("step", [1, 2, -1, -7])
def test_what_is_foretold_comes_true(step: int) -> None:
    home = Home(step, 4)
    seen = home.samples()
    first, second, *_ = foretold(seen, 0)
    assert first == home.mapped(Endpoint.parse("203.0.113.50:1"))
    assert second == home.mapped(Endpoint.parse("203.0.113.50:2"))


def test_a_port_from_long_ago_does_not_mislead() -> None:
    local = Endpoint.parse("192.168.1.2:5000")

    def told(*ports: int) -> Endpoint:
        seen = [Observation(local, server, Endpoint(PUBLIC, port)) for server, port in zip(SERVERS, ports, strict=True)]
        return foretold(seen, 2)[0]

    assert told(30000, 30002, 30004) == Endpoint(PUBLIC, 30006)
    assert told(30000, 30002, 9000) == Endpoint(PUBLIC, 30004)
    assert told(9000, 30000, 30002) == Endpoint(PUBLIC, 30004)
    assert told(9000, 20000, 30002) == Endpoint(PUBLIC, 30004)  # nothing to go by but the last


@pytest.mark.parametrize(("known", "expected"), [(1, 30005), (0, 30006), (2, 30006), (-1, 30006)])
def test_a_step_that_many_samples_have_shown_beats_that_of_a_few(known: int, expected: int) -> None:
    """Others' mappings may make both of two gaps even."""
    local = Endpoint.parse("192.168.1.2:5000")
    seen = [
        Observation(local, server, Endpoint(PUBLIC, port))
        for server, port in zip(SERVERS, (30000, 30002, 30004), strict=True)
    ]
    ports = [endpoint.port for endpoint in foretold(seen, known)]
    assert min(ports) == expected


def test_where_nothing_counts_nothing_is_foretold() -> None:
    local = Endpoint.parse("192.168.1.2:5000")
    seen = [Observation(local, SERVERS[0], Endpoint(PUBLIC, port)) for port in (2000, 60000, 31000)]
    assert foretold(seen, 0) == ()


@pytest.mark.parametrize(("here", "there"), [(n, m) for n in range(4) for m in range(4 - n)])
@pytest.mark.parametrize("steps", [(1, 1), (2, -1), (-7, 4)])
def test_two_counts_meet_though_others_map_in_between(steps: tuple[int, int], here: int, there: int) -> None:
    asking, answering = Home(steps[0], 1), Home(steps[1], 2, ip_address("198.51.100.2"))
    a, b = foretold(asking.samples(), 0), foretold(answering.samples(), 0)
    answering.neighbours_map(there)
    asking.neighbours_map(here)
    # (own endpoint, target) of each packet.
    answered = {(answering.mapped(target), target) for target in crosswise(a)}
    asked = {(asking.mapped(target), target) for target in b}
    assert {(own, target) for target, own in asked} & answered


NOISE = [*((0, n) for n in range(6)), *((1, n) for n in range(4)), (2, 0), (2, 1)]


@pytest.mark.parametrize(("before", "between"), NOISE)
@pytest.mark.parametrize("step", [1, 2, -1, -7])
def test_two_behind_one_count_meet(step: int, before: int, between: int) -> None:
    """Others map `before` the answering side sends, and `between` that and the asking side's packets."""
    home = Home(step, 1)
    asking, answering = "192.168.1.2", "192.168.1.3"

    def sent(host: str, target: Endpoint) -> Endpoint:
        """Where it leaves from. Another address stands for the router's own, which this one would turn away."""
        return home.mapped(Endpoint.of("203.0.113.77", target.port), host)

    a = foretold(home.samples(asking), 0)
    home.neighbours_map(3)
    b = foretold(home.samples(answering), 0)
    home.neighbours_map(3 + before)
    answered = {(sent(answering, target), target) for target in one_count(a, b, step)}
    home.neighbours_map(3 + before + between)
    asked = {(target, sent(asking, target)) for target in b}
    assert asked & answered


def test_two_counts_are_not_taken_for_one() -> None:
    here = [Endpoint(PUBLIC, 30000 + number) for number in range(8)]
    for there in (
        [Endpoint(PUBLIC, 30100 + number) for number in range(8)],
        [Endpoint(PUBLIC, 29990 + number) for number in range(8)],
        [Endpoint.of("198.51.100.2", 30003 + number) for number in range(8)],
        here,
        [],
    ):
        assert one_count(here, there, 1) == []


def test_crosswise_stays_within_what_was_foretold() -> None:
    peers = [Endpoint.of("198.51.100.1", 1000 + number) for number in range(8)]
    assert [peers.index(peer) + 1 for peer in crosswise(peers)] == [1, 3, 5, 7, 5, 7]
    for count in range(8):
        assert set(crosswise(peers[:count])) <= set(peers[:count])


def test_crosswise_is_told_of_each_interface_alone() -> None:
    counted = [Endpoint.of("198.51.100.1", 1000 + number) for number in range(7)]
    plain = Endpoint.of("2001:db8::1", 5000)
    assert crosswise([counted[0], plain, *counted[1:]]) == [*crosswise(counted), plain]


def test_both_count_only_when_there_is_no_other_way() -> None:
    assert both_count(behind(1, counting(1)), behind(2, counting(-2)))
    assert not both_count(behind(1, counting(1)), behind(2, eim()))
    assert not both_count(behind(1, counting(1), eim()), behind(2, counting(1)))
    assert not both_count(behind(1), behind(2, counting(1)))


@pytest.mark.parametrize("transport", Transport)
def test_a_mapping_is_foretold_for_who_may_mind(transport: Transport) -> None:
    own = behind(1, counting(1))
    for theirs, certain, wanted in (
        (eim(), False, True),
        (eim(Filtering.UNKNOWN), False, True),
        (eim(Filtering.ADF), False, False),
        (eim(Filtering.ADF), True, True),
        (counting(1), False, False),
    ):
        peer = behind(2, theirs)
        found = target_to_foretell(pairs(own, peer, transport), own.attachments[0], peer, certain=certain)
        assert (found is not None) is wanted
        if found is not None:
            assert (found.base, found.remote) == (
                Endpoint.parse("192.168.1.2:5000"),
                Endpoint.parse("198.51.100.2:6000"),
            )


def test_nothing_is_sent_where_it_is_known_to_be_turned_away() -> None:
    for own, theirs, aimed in (
        (counting(1), eim(), False),
        (counting(1), eim(Filtering.UNKNOWN), True),
        (counting(1), eim(Filtering.ADF), True),
        (eim(), eim(), True),
        (eim(), counting(1), True),
    ):
        near, far = behind(1, own), behind(2, theirs)
        assert bool(in_aim(pairs(near, far, Transport.UDP), near, far)) is aimed
