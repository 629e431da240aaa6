"""A short run of `make fuzz`, always the same: the targets are alive, and refuse what is cheap to find."""

from __future__ import annotations

from itertools import islice

import pytest
from fuzz_engine import Finding, Target, attempt, inputs
from fuzz_targets import TARGETS

INPUTS = 60


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str) -> None:
    for data in islice(inputs(TARGETS[name], seed=1), INPUTS):
        attempt(TARGETS[name], data)


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.refuses])
def test_a_seed_gets_through(name: str) -> None:
    """Else only the first line of the decoder is tried."""
    target = TARGETS[name]
    for seed in target.seeds:
        try:
            target.run(seed)
        except target.refuses:
            continue
        return
    pytest.fail("all seeds are refused")


def test_an_exception_that_is_not_documented_is_a_finding() -> None:
    with pytest.raises(Finding, match="IndexError"):
        attempt(Target("x", lambda data: data[5], (ValueError,), ()), b"")
