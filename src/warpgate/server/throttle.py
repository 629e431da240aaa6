"""Token buckets for many, in bounded memory. Time is an argument."""

from __future__ import annotations

from collections.abc import Hashable

from warpgate.model.recent import Recent
from warpgate.proto.bucket import TokenBucket

# Who has not been seen for longest is forgotten first, and with that gets a full bucket again: to gain by it one needs
# more networks than this.
_REMEMBERED = 65_536


class Throttle:
    """`per_minute` each, all at once if you like; None: no limit."""

    def __init__(self, per_minute: int | None, remembered: int = _REMEMBERED) -> None:
        self._burst = float(per_minute or 0)
        self._limited = per_minute is not None
        self._buckets: Recent[Hashable, TokenBucket] = Recent(remembered)

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, who: Hashable, now: float) -> float:
        """0.0 and one token is gone; else the seconds to wait for one."""
        if not self._limited:
            return 0.0
        bucket = self._buckets.get(who) or TokenBucket(self._burst / 60, self._burst, now)
        self._buckets[who] = bucket
        return 0.0 if bucket.take(now) else bucket.wait(now)
