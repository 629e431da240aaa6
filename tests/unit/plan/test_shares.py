"""Who makes room where places are few."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from warpgate.plan.shares import Places, Turns


def test_one_peer_may_have_all_that_nobody_else_wants() -> None:
    places: Places[int] = Places(10)
    assert [places.enter(number, "a", "home") for number in range(10)] == [None] * 10
    assert places.enter(10, "a", "home") == 10  # nobody has more than itself
    assert len(places) == 10


def test_the_youngest_of_the_largest_crowd_makes_room() -> None:
    places: Places[str] = Places(5)
    for name, key in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a"), ("b2", "b")):
        assert places.enter(name, key, key) is None
    assert places.enter("c1", "c", "c") == "a3"
    assert places.enter("c2", "c", "c") == "c2"  # a, b and c would have had 1, 2 and 2


def test_keys_of_one_place_are_one_crowd() -> None:
    places: Places[int] = Places(64)
    for number in range(64):
        places.enter(number, f"key {number}", "one host")
    assert [places.enter(100 + number, f"honest {number}", f"host {number}") for number in range(8)] == list(
        range(63, 55, -1)
    )
    assert places.enter(200, "one more key", "one host") == 200


def test_who_leaves_makes_room_for_anybody() -> None:
    places: Places[str] = Places(1)
    places.enter("a", "a", "x")
    places.leave("a")
    places.leave("a")
    assert places.enter("b", "a", "x") is None


def test_who_moves_counts_where_it_is_now() -> None:
    places: Places[str] = Places(3)
    for name in "abc":
        places.enter(name, name, "relay")
    places.enter("a", "a", "home")
    assert len(places) == 3
    assert places.enter("d", "d", "elsewhere") in {"b", "c"}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=60), st.integers(1, 12))
def test_there_are_never_more_and_never_miscounted(comers: list[tuple[int, int]], limit: int) -> None:
    places: Places[int] = Places(limit)
    held: dict[int, tuple[int, int]] = {}
    for name, (key, source) in enumerate(comers):
        leaver = places.enter(name, key, source)
        held[name] = key, source
        if leaver is not None:
            del held[leaver]
        assert len(places) == len(held) <= limit
        if leaver not in (None, name):
            # Nobody makes room for who has as much already.
            keys, sources = Counter(key for key, _ in held.values()), Counter(src for _, src in held.values())
            assert max(keys[key], sources[source]) <= max(*keys.values(), *sources.values())
    for name in tuple(held):
        places.leave(name)
    assert not len(places)
    assert not places._sizes


# -- places that are left within seconds ------------------------------------------------------------------------------


def test_among_equals_the_oldest_makes_room() -> None:
    turns: Turns[int] = Turns(3)
    left = [turns.enter(number, f"key {number}", f"host {number}") for number in range(6)]
    assert left == [None, None, None, 0, 1, 2]
    assert len(turns) == 3


def test_the_oldest_of_the_largest_crowd_makes_room_and_a_comer_counts_with_its_own() -> None:
    turns: Turns[str] = Turns(4)
    for name, source in (("slow", "home"), ("a1", "a"), ("b1", "b"), ("a2", "a")):
        turns.enter(name, name, source)
    assert turns.enter("b2", "b2", "b") == "a1"
    assert turns.enter("b3", "b3", "b") == "b1"
    assert turns.enter("c1", "c1", "c") == "b2"


def test_the_largest_group_makes_room_and_then_the_comers_own() -> None:
    turns: Turns[int] = Turns(6)
    for number in range(6):
        turns.enter(number, number, number, "introduced")
    assert [turns.enter(10 + number, 10 + number, 0, "known") for number in range(3)] == [0, 1, 2]
    assert turns.enter(20, 20, 20, "known") == 10  # as many as there are of the others: their own oldest
    assert turns.enter(30, 30, 30, "introduced") == 3
    assert turns.enter(40, 40, 40, "offered") in {11, 12, 20, 4, 5, 30}
    assert len(turns) == 6


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 2)), max_size=60),
    st.integers(1, 9),
)
def test_turns_keep_nobody_out_and_nobody_twice(comers: list[tuple[int, int, int]], limit: int) -> None:
    turns: Turns[int] = Turns(limit)
    held: dict[int, int] = {}
    for name, (key, source, group) in enumerate(comers):
        leaver = turns.enter(name, key, source, group)
        if leaver is not None:
            sizes = Counter(held.values())
            assert sizes[held.pop(leaver)] >= max(sizes.values()) - 1
        held[name] = group
        assert len(turns) == len(held) <= limit
    for name in tuple(held):
        turns.leave(name)
        turns.leave(name)
    assert not len(turns)
