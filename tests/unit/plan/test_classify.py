"""Fingerprints: each behaviour of RFC 4787 from the samples that show it, UNKNOWN from those that do not."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import permutations
from random import Random

import pytest

from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.plan.classify import Observation, classify
from warpgate.plan.predict import ports_to_guess

LOCAL = Endpoint.of("192.168.1.2", 20000)
PUBLIC = "203.0.113.9"
S1, S1_OTHER_PORT = Endpoint.of("198.51.100.1", 3478), Endpoint.of("198.51.100.1", 3479)
S2, S3 = Endpoint.of("198.51.100.2", 3478), Endpoint.of("198.51.100.3", 3478)


def saw(server: Endpoint, port: int, ip: str = PUBLIC, local: Endpoint = LOCAL) -> Observation:
    return Observation(local, server, Endpoint.of(ip, port))


def ports(*numbers: int, first_local: int = 20000) -> list[Observation]:
    """One socket each, all asking the same server: the order in which the NAT assigned them."""
    return [saw(S1, port, local=Endpoint(LOCAL.ip, first_local + index)) for index, port in enumerate(numbers)]


@pytest.mark.parametrize(
    ("observations", "mapping", "samples"),
    [
        ([], Mapping.UNKNOWN, 0),
        ([saw(S1, 20000, ip="192.168.1.2")], Mapping.NONE, 1),
        ([saw(S1, 20000, ip="192.168.1.2"), saw(S2, 20000, ip="192.168.1.2")], Mapping.NONE, 2),
        ([saw(S1, 30000)], Mapping.UNKNOWN, 0),
        ([saw(S1, 30000), saw(S1, 30000)], Mapping.UNKNOWN, 0),
        ([saw(S1, 30000), saw(S1_OTHER_PORT, 30000)], Mapping.UNKNOWN, 0),
        ([saw(S1, 30000), saw(S2, 30000)], Mapping.EIM, 2),
        ([saw(S1, 20000), saw(S2, 20000)], Mapping.EIM, 2),
        ([saw(S1, 30000), saw(S2, 30001)], Mapping.ADM, 2),
        ([saw(S1, 30000), saw(S1_OTHER_PORT, 30000), saw(S2, 30001)], Mapping.ADM, 3),
        ([saw(S1, 30000), saw(S1_OTHER_PORT, 30001)], Mapping.APDM, 2),
        ([saw(S1, 30000), saw(S2, 30001), saw(S1_OTHER_PORT, 30002)], Mapping.APDM, 3),
        ([saw(S1, 30000), saw(S2, 30000, ip="203.0.113.10")], Mapping.ADM, 2),
        # One destination in common is chance; one that differs is enough.
        ([saw(S1, 30000), saw(S2, 30000), saw(S3, 30001)], Mapping.ADM, 3),
    ],
)
def test_mapping_behaviour(observations: list[Observation], mapping: Mapping, samples: int) -> None:
    for order in permutations(observations):
        profile = classify(order)
        assert (profile.mapping, profile.mapping_samples) == (mapping, samples)


def test_sockets_are_not_compared_with_each_other() -> None:
    other = Endpoint(LOCAL.ip, 20001)
    profile = classify([saw(S1, 30000), saw(S2, 30777, local=other)])
    assert profile.mapping is Mapping.UNKNOWN
    more = [saw(S2, 30000), saw(S1, 30777, local=other)]
    profile = classify([saw(S1, 30000), saw(S2, 30777, local=other), *more])
    assert (profile.mapping, profile.mapping_samples) == (Mapping.EIM, 4)


def test_a_mapping_that_expired_between_samples_is_not_endpoint_dependent() -> None:
    before = [saw(S1, 30000), saw(S2, 30000)]
    profile = classify([*before, saw(S1, 31000)])
    assert profile.mapping is Mapping.UNKNOWN
    assert classify([*before, saw(S1, 31000), saw(S2, 31000)]).mapping is Mapping.EIM


def test_arbitrary_pooling_is_noted() -> None:
    assert classify([saw(S1, 30000), saw(S2, 30000, ip="203.0.113.10")]).pooled
    assert not classify([saw(S1, 30000), saw(S2, 30001)]).pooled
    # A new address after a reconnection is not a pool.
    assert not classify([saw(S1, 30000), saw(S1, 30000, ip="203.0.113.10")]).pooled


@pytest.mark.parametrize(
    ("numbers", "expected", "samples"),
    [
        ([30000], PortAssignment(), 0),
        ([30000, 30001], PortAssignment(), 0),
        ([30000, 50000], PortAssignment(), 0),
        ([30000, 30001, 30002], PortAssignment(Assignment.SEQUENTIAL, step=1), 3),
        ([30000, 30002, 30006, 30008], PortAssignment(Assignment.SEQUENTIAL, step=2), 4),
        ([30006, 30004, 30003], PortAssignment(Assignment.SEQUENTIAL, step=-1), 3),
        ([65534, 65535, 1024, 1025], PortAssignment(Assignment.SEQUENTIAL, step=1), 4),
        ([1026, 1024, 65534, 65532], PortAssignment(Assignment.SEQUENTIAL, step=-2), 4),
        # A port from long ago among them: once it makes two gaps of five or fewer, nothing can be told.
        (
            [30000, 30001, 30900, 30003, 30004, 30005, 30007, 30008],
            PortAssignment(Assignment.SEQUENTIAL, step=1),
            8,
        ),
        (
            [30008, 30006, 2000, 30004, 30002, 30000, 29998, 29996],
            PortAssignment(Assignment.SEQUENTIAL, step=-2),
            8,
        ),
        ([30000, 30001, 30900, 30003], PortAssignment(Assignment.BLOCK, low=30000, high=30900), 4),
        ([30000, 30001, 45000, 45001], PortAssignment(Assignment.RANDOM), 4),
        ([30000, 30004, 30001], PortAssignment(), 0),
        ([30000, 30900, 30100], PortAssignment(), 0),
        ([30000, 30900, 30100, 30777], PortAssignment(Assignment.BLOCK, low=30000, high=30900), 4),
        ([30000, 34095, 33000, 31000], PortAssignment(Assignment.BLOCK, low=30000, high=34095), 4),
        ([30000, 34096, 33000, 31000], PortAssignment(Assignment.RANDOM), 4),
        ([2000, 60000, 31000], PortAssignment(Assignment.RANDOM), 3),
    ],
)
def test_port_assignment(numbers: list[int], expected: PortAssignment, samples: int) -> None:
    profile = classify(ports(*numbers))
    assert (profile.assignment, profile.assignment_samples) == (expected, samples)


def test_preserved_ports_need_one_sample_and_are_told_apart_from_the_rest() -> None:
    profile = classify(ports(20000))
    assert (profile.assignment.kind, profile.assignment_samples) == (Assignment.PRESERVING, 1)
    profile = classify(ports(20000, 20001, 20002))
    assert (profile.assignment.kind, profile.assignment_samples) == (Assignment.PRESERVING, 3)
    # The first destination keeps the port, the next ones count up: the peer will be one of the next.
    observations = [saw(S1, 20000), saw(S2, 40000), saw(S3, 40001), saw(S1_OTHER_PORT, 40002)]
    profile = classify(observations)
    assert (profile.assignment, profile.assignment_samples) == (
        PortAssignment(Assignment.SEQUENTIAL, step=1),
        3,
    )


def test_one_mapping_seen_by_many_servers_is_one_sample_of_assignment() -> None:
    assert classify([saw(S1, 30000), saw(S2, 30000), saw(S3, 30000)]).assignment.kind is Assignment.UNKNOWN


def test_each_address_of_a_pool_has_its_own_ports() -> None:
    observations = [
        saw(S1, port, ip=ip, local=Endpoint(LOCAL.ip, 20000 + index))
        for index, (port, ip) in enumerate([(30000, PUBLIC), (50000, "203.0.113.10"), (30001, PUBLIC), (30002, PUBLIC)])
    ]
    profile = classify(observations)
    assert (profile.assignment, profile.assignment_samples) == (
        PortAssignment(Assignment.SEQUENTIAL, step=1),
        4,
    )


def port_set(offset: int, length: int, number: int) -> list[int]:
    """RFC 7597 section 5.1: all ports with this PSID of so many bits, behind `offset` bits that are not all 0."""
    below = 16 - offset - length
    firsts = range(1, 1 << offset) if offset else [0]
    return [
        port
        for first in firsts
        for last in range(1 << below)
        if (port := first << (length + below) | number << below | last) >= 1024
    ]


SHAPES = [(offset, length) for offset in (0, 4, 6) for length in range(2, 13) if offset + length <= 16]


@pytest.mark.parametrize(("offset", "length"), SHAPES)
def test_port_sets_of_all_shapes_are_recognised(offset: int, length: int) -> None:
    """MAP-E and MAP-T with other offsets than 4, and the contiguous blocks of lightweight 4over6 (offset 0): nearly all
    of the set is searched, and hardly anything else.
    """
    random = Random(offset * 100 + length)
    for _ in range(10):
        there = port_set(offset, length, random.randrange(1 << length - 1, 1 << length))
        drawn = [random.choice(there) for _ in range(16)]
        nat = classify([saw(S1, port, local=Endpoint(LOCAL.ip, 20000 + n)) for n, port in enumerate(drawn)])
        assert nat.assignment.kind is Assignment.BLOCK
        searched = set(ports_to_guess(nat).ports)
        assert len(searched & set(there)) >= 0.6 * len(there)
        assert len(searched - set(there)) <= 0.1 * len(there) + 1


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_small_blocks_are_hardly_ever_taken_for_a_count(size: int) -> None:
    random = Random(size)
    taken = 0
    for _ in range(200):
        drawn = [random.randrange(8192, 8192 + size) for _ in range(16)]
        seen = [
            saw((S1, S2, S3)[n % 3], port, local=Endpoint(LOCAL.ip, 20000 + n // 3)) for n, port in enumerate(drawn)
        ]
        taken += classify(seen).assignment.kind is not Assignment.BLOCK
    assert taken <= 1


@pytest.mark.parametrize("step", [1, 2, -1])
def test_requests_that_overtake_each_other_do_not_hide_a_count(step: int) -> None:
    random = Random(step)
    numbers = [30000 + step * n for n in range(16)]
    for first in random.sample(range(15), 3):
        numbers[first : first + 2] = reversed(numbers[first : first + 2])
    assert classify(ports(*numbers)).assignment == PortAssignment(Assignment.SEQUENTIAL, step=step)


@pytest.mark.parametrize("step", [1, -1])
def test_mappings_that_were_asked_for_anew_do_not_hide_a_count(step: int) -> None:
    """Those of a node's own socket, beside samples of when it began."""
    own = [506, 506 + 33, 506 + 76, 506 + 143, 506 + 228]
    samples = list(range(510, 525))
    seen = ports(*(30000 + step * number for number in (*own, *samples)))
    assert classify(seen).assignment.kind is Assignment.SEQUENTIAL


@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_a_block_is_hardly_ever_taken_for_a_count(size: int) -> None:
    random = Random(size)
    kinds = [classify(ports(*random.sample(range(4096, 4096 + size), 16))).assignment.kind for _ in range(50)]
    assert set(kinds) == {Assignment.BLOCK}


def test_random_ports_are_hardly_ever_taken_for_something_better() -> None:
    random = Random(1)
    kinds = [classify(ports(*random.sample(range(1024, 65536), 6))).assignment.kind for _ in range(200)]
    assert kinds.count(Assignment.RANDOM) >= 199


def test_filtering_is_taken_over() -> None:
    profile = classify([saw(S1, 30000)], Filtering.ADF, 2)
    assert (profile.filtering, profile.filtering_samples, profile.udp_blocked) == (Filtering.ADF, 2, False)
    assert classify([], Filtering.UNKNOWN, 2) == NatProfile()


def test_ipv6_without_translation() -> None:
    local = Endpoint(ip_address("2001:db8::2"), 20000)
    server = Endpoint.of("2001:db8:ffff::1", 3478)
    profile = classify([Observation(local, server, local)], Filtering.APDF, 2)
    assert profile.mapping is Mapping.NONE
    assert profile.assignment.kind is Assignment.PRESERVING
    assert not profile.pooled
