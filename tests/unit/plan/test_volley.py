"""The ports of a volley: what is said of them, what is listened to, and who fires first."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from warpgate.errors import AddressError
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity
from warpgate.model.nat import Assignment, Mapping, NatProfile, PortAssignment
from warpgate.plan.volley import (
    AFTER_PRIMING,
    ENDPOINTS,
    Face,
    as_text,
    lag_behind_priming,
    parse_endpoints,
    primes,
    routes_again,
    routes_between,
    with_pool,
)

HERE, THERE = Endpoint.parse("192.168.1.2:4000"), Endpoint.parse("203.0.113.7:5000")
SIX = Endpoint.parse("[2001:db8::2]:4000")


def seen_as(mapping: Mapping, kind: Assignment) -> NodeAddress:
    nat = NatProfile(mapping, assignment=PortAssignment(kind, step=1))
    return NodeAddress(Identity.generate().public_key, (), (Attachment(HERE.ip, nat=nat), Attachment(SIX.ip)))


def test_a_peer_is_told_and_heard_only_so_much() -> None:
    ports = tuple(Endpoint(THERE.ip, port) for port in range(5000, 5020))
    assert as_text([Face(HERE, ports)]) == tuple(map(str, ports[:ENDPOINTS]))
    assert parse_endpoints([str(port) for port in ports]) == list(ports[:ENDPOINTS])
    with pytest.raises(AddressError):
        parse_endpoints(["203.0.113.7"])


def test_a_port_that_foretells_many_endpoints_leaves_room_for_the_other_interfaces() -> None:
    ports = tuple(Endpoint(THERE.ip, port) for port in range(5000, 5020))
    told = as_text([Face(HERE, ports[:8]), Face(SIX, (SIX,))])
    assert told == tuple(map(str, (ports[0], SIX, *ports[1:7])))


def test_a_pool_is_aimed_at_beside_what_is_named() -> None:
    pool = tuple(ip_address(f"198.51.100.{last}") for last in (1, 2, 3))
    nat = NatProfile(Mapping.APDM)
    peer = NodeAddress(bytes(33), (), (Attachment(HERE.ip, pool[0], nat=nat, pool=pool[1:]),))
    named = [Endpoint(pool[1], 5000)]
    assert with_pool(named, peer) == [*named, Endpoint(pool[0], 5000), Endpoint(pool[2], 5000)]
    beyond = [Endpoint.parse(f"198.51.100.9:{port}") for port in range(5000, 5008)]
    assert with_pool(beyond, peer) == beyond
    assert with_pool([], peer) == []
    steady = replace(peer, attachments=(replace(peer.attachments[0], nat=NatProfile(Mapping.EIM)),))
    assert with_pool(named, steady) == named


def test_routes_stay_within_a_family() -> None:
    faces = [Face(HERE, (HERE,)), Face(SIX, (SIX,))]
    assert routes_between(faces, [THERE, SIX]) == [(HERE, THERE), (SIX, SIX)]


@pytest.mark.parametrize(
    ("mapping", "assignment", "again"),
    [
        (Mapping.APDM, Assignment.RANDOM, True),
        (Mapping.ADM, Assignment.UNKNOWN, True),
        (Mapping.APDM, Assignment.PRESERVING, False),
        (Mapping.EIM, Assignment.RANDOM, False),
        (Mapping.UNKNOWN, Assignment.UNKNOWN, False),
    ],
)
def test_another_port_is_as_good_only_where_the_peer_cannot_tell(
    mapping: Mapping, assignment: Assignment, again: bool
) -> None:
    found = routes_again([(HERE, THERE), (SIX, SIX)], seen_as(mapping, assignment))
    assert found == ([(Endpoint(ip_address("192.168.1.2"), 0), THERE)] if again else [])


def test_one_side_primes_and_the_other_waits_for_it() -> None:
    found = [
        (volley, initiator)
        for volley in range(1, 5)
        for initiator in (True, False)
        if primes(volley, initiator=initiator)
    ]
    assert found == [(2, False), (3, True)]
    assert [lag_behind_priming(volley) for volley in range(1, 5)] == [0.0, 0.0, AFTER_PRIMING, 0.0]
