"""Which path is used, and when one is suspected."""

from __future__ import annotations

import pytest

from warpgate.plan.paths import (
    LATEST,
    LONGEST,
    RESCUE,
    SOONEST,
    UPGRADE,
    PathState,
    ask_after,
    best,
    knock_after,
    longest_round_trip,
    suspicion,
)

OLD = PathState(1, relayed=False, round_trip=0.04, silent=False)
NEW = PathState(2, relayed=False, round_trip=0.06, silent=False)
RELAYED = PathState(3, relayed=True, round_trip=0.08, silent=False)


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        ([], None),
        ([RELAYED], RELAYED),
        ([OLD, NEW], NEW),  # it is known to have worked last
        ([NEW, OLD], NEW),
        ([NEW, RELAYED], NEW),  # direct, though it is older
        ([RELAYED, OLD], OLD),
        ([PathState(4, relayed=False, round_trip=None, silent=False), RELAYED], None),
        ([PathState(4, relayed=False, round_trip=0.13, silent=False), RELAYED], RELAYED),  # a detour
        ([PathState(4, relayed=False, round_trip=0.11, silent=False), RELAYED], None),
        ([PathState(4, relayed=False, round_trip=0.04, silent=True), RELAYED], RELAYED),
        ([PathState(4, relayed=False, round_trip=0.04, silent=True), OLD], OLD),
    ],
)
def test_the_best_path(paths: list[PathState], chosen: PathState | None) -> None:
    expected = paths[0] if chosen is None and paths else chosen
    assert best(paths) == best(list(reversed(paths))) == expected


@pytest.mark.parametrize(
    ("round_trip", "seconds"),
    [
        (0.0, SOONEST),
        (0.04, SOONEST),
        (0.2, 1.25),
        (None, 0.65),
        (1.5, LATEST),
        (5.0, 7.5),
        (100.0, LONGEST),  # a peer may hold its answers back
    ],
)
def test_patience_follows_the_round_trip(round_trip: float | None, seconds: float) -> None:
    assert suspicion(round_trip) == pytest.approx(seconds)


def test_a_silent_path_is_tried_often_at_first_and_never_given_up() -> None:
    assert [knock_after(silence) for silence in (0.0, 9.9, 10.0, 59.0, 60.0, 1e6)] == [0.1, 0.1, 1, 1, 5, 5]


def test_upgrades_are_given_up_and_rescues_are_not() -> None:
    assert [UPGRADE.after(failures) for failures in (1, 2, 3, 4, 99)] == [5.0, 15.0, 60.0, None, None]
    assert RESCUE.after(1) == 0.25
    assert RESCUE.after(99) == 30.0


@pytest.mark.parametrize(
    ("offered", "heard", "delay", "seconds"),
    [
        (10.1, 0.0, 0.04, 0.72),  # nothing came by a broker yet
        (10.1, 10.18, 0.04, 0.72),
        (10.1, 10.38, 0.04, 0.32),  # the peer was late
        (None, 10.38, 0.04, 0.5),
        (10.1, 0.0, None, 0.5),
    ],
)
def test_what_proves_a_path_says_how_slow_it_may_be(
    offered: float | None, heard: float, delay: float | None, seconds: float
) -> None:
    assert longest_round_trip(10.5, 10.0, offered, heard, delay) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("expected", "longest", "pauses"),
    [
        (0.01, 0.01, (0.05, 0.05, 0.05)),  # measured
        (0.04, 0.04, (0.05, 0.05, 0.05)),
        (2.5, 2.5, (3.125, 3.125, 3.125)),
        (0.1, 0.1, (0.125, 0.125, 0.125)),  # no slower than signals
        (0.1, 0.6, (0.125, 0.5, 0.75)),
        (0.1, 2.5, (0.125, 0.5, 2.0, 3.125)),
    ],
)
def test_questions_are_repeated_as_the_round_trip_has_it(
    expected: float, longest: float, pauses: tuple[float, ...]
) -> None:
    assert [ask_after(expected, longest, times) for times in range(1, len(pauses) + 1)] == pytest.approx(pauses)
    assert ask_after(expected, longest, 64) == pytest.approx(pauses[-1])
