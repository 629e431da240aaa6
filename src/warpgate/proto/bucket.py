"""A rate with bursts, as a bucket of tokens. Time is an argument."""

from __future__ import annotations

# What is lost in rounding: who waits exactly as long as told finds a token.
ROUNDING = 1e-6


class TokenBucket:
    """`burst` at once, `rate` a second permanently. Full when made."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, floor: float = 0.0) -> bool:
        """Take one token; False when there is none, or fewer than `floor`."""
        if self.wait(now, floor):
            return False
        self._tokens -= 1
        return True

    def overdraw(self, amount: float) -> None:
        """Take so many, whether or not they are there: whoever comes next has to wait for longer."""
        self._tokens -= amount

    def wait(self, now: float, floor: float = 0.0) -> float:
        """Seconds until there is one token, and `floor` at least, if nobody else takes any; 0.0: now."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        missing = max(1.0, floor) - self._tokens
        return missing / self._rate + ROUNDING if missing > 0 else 0.0

    def full(self, now: float) -> bool:
        self.wait(now)
        return self._tokens >= self._burst
