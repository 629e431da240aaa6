"""One of each kind in turn: what a limit cuts from the end of such a list is of no kind alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def alternating(kinds: Sequence[Sequence[T]]) -> list[T]:
    """The first of each, then the second of each, and so on; of each in its order."""
    longest = max(map(len, kinds), default=0)
    return [kind[place] for place in range(longest) for kind in kinds if place < len(kind)]
