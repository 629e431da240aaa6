"""Who makes room where places are few: one of those that hold most of them.

Keys cost nothing, so a crowd is whoever has one key, and whoever comes from one place. A comer is let in as long as the
largest crowd is larger than its own with it: nobody with few places is kept out by anybody with many, and a single peer
may have all that nobody else wants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
Crowd = tuple[str, Hashable]


class Places(Generic[T]):
    """`limit` of them. Not fair between those whom one address stands for: a carrier's NAT, a relay."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[T, tuple[Crowd, ...]] = {}  # in order of arrival
        self._sizes: Counter[Crowd] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def enter(self, comer: T, key: Hashable, source: Hashable) -> T | None:
        """Who has no place (any more): None, `comer`, or who made room for it. Whoever is in has moved to `source`."""
        self.leave(comer)
        leaver = None
        if self.full:
            leaver = self.leaver(key, source)
            if leaver is None:
                return comer
            self.leave(leaver)
        crowds: tuple[Crowd, ...] = (("key", key), ("source", source))
        self._held[comer] = crowds
        self._sizes.update(crowds)
        return leaver

    @property
    def full(self) -> bool:
        return len(self._held) >= self._limit

    def leaver(self, key: Hashable, source: Hashable) -> T | None:
        """The youngest of the largest crowd, if that is larger than a comer's would be."""
        largest, size = max(self._sizes.items(), key=lambda item: item[1], default=(("", None), 0))
        if size <= max(self._sizes["key", key], self._sizes["source", source]) + 1:
            return None
        return next(holder for holder in reversed(self._held) if largest in self._held[holder])

    def leave(self, holder: T) -> None:
        """Idempotent."""
        for crowd in self._held.pop(holder, ()):
            self._sizes[crowd] -= 1
            if not self._sizes[crowd]:
                del self._sizes[crowd]
