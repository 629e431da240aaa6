from __future__ import annotations

from warpgate.model.backoff import Backoff

BACKOFF = Backoff(0.5, 60.0)


def test_each_pause_is_twice_as_long_up_to_the_longest() -> None:
    assert [BACKOFF.after(failures) for failures in (1, 2, 3, 7, 8, 9)] == [0.5, 1, 2, 32, 60, 60]


def test_what_has_failed_for_days_is_still_tried() -> None:
    """2 ** 1100 does not fit into a float: such a pause was the end of whoever wanted to wait."""
    assert BACKOFF.after(1_000_000) == 60
    assert BACKOFF.drawn(1_000_000, max) == 60


def test_a_drawn_pause_lies_between_the_shortest_and_the_next() -> None:
    assert [(BACKOFF.drawn(failures, min), BACKOFF.drawn(failures, max)) for failures in (1, 2, 9)] == [
        (0.5, 1),
        (0.5, 2),
        (0.5, 60),
    ]
