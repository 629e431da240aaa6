"""Which connection is used where two nodes have begun one each: a collision, as in RFC 4271 section 6.8. Pure.

The one that has had a pipe, or that of the node with the lower id where both have, or neither. So that both nodes come
to the same, each waits a little where it has heard of the other's: before a connection is open at its client its server
has heard of it and answered, so one node at most opens a pipe without having heard of another connection. The node with
the higher id waits until the first one is proved, and takes it then; the one with the lower id until it sees on which
of the two the other has opened its pipe, and for longer: so it sees also that the other has given up waiting. Both open
a pipe on their own only where all that one says is lost for longer than that, which nothing can exclude; new pipes are
then opened on the first one, and the second ends when its pipes have.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

# Until a connection that has been heard of is not waited for any more, where the other one is there; at least, s.
# Where a third of them has 30 % of loss each way, and a third 10 %, 5 of 800 collisions part the two; with 0.25 s it is
# 12 of 1,000.
HEAD_START = 0.4


class Candidate(Protocol):
    """A connection."""

    @property
    def by_peer(self) -> bool:
        """Whether the peer has begun it."""

    @property
    def opening(self) -> bool:
        """Whether it is still to be proved."""

    @property
    def usable(self) -> bool:
        """Whether it is proved and a path works."""

    @property
    def silent(self) -> bool:
        """Whether it is proved and no path works at the moment."""

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
    if not usable:
        return None, None
    chosen = next((each for each in usable if each.used), usable[0])
    if chosen.used or first is None or second is None:
        return chosen, None
    if chosen is second:
        # The peer may find that the first one works, and open a pipe on it.
        until = chosen.settled_at if first.opening or (first.silent and not first.used) else now
    else:
        until = _deaf_until(first, second) if second.by_peer else now
    return (None, until) if now < until else (chosen, None)


def _deaf_until(first: Candidate, second: Candidate) -> float:
    """Until when the peer may have opened a pipe on the second one, its own, without having heard of our first one's
    proof. It opens one on the first as soon as it has, so this takes a round trip where nothing is lost.
    """
    if second.opening:
        return first.settled_at + HEAD_START
    return min(first.settled_at, second.settled_at) + HEAD_START if second.usable else 0.0
