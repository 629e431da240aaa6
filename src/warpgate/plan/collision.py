"""Which connection is used where two nodes have begun one each: a collision, as in RFC 4271 section 6.8. Pure.

The one that has had a pipe, or that of the node with the lower id where both have, or neither. So that both nodes come
to the same, the other node waits a little for the first one's where it has heard of it: before a connection is open at
its client its server has heard of it and answered, so whoever opens a pipe without having heard of another one is
heard by the peer before that one is open.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

# Until a connection that has been heard of is not waited for any more, where the other one is there; at least, s.
HEAD_START = 0.25


class Candidate(Protocol):
    """A connection."""

    @property
    def opening(self) -> bool:
        """Whether it is still to be proved."""

    @property
    def usable(self) -> bool:
        """Whether it is proved and a path works."""

    @property
    def used(self) -> bool:
        """Whether there has been a pipe on it."""

    @property
    def settled_at(self) -> float:
        """Until when another one is waited for, once it is proved."""


C = TypeVar("C", bound=Candidate)


def settle(first: C | None, second: C | None, now: float) -> tuple[C | None, float | None]:
    """The one to be used now, or none yet, and then when to ask again at the latest. `first`: that of the lower id."""
    usable = [each for each in (first, second) if each is not None and each.usable]
    if len(usable) == 2:
        return next((each for each in usable if each.used), usable[0]), None
    if not usable:
        return None, None
    coming = usable[0] is second and first is not None and first.opening and not usable[0].used
    if coming and now < usable[0].settled_at:
        return None, usable[0].settled_at
    return usable[0], None
