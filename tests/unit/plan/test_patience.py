"""How long something is waited for where signals are slow."""

from __future__ import annotations

import pytest

from warpgate.plan.patience import LONGEST, LONGEST_SIGNAL, attempt_patience, patience_of


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(None, 5.0), (0.0, 5.0), (0.04, 5.0), (1.25, 5.0), (2.5, 10.0), (1000.0, LONGEST)],
)
def test_measured_signals_stretch_it_but_not_without_end(delay: float | None, seconds: float) -> None:
    assert patience_of(5.0, 4, delay) == seconds


def test_what_is_longer_anyway_stays_so() -> None:
    assert patience_of(2 * LONGEST, 4, 1000.0) == 2 * LONGEST


@pytest.mark.parametrize(
    ("delay", "seconds"), [(None, 20.0), (0.04, 20.0), (1.5, 20.0), (2.5, 30.0), (LONGEST_SIGNAL, 40.0), (1000.0, 40.0)]
)
def test_an_attempt_lasts_twice_as_long_as_usual_at_most(delay: float | None, seconds: float) -> None:
    assert attempt_patience(20.0, delay) == seconds
