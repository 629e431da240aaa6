"""Who makes room where places are few."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from warpgate.plan.shares import Places


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
