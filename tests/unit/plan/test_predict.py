"""Predictions against the lab's own router models, which count, draw from blocks, or draw from all ports."""

from __future__ import annotations

import random
import sys

import pytest

from warpgate.lab.flow import Flow, Forward, Protocol
from warpgate.lab.nat import Nat
from warpgate.lab.spec import NatSpec
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.plan.classify import Observation, classify
from warpgate.plan.predict import (
    CANDIDATES,
    FULL_RANGE,
    LAST_PORT,
    PortRange,
    _ports,
    likely_block,
    next_ports,
    ports_to_guess,
)

SERVERS = [Endpoint.parse(text) for text in ("198.51.100.1:3478", "198.51.100.2:3478", "198.51.100.2:3479")]
PEER = Endpoint.parse("203.0.113.99:4000")


class Home:
    """A host behind one router model: what each destination sees of its sockets."""

    def __init__(self, assignment: PortAssignment, seed: int = 1, block_size: int = 1024) -> None:
        spec = NatSpec(Mapping.APDM, Filtering.APDF, assignment, block_size=block_size)
        self.nat = Nat(spec, [Endpoint.parse("203.0.113.1:1").ip], random.Random(seed))

    def mapped(self, port: int, destination: Endpoint) -> Endpoint:
        verdict = self.nat.outbound(Flow(Protocol.UDP, Endpoint.of("192.168.1.2", port), destination), 0.0)
        assert isinstance(verdict, Forward)
        return verdict.flow.source

    def samples(self, port: int) -> list[Observation]:
        local = Endpoint.of("192.168.1.2", port)
        return [Observation(local, server, self.mapped(port, server)) for server in SERVERS]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("step", [1, 2, 4, -1, -2, 7])
def test_the_next_port_of_a_nat_that_counts_is_the_first_candidate(step: int, seed: int) -> None:
    home = Home(PortAssignment(Assignment.SEQUENTIAL, step=step), seed)
    ports = [seen.mapped.port for seen in home.samples(5000)]
    assert next_ports(ports, step)[0] == home.mapped(5000, PEER).port


@pytest.mark.parametrize(("step", "seed"), [(1, 155), (-2, 335)])  # these begin near the end
def test_it_counts_round_the_end_of_the_range(step: int, seed: int) -> None:
    home = Home(PortAssignment(Assignment.SEQUENTIAL, step=step), seed)
    made: list[int] = []
    while made[-5:] == sorted(made[-5:], reverse=step < 0):
        socket = 5000 + len(made)
        made += [seen.mapped.port for seen in home.samples(socket)]
        expected = next_ports(made[-3:], step)[0]
        made.append(home.mapped(socket, PEER).port)
        assert made[-1] == expected
    assert min(made) >= 1024
    assert max(made) > 65_500


@pytest.mark.parametrize("others", range(CANDIDATES))
def test_mappings_of_others_in_between_are_reckoned_with(others: int) -> None:
    home = Home(PortAssignment(Assignment.SEQUENTIAL, step=2))
    ports = [seen.mapped.port for seen in home.samples(5000)]
    for other in range(others):
        home.mapped(6000 + other, PEER)
    assert home.mapped(5000, PEER).port == next_ports(ports, 2)[others]


def test_gaps_that_were_seen_come_first() -> None:
    assert next_ports([100 + 2000, 103 + 2000, 106 + 2000], 1)[:3] == (2109, 2107, 2108)


def test_nothing_is_predicted_from_nothing() -> None:
    assert next_ports([], 1) == ()
    assert next_ports([2000], 0) == ()
    assert next_ports([65535], 1)[:2] == (1024, 1025)
    assert next_ports([1024], -1)[:2] == (65535, 65534)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_sixteen_samples_show_almost_all_of_a_block(seed: int, size: int) -> None:
    home = Home(PortAssignment(Assignment.BLOCK), seed, size)
    seen = [sample for port in range(5000, 5006) for sample in home.samples(port)]
    profile = classify(seen)
    assert profile.assignment.kind is Assignment.BLOCK
    guessed = ports_to_guess(profile)
    low, high = home.nat._ports.block_of(seen[0].local.ip)
    covered = min(high, guessed.high) - max(low, guessed.low) + 1
    assert covered >= 0.8 * size
    assert guessed.size <= 1.25 * size


def test_a_block_is_widened_to_where_its_ends_are_likely() -> None:
    assert likely_block(2000, 2900, 10) == PortRange(1900, 3000)
    # 3072..4095 is aligned and almost filled: it does not go further.
    assert likely_block(3100, 4050, 16) == PortRange(3072, 4095)
    assert likely_block(1030, 1100, 3).low == 1024
    assert likely_block(65_500, 65_530, 2) == PortRange(65_470, 65_535)
    assert likely_block(5000, 5000, 1) == FULL_RANGE


def test_without_a_block_all_ports_are_guessed() -> None:
    assert ports_to_guess(NatProfile()) == FULL_RANGE
    assert ports_to_guess(NatProfile(assignment=PortAssignment(Assignment.RANDOM))).size == 64_512


def test_ranges_that_peers_name_are_kept_in_little() -> None:
    """Whoever names one range after the other, each with almost all ports in it, has few of them stay."""
    largest = PortRange(1, LAST_PORT, 1 << 16, 0).ports
    assert len(largest) == LAST_PORT
    most = _ports.cache_info().maxsize
    assert most is not None
    assert most * sys.getsizeof(largest) < 8 * 2**20
