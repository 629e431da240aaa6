"""Whether a gateway has kept its mappings, told by the clock that its answers carry (the epoch)."""

from __future__ import annotations


class Epoch:
    """The last epoch heard, in seconds, and when. Each check records and returns False when state was lost."""

    __slots__ = ("_at", "_epoch")

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._at = 0.0

    def check_pcp(self, epoch: int, now: float) -> bool:
        """RFC 6887 section 8.5: its clock must not go back by more than 1 s, nor deviate by more than 1/16 and 2 s."""
        previous, elapsed = self._record(epoch, now)
        if previous is None:
            return True
        server = epoch - previous
        return server >= -1 and elapsed + 2 >= server - server / 16 and server + 2 >= elapsed - elapsed / 16

    def check_pmp(self, epoch: int, now: float) -> bool:
        """RFC 6886 section 3.6: at least 7/8 of the time must have passed for it, less 2 s."""
        previous, elapsed = self._record(epoch, now)
        return previous is None or epoch >= previous + elapsed * 7 / 8 - 2

    def _record(self, epoch: int, now: float) -> tuple[int | None, float]:
        previous, elapsed = self._epoch, now - self._at
        self._epoch, self._at = epoch, now
        return previous, elapsed
