"""What every script prints: one line a measurement, with its limit, and a verdict that the exit status repeats."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`value` and `limit` in `unit`; `at_most` tells on which side of the limit it must be."""

    what: str
    value: float
    limit: float
    unit: str = "ms"
    at_most: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "ok  " if self.holds else "MISS"
        ratio = f"{self.value / self.limit:5.2f} of it" if self.limit else ""
        compared = f"{self.value:9.2f} {sign} {self.limit:8.2f} {self.unit:<6} {ratio}"
        return f"{verdict} {self.what:<58} {compared} {self.note}"


def show(rows: Sequence[Row]) -> bool:
    """Print them; whether all hold."""
    for row in rows:
        print(row, flush=True)
    return all(row.holds for row in rows)


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1000


def spread(seconds: Sequence[float]) -> str:
    """The range beside a median."""
    return f"(n={len(seconds)}, {min(seconds) * 1000:.0f}..{max(seconds) * 1000:.0f} ms)"
