"""What a machine says of its UDP port, that nobody listens there (ICMP port unreachable): when to believe it.

Whoever knows the two ports can forge it, and it says nothing of what was there a second ago. So it is a reason to ask
whoever should listen; one true answer clears it, and it is believed when it was said again to the questions.
"""

from __future__ import annotations

# So many, and for so long: several questions, and a round trip by way of two satellites.
ENOUGH = 3
LASTING = 3.0


class Refusals:
    """Of one remote endpoint, since it answered last."""

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def heard(self, now: float) -> None:
        """One more."""
        if self._count == 0:
            self._since = now
        self._count += 1

    def believed(self, now: float) -> bool:
        """If whoever should listen was asked meanwhile."""
        return self._count >= ENOUGH and now - self._since >= LASTING

    def answered(self) -> None:
        self._count = 0
