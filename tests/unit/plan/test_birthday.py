"""The arithmetic of the references, and who does what between which NATs."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest

from warpgate.model.address import Attachment, LearntBy, Listening, NodeAddress
from warpgate.model.identity import Identity
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.plan.birthday import (
    Part,
    guessing,
    mutual_probability,
    own_port_to_meet,
    sockets_for,
    sockets_to_meet,
    why_not,
)
from warpgate.plan.predict import ports_to_guess

KEY = Identity.generate().public_key
RANDOM = PortAssignment(Assignment.RANDOM)
BLOCK = PortAssignment(Assignment.BLOCK, low=2048, high=3071)


SET = NatProfile(
    Mapping.APDM,
    Filtering.APDF,
    PortAssignment(Assignment.BLOCK, low=5696, high=63050, fixed=0x0FF0),
    assignment_samples=15,
)


def behind(nat: NatProfile, number: int = 1) -> NodeAddress:
    live = Listening(5000, 5000, LearntBy.STUN)
    outside = ip_address(f"203.0.113.{number}")
    return NodeAddress(KEY, (), (Attachment(ip_address(f"192.168.{number}.2"), outside, live, live, nat),))


def edm(assignment: PortAssignment = RANDOM) -> NatProfile:
    return NatProfile(Mapping.APDM, Filtering.APDF, assignment, assignment_samples=15)


def eim(filtering: Filtering = Filtering.APDF) -> NatProfile:
    return NatProfile(Mapping.EIM, filtering, PortAssignment(Assignment.PRESERVING))


UNKNOWN = NatProfile()


def hit_probability(ports: int, sockets: int, probes: int) -> float:
    """That `probes` different ones of `ports` ports contain one of `sockets` mappings:
    1 - prod (ports - sockets - i) / (ports - i), i < probes.
    """
    return 1.0 - math.prod(max(0, ports - sockets - i) / (ports - i) for i in range(probes))


def test_the_numbers_of_the_references() -> None:
    """What the numbers of sockets and probes in `plan/birthday.py` were chosen by."""
    assert hit_probability(64_512, 256, 1024) == pytest.approx(0.983, abs=0.001)
    assert hit_probability(64_512, 256, 174) == pytest.approx(0.5, abs=0.01)
    assert hit_probability(1024, 32, 128) == pytest.approx(0.986, abs=0.003)  # 59 of 60
    assert hit_probability(1024, 32, 1000) == 1.0
    assert hit_probability(1024, 32, 0) == 0.0
    assert mutual_probability(64_512, 64_512) < 0.001
    assert mutual_probability(1024, 1024) == pytest.approx(0.0625)
    assert mutual_probability(240, 256) == 1.0
    # A port set of RFC 7597, 16 sockets x 64 probes; 63 runs, 32 x 128.
    assert hit_probability(240, 16, 64) == pytest.approx(0.994, abs=0.001)
    assert hit_probability(1008, 32, 128) == pytest.approx(0.988, abs=0.001)


def block(low: int, high: int, fixed: int = 0) -> NatProfile:
    return edm(PortAssignment(Assignment.BLOCK, low=low, high=high, fixed=fixed))


def test_sockets_follow_the_range() -> None:
    assert sockets_for(block(2048, 3071)) == 32
    assert sockets_for(block(2048, 2303)) == 16
    assert sockets_for(block(2048, 6143)) == 146  # 12 % wider than what was seen
    assert sockets_for(SET) == 16
    assert sockets_for(edm()) == 256
    assert sockets_for(edm(PortAssignment(Assignment.PER_ADDRESS, step=1))) == 128


def test_two_port_sets_meet_and_blocks_do_not() -> None:
    forth = guessing(behind(SET), behind(SET, 2))
    assert forth is not None
    assert (forth.part, forth.certain) == (Part.MEET, True)
    assert why_not(behind(SET), behind(SET, 2)) is None
    for other in (block(2048, 3071), edm(), replace(SET, pooled=True)):
        assert guessing(behind(SET), behind(other, 2)) is None
        assert "both NATs" in (why_not(behind(SET), behind(other, 2)) or "")
    search = guessing(behind(eim()), behind(SET, 2))
    assert search is not None
    assert search.part is Part.SEARCH


def test_the_port_to_meet_at_is_in_the_set_and_free() -> None:
    taken = {5698, 5699, 34370}
    drawn = {own_port_to_meet(SET, taken, Random(seed).sample) for seed in range(500)}
    assert drawn <= {port for port in ports_to_guess(SET).ports if 5696 < port < 63050} - taken
    assert len(drawn) > 100


def test_there_are_sockets_for_the_runs_that_no_sample_was_in() -> None:
    """Two runs at each end were missed; the whole port set has 15 runs of 16 ports."""
    seen = replace(SET, assignment=PortAssignment(Assignment.BLOCK, low=0x3290, high=0xD29F, fixed=0x0FF0))
    assert ports_to_guess(seen).size < 240
    assert sockets_to_meet(seen) == 240
    block = NatProfile(Mapping.APDM, Filtering.APDF, BLOCK, assignment_samples=16)
    assert sockets_to_meet(block) == ports_to_guess(block).size == 1024
    ends_missed = replace(block, assignment=PortAssignment(Assignment.BLOCK, low=8230, high=8420))
    assert ports_to_guess(ends_missed).size < 220
    assert sockets_to_meet(ends_missed) == 256


@pytest.mark.parametrize("assignment", [RANDOM, BLOCK, PortAssignment()])
def test_the_side_whose_mappings_differ_spreads(assignment: PortAssignment) -> None:
    one, other = behind(edm(assignment)), behind(eim(), 2)
    forth, back = guessing(one, other), guessing(other, one)
    assert forth is not None
    assert back is not None
    assert (forth.part, back.part) == (Part.SPREAD, Part.SEARCH)
    assert forth.spreading == back.spreading == one.attachments[0]
    assert forth.certain is back.certain is (assignment.kind is not Assignment.UNKNOWN)
    assert why_not(one, other) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "reason"),
    [
        (eim(), eim(), "neither NAT"),
        (edm(PortAssignment(Assignment.PRESERVING)), eim(), "preserves ports"),
        (edm(), edm(), "both NATs"),
        (edm(BLOCK), edm(BLOCK), "both NATs"),
        (NatProfile(udp_blocked=True), edm(), "UDP is blocked"),
    ],
)
def test_where_guessing_is_out_of_place_the_reason_is_told(mine: NatProfile, theirs: NatProfile, reason: str) -> None:
    for local, remote in ((behind(mine), behind(theirs, 2)), (behind(theirs), behind(mine, 2))):
        assert reason in (why_not(local, remote) or "")
        assert guessing(local, remote) is None


@pytest.mark.parametrize("other", [edm(), edm(BLOCK), eim()])
def test_a_mapping_for_a_whole_address_is_found_from_any_port(other: NatProfile) -> None:
    still = NatProfile(Mapping.ADM, Filtering.ADF, RANDOM, assignment_samples=15)
    forth, back = guessing(behind(still), behind(other, 2)), guessing(behind(other, 2), behind(still))
    assert forth is not None
    assert back is not None
    assert (forth.part, back.part) == (Part.SPREAD, Part.SEARCH)
    assert forth.certain
    assert why_not(behind(still), behind(other, 2)) is None


@pytest.mark.parametrize("filtering", [Filtering.EIF, Filtering.ADF, Filtering.UNKNOWN])
def test_a_filter_that_seems_lenient_puts_guessing_off_but_not_out(filtering: Filtering) -> None:
    """Measured wrongly, it would shut the two out from each other."""
    found = guessing(behind(edm()), behind(eim(filtering), 2))
    assert found is not None
    assert not found.certain
    assert why_not(behind(edm()), behind(eim(filtering), 2)) is None


def test_what_is_unknown_rules_nothing_out_and_starts_nothing() -> None:
    for theirs in (UNKNOWN, eim()):
        assert why_not(behind(UNKNOWN), behind(theirs, 2)) is None
        assert guessing(behind(UNKNOWN), behind(theirs, 2)) is None
    # A NAT of unknown behaviour opposite one that is known to map anew: worth a try, but not at once.
    found = guessing(behind(edm()), behind(UNKNOWN, 2))
    assert found is not None
    assert not found.certain
    assert why_not(NodeAddress(KEY), behind(edm())) is None
