"""What the routers of two sites let through, said from their specifications: against RFC 4787's own reasoning."""

from __future__ import annotations

from itertools import product

import pytest

from warpgate.lab.kinds import KINDS, kind_of
from warpgate.lab.matrix_run import DEFAULT_KINDS, DEFAULT_KINDS6
from warpgate.lab.theory import Crossing, expected, outlook
from warpgate.model.endpoint import Family, Transport
from warpgate.model.nat import Assignment, Filtering

UDP, TCP = Transport.UDP, Transport.TCP
DIRECT, GUESS, RELAY = Crossing


def cross(one: str, other: str, transport: Transport = UDP, family: Family = Family.V4) -> Crossing:
    return expected(kind_of(one), kind_of(other), transport, family)


@pytest.mark.parametrize(
    ("one", "other", "over_udp", "over_tcp"),
    [
        ("public", "public", DIRECT, DIRECT),
        ("public", "edm", DIRECT, DIRECT),
        ("firewalled", "eim-apdf", DIRECT, DIRECT),
        ("eim-apdf", "eim-apdf+rst", DIRECT, DIRECT),
        # A port that is the local one is no secret, whatever the destination.
        ("masquerade", "masquerade+accept", DIRECT, DIRECT),
        ("cgn", "masquerade", DIRECT, DIRECT),
        # The symmetric side speaks first from wherever; the other's filter does not mind.
        ("edm", "eim-adf", DIRECT, DIRECT),
        ("edm", "eim-eif", DIRECT, DIRECT),
        ("edm-seq", "eim-apdf", GUESS, GUESS),
        ("edm-block", "masquerade", GUESS, RELAY),
        ("edm", "firewalled", GUESS, RELAY),
        ("adm", "eim-apdf", GUESS, RELAY),
        ("edm-seq", "edm-seq--2", GUESS, GUESS),
        ("mape", "eim-apdf", GUESS, RELAY),
        ("mape", "mape", GUESS, RELAY),
        ("mape-1024", "mape", RELAY, RELAY),
        ("edm-seq", "mape", GUESS, RELAY),
        ("edm-busy", "mape", RELAY, RELAY),
        ("edm-busy", "eim-apdf", GUESS, GUESS),
        ("edm-busy", "edm-seq", RELAY, RELAY),
        ("edm-peraddr", "eim-apdf", GUESS, RELAY),
        ("edm-peraddr", "edm-seq", RELAY, RELAY),
        ("edm-pool", "eim-apdf", GUESS, RELAY),
        ("eim-pool", "eim-apdf", DIRECT, DIRECT),
        # Two blocks meet with 6 %: 256 sockets a side.
        ("edm-seq", "edm-block", RELAY, RELAY),
        ("edm-block", "edm-block", RELAY, RELAY),
        ("edm-seq", "edm", RELAY, RELAY),
        ("edm-block", "edm", RELAY, RELAY),
        ("edm", "edm", RELAY, RELAY),
        ("adm", "adm", RELAY, RELAY),
        # One mapping for the peer's address, open to all its ports: it answers from where it was found.
        ("adm-adf", "edm", GUESS, RELAY),
        ("apdm-adf", "edm", RELAY, RELAY),
        ("udp-blocked", "public", RELAY, DIRECT),
        ("udp-blocked", "udp-blocked", RELAY, DIRECT),
        ("only-443", "public", RELAY, RELAY),
        ("eim+noudp", "edm", RELAY, RELAY),
        # An inner router that preserves ports behind one that does not, and the other way round.
        ("masquerade+cgn", "eim-apdf", DIRECT, DIRECT),
        ("edm-seq+cgn", "eim-apdf", GUESS, RELAY),
    ],
)
def test_pairs(one: str, other: str, over_udp: Crossing, over_tcp: Crossing) -> None:
    assert (cross(one, other, UDP), cross(one, other, TCP)) == (over_udp, over_tcp)


@pytest.mark.parametrize("transport", Transport)
def test_ipv6_is_filtered_and_nothing_else(transport: Transport) -> None:
    for one, other in product(DEFAULT_KINDS6, repeat=2):
        blocked = transport is UDP and "firewalled+noudp" in (one, other)
        assert cross(one, other, transport, Family.V6) is (RELAY if blocked else DIRECT)
    assert outlook(kind_of("edm"), UDP, Family.V6).filtering is Filtering.APDF
    assert outlook(kind_of("edm+open6"), UDP, Family.V6).filtering is Filtering.EIF
    assert outlook(kind_of("firewalled-adf"), UDP, Family.V6).filtering is Filtering.ADF


def test_it_does_not_matter_who_begins() -> None:
    for (one, other), transport, family in product(product(KINDS, repeat=2), Transport, Family):
        assert cross(one, other, transport, family) is cross(other, one, transport, family)


def test_double_nat_is_as_strict_as_its_stricter_half() -> None:
    assert outlook(kind_of("eim-eif+cgn"), UDP, Family.V4).filtering is Filtering.ADF
    assert outlook(kind_of("eim-apdf+cgn"), UDP, Family.V4).filtering is Filtering.APDF
    behind_carrier = outlook(kind_of("edm-seq+cgn"), UDP, Family.V4)
    assert behind_carrier.assignment is not None
    assert (behind_carrier.assignment.kind, behind_carrier.ports) == (Assignment.BLOCK, 1024)


def test_the_usual_matrix_has_twelve_kinds_that_differ() -> None:
    assert len(DEFAULT_KINDS) >= 12
    assert len({kind_of(kind).layers for kind in DEFAULT_KINDS}) == len(DEFAULT_KINDS)
    assert len({kind_of(kind).layers for kind in DEFAULT_KINDS6}) == len(DEFAULT_KINDS6)
