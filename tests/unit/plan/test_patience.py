"""How long something is waited for where signals are slow."""

from __future__ import annotations

import pytest

from warpgate.plan.patience import LONGEST, patience_of


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(None, 5.0), (0.0, 5.0), (0.04, 5.0), (1.25, 5.0), (2.5, 10.0), (1000.0, LONGEST)],
)
def test_measured_signals_stretch_it_but_not_without_end(delay: float | None, seconds: float) -> None:
    assert patience_of(5.0, 4, delay) == seconds


def test_what_is_longer_anyway_stays_so() -> None:
    assert patience_of(2 * LONGEST, 4, 1000.0) == 2 * LONGEST
