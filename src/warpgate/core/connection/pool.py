"""Bytes that many streams may hold together, so that whoever has many of them holds no more for it.

Each may hold a part of what is left, so there is always something left for the next one, and FLOOR in any case. What
was allowed cannot be taken back: it counts until it has been used.
"""

from __future__ import annotations

# A first flight of QUIC is no more (RFC 9002 section 7.2), and credit comes a round trip after it.
FLOOR = 16 * 1024


class Pool:
    """`within`: a larger one that this is a part of."""

    def __init__(self, total: int, parts: float, within: Pool | None = None) -> None:
        """One may hold `total` / `parts`, all together `total` and FLOOR for each."""
        self._total = total
        self._parts = parts
        self._within = within
        self.held = 0  # above the floors

    def share(self) -> Share:
        return Share(self)

    def add(self, change: int) -> None:
        self.held += change
        if self._within is not None:
            self._within.add(change)

    def limit(self, own: int) -> int:
        """For one that holds `own` of it, above its floor."""
        limit = FLOOR + int(max(0, self._total - self.held + own) / self._parts)
        return limit if self._within is None else min(limit, self._within.limit(own))


class Share:
    """One stream's."""

    __slots__ = ("_counted", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._counted = 0

    @property
    def limit(self) -> int:
        """Bytes, FLOOR at least."""
        return self._pool.limit(self._counted)

    def set(self, held: int) -> None:
        """So many bytes are held, or may be."""
        counted = max(0, held - FLOOR)
        if counted != self._counted:
            self._pool.add(counted - self._counted)
            self._counted = counted

    def release(self) -> None:
        self.set(0)
