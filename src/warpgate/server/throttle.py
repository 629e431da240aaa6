"""Token buckets for many, in bounded memory. Time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

# Who has not been seen for longest is forgotten first, and with that gets a full bucket again: to gain by it one needs
# more networks than this.
_REMEMBERED = 65_536


class Throttle:
    """`per_minute` each, all at once if you like; None: no limit."""

    def __init__(self, per_minute: int | None, remembered: int = _REMEMBERED) -> None:
        self._burst = float(per_minute or 0)
        self._limited = per_minute is not None
        self._remembered = remembered
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens, at

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, who: Hashable, now: float) -> float:
        """0.0 and one token is gone; else the seconds to wait for one."""
        if not self._limited:
            return 0.0
        tokens, at = self._buckets.pop(who, (self._burst, now))
        rate = self._burst / 60
        tokens = min(self._burst, tokens + max(0.0, now - at) * rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / rate
        self._buckets[who] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
        return wait
