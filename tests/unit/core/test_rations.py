"""A rate that peers share, and who counts as known."""

from __future__ import annotations

from ipaddress import ip_address

from warpgate.core.acquaintances import PEERS_OF_A_PLACE, PEERS_REMEMBERED, Acquaintances
from warpgate.core.search.rations import CROWDS_REMEMBERED, Ration
from warpgate.proto.hello import Role
from warpgate.proto.marks import MARKS


def taken(ration: Ration, times: int, *crowds: str, known: bool = False, now: float = 0.0) -> int:
    return sum(ration.take(now, known, *crowds) for _ in range(times))


def test_who_takes_much_leaves_a_quarter_to_newcomers_and_these_leave_half_to_whom_we_know() -> None:
    ration = Ration(16.0, 64.0, 0.0)
    assert taken(ration, 100, "mallory") == 64 - 48 + 1
    assert [taken(ration, 100, name) for name in ("a", "b", "c", "d", "e")] == [4, 4, 4, 4, 0]
    assert taken(ration, 100, "friend", known=True) == 16
    assert taken(ration, 100, "another", known=True) == 64 - 17 - 16 - 16


def test_whom_we_know_leaves_the_same_to_others_when_it_takes_much() -> None:
    ration = Ration(16.0, 64.0, 0.0)
    assert taken(ration, 100, "a known flooder", known=True) == 17  # 16 are not much, and then there are 48
    assert taken(ration, 16, "another", known=True) == 16
    assert taken(ration, 1, "newcomer") == 0
    assert taken(ration, 1, "newcomer", now=0.1) == 1


def test_what_a_stranger_takes_in_the_name_of_a_place_is_not_that_of_whom_we_know() -> None:
    ration = Ration(16.0, 64.0, 0.0)
    assert taken(ration, 100, "home") == 17
    assert taken(ration, 10, "home", known=True) == 10


def test_each_of_the_crowds_counts() -> None:
    ration = Ration(16.0, 64.0, 0.0)
    first = sum(taken(ration, 1, f"key {number}", "one place") for number in range(100))
    assert first == 17
    assert taken(ration, 1, "key 200", "another place")
    assert not taken(ration, 1, "key 201", "one place")


def test_what_comes_back_is_for_all_and_no_more_than_the_rate() -> None:
    ration = Ration(4.0, 8.0, 0.0)
    assert sum(taken(ration, 1, f"friend {number}", known=True) for number in range(100)) == 8
    assert not taken(ration, 1, "mallory", now=0.9)  # that is kept for whom we know
    assert sum(taken(ration, 1, f"new {number}", now=2.0) for number in range(100)) == 5
    assert sum(taken(ration, 1, f"friend {number}", known=True, now=2.0) for number in range(9)) == 3


def test_one_token_is_anybodys() -> None:
    ration = Ration(1.0, 1.0, 0.0)
    assert taken(ration, 3, "mallory") == 1


def test_crowds_are_forgotten() -> None:
    ration = Ration(1.0, 1.0, 0.0)
    for number in range(2 * CROWDS_REMEMBERED):
        ration.take(0.0, False, f"{number}")
    assert len(ration._crowds) == CROWDS_REMEMBERED


def test_many_keys_of_one_place_are_few_acquaintances() -> None:
    met = Acquaintances()
    met.meet("friend", ip_address("2001:db8::1"))
    for number in range(100):
        met.meet(f"m{number}", ip_address("198.51.100.66"))
    assert len(met) == 1 + PEERS_OF_A_PLACE
    assert "friend" in met
    assert "m99" in met
    assert "m0" not in met


def test_the_longest_unseen_acquaintances_are_forgotten() -> None:
    met = Acquaintances()
    for number in range(PEERS_REMEMBERED + 10):
        met.meet(f"{number}", ip_address(f"20.0.{number // 200}.{number % 200}"))
        met.meet("friend", ip_address("192.0.2.1"))
    assert len(met) == PEERS_REMEMBERED
    assert "friend" in met
    assert "0" not in met


def test_whoever_is_an_acquaintance_no_more_has_no_marks_left() -> None:
    """Or one place could have any number of them, and this node would hold tags without end."""
    met = Acquaintances()
    for number in range(3 * PEERS_OF_A_PLACE):
        met.meet(f"m{number}", ip_address("198.51.100.66"))
        met.marks.renew(f"m{number}", number.to_bytes(32, "big"), Role.RESPONDER)
    assert len(met.marks._expected) == PEERS_OF_A_PLACE * MARKS
