"""Which STUN answers count: the furthest realm's, without the one that all others contradict."""

from __future__ import annotations

import pytest

from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Mapping
from warpgate.plan.classify import Observation, classify
from warpgate.plan.realm import outside, prevailing

LOCAL, ANOTHER = "192.168.1.2:5000", "192.168.1.2:6000"


def seen(server: str, mapped: str, local: str = LOCAL) -> Observation:
    return Observation(Endpoint.parse(local), Endpoint.parse(f"{server}:3478"), Endpoint.parse(mapped))


INSIDE = seen("192.168.1.53", LOCAL)
BETWEEN = seen("100.64.0.53", "100.64.0.7:5000")
COMPANY = seen("10.0.0.53", "10.0.0.7:5000")
ONE = seen("203.0.113.1", "198.51.100.1:5000")
TWO = seen("203.0.113.2", "198.51.100.1:5000")
LIAR = seen("203.0.113.66", "8.8.8.8:5000")


@pytest.mark.parametrize(
    ("answers", "count", "ours"),
    [
        ((), (), None),
        ((INSIDE,), (INSIDE,), LOCAL),
        ((INSIDE, ONE), (ONE,), "198.51.100.1:5000"),
        ((BETWEEN, ONE, TWO), (ONE, TWO), "198.51.100.1:5000"),
        ((INSIDE, BETWEEN), (BETWEEN,), "100.64.0.7:5000"),
        ((INSIDE, INSIDE, COMPANY), (COMPANY,), "10.0.0.7:5000"),
        # two realms of which neither can be told to be further outside: what more servers see
        ((BETWEEN, COMPANY, seen("10.0.0.54", "10.0.0.7:5000")), None, "10.0.0.7:5000"),
        ((LIAR, ONE, TWO), (ONE, TWO), "198.51.100.1:5000"),
        ((ONE, LIAR, TWO), (ONE, TWO), "198.51.100.1:5000"),
        ((LIAR, ONE), (LIAR, ONE), "8.8.8.8:5000"),
        # one that names itself, or another server
        ((seen("203.0.113.66", "203.0.113.66:5000"), ONE), None, "198.51.100.1:5000"),
        ((seen("203.0.113.66", "203.0.113.1:5000"), ONE), None, "198.51.100.1:5000"),
    ],
)
def test_what_counts(answers: tuple[Observation, ...], count: tuple[Observation, ...] | None, ours: str | None) -> None:
    assert count is None or prevailing(answers) == count
    found = outside(answers)
    assert (None if found is None else str(found)) == ours


def test_of_two_that_disagree_what_others_confirm_counts() -> None:
    honest = seen("203.0.113.1", "198.51.100.1:40000")
    ours = Endpoint.parse("198.51.100.1:40000")
    assert outside([LIAR, honest]) == LIAR.mapped
    assert outside([LIAR, honest], {ours.ip}) == ours
    assert outside([seen("203.0.113.66", "8.8.8.8:9"), ONE]) == ONE.mapped, "a port that is kept speaks for it"


def test_a_server_is_one_voice_and_counts_by_what_it_said_last() -> None:
    moved = seen("203.0.113.1", "198.51.100.9:5000")
    assert outside([ONE, TWO, moved, seen("203.0.113.2", "198.51.100.9:5000")]) == moved.mapped
    again = [seen("203.0.113.66", "8.8.8.8:5000") for _ in range(5)]
    assert outside([*again, ONE, TWO]) == ONE.mapped


def test_several_addresses_of_a_nat_that_maps_each_destination_are_no_lie() -> None:
    pooled = [seen("203.0.113.1", "198.51.100.1:1"), seen("203.0.113.2", "198.51.100.1:2")]
    pooled.append(seen("203.0.113.3", "198.51.100.2:3"))
    assert prevailing(pooled) == tuple(pooled)
    assert classify(prevailing(pooled)).pooled


def test_servers_in_between_do_not_make_a_nat_symmetric() -> None:
    for other in (INSIDE, BETWEEN, LIAR):
        answers = [other, ONE, TWO, seen("203.0.113.66", "8.8.8.8:6000", ANOTHER)]
        assert classify(answers).mapping is Mapping.ADM
        assert classify(prevailing(answers)).mapping is Mapping.EIM


THREE = ("203.0.113.1", "203.0.113.2", "203.0.113.3")


def of_sockets(ports: list[tuple[int, ...]]) -> list[Observation]:
    """What three servers see of a socket each."""
    return [
        seen(server, f"198.51.100.1:{port}", f"192.168.1.2:{5000 + number}")
        for number, told in enumerate(ports)
        for server, port in zip(THREE, told, strict=False)
    ]


@pytest.mark.parametrize(
    ("ports", "wrong"),
    [
        ([(7001, 7001, 9), (7005, 7005, 9), (7003, 7003, 8)], THREE[2]),
        ([(9, 7001, 7001), (9, 7005, 7005), (8, 7003, 7003)], THREE[0]),
        ([(7001, 7001, 9), (7005, 7005, 9)], None),  # by chance, where a NAT has few ports
        ([(7001, 7001, 9), (7005, 7005, 9), (7003, 9, 7003), (7004, 7004, 9)], None),
        ([(7001, 7002, 7003), (7005, 7005, 9), (7006, 7006, 9), (7007, 7007, 9)], None),
        ([(7001, 7001, 7001), (7005, 7005, 9), (7006, 7006, 9), (7007, 7007, 9)], None),  # expired meanwhile
        ([(9, 7001), (9, 7005), (9, 7003), (9, 7004)], None),  # which of two?
    ],
)
def test_a_server_that_sees_ports_that_nobody_else_does(ports: list[tuple[int, ...]], wrong: str | None) -> None:
    told = of_sockets(ports)
    assert {str(one.server.ip) for one in told if one not in prevailing(told)} == ({wrong} if wrong else set())
