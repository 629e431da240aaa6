"""How long to wait before the next try of what failed."""

from __future__ import annotations

from collections.abc import Callable

from warpgate.lazy_dataclass import dataclass

# More would not change the pause, and a power without end does not fit into a float.
DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses in seconds: `low` after the first failure, twice as long after each further one, `high` at most."""

    low: float
    high: float

    def after(self, failures: int) -> float:
        """After so many failures in a row, 1 or more."""
        return min(self.high, self.low * 2.0 ** min(failures - 1, DOUBLINGS))

    def drawn(self, failures: int, uniform: Callable[[float, float], float]) -> float:
        """The same on average, and different for each who failed at the same time."""
        return uniform(self.low, self.after(failures + 1))
