"""Who makes room where places are few: one of those that hold most of them.

Keys cost nothing, so a crowd is whoever has one key, and whoever comes from one place. A comer is let in as long as the
largest crowd is larger than its own with it: nobody with few places is kept out by anybody with many, and a single peer
may have all that nobody else wants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
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


class Turns(Generic[T]):
    """`limit` places that whoever is honest leaves within seconds, so that those who came first make room.

    Nobody is kept out. Places are for groups: the largest one makes room, or the comer's own when none is larger than
    that is with it. Within a group it is the oldest of its largest crowd.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._groups: dict[Hashable, dict[T, tuple[Crowd, ...]]] = {}  # in order of arrival

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def enter(self, comer: T, key: Hashable, source: Hashable, group: Hashable = None) -> T | None:
        """Who made room for it, if anybody had to."""
        crowds: tuple[Crowd, ...] = (("key", key), ("source", source))
        leaver = self._leaver(crowds, group) if len(self) >= self._limit else None
        if leaver is not None:
            self.leave(leaver)
        self._groups.setdefault(group, {})[comer] = crowds
        return leaver

    def _leaver(self, crowds: tuple[Crowd, ...], group: Hashable) -> T:
        own = self._groups.get(group, {})
        there = max(self._groups.values(), key=len)
        if own and len(there) <= len(own) + 1:
            there = own
        sizes = Counter(crowd for held in there.values() for crowd in held)
        if there is own:
            sizes.update(crowd for crowd in crowds if crowd in sizes)
        largest = max(sizes, key=sizes.__getitem__)
        return next(holder for holder, held in there.items() if largest in held)

    def leave(self, holder: T) -> None:
        """Idempotent."""
        for name, group in self._groups.items():
            if group.pop(holder, None) is not None:
                if not group:
                    del self._groups[name]
                return
