"""Which of two connections that two nodes have begun at once is used."""

from __future__ import annotations

import pytest

from warpgate.lazy_dataclass import dataclass
from warpgate.plan.collision import settle


@dataclass(frozen=True, slots=True)
class Begun:
    opening: bool = False
    usable: bool = False
    used: bool = False
    settled_at: float = 10.0


COMING, OPEN, USED, DARK = (
    Begun(opening=True),
    Begun(usable=True),
    Begun(usable=True, used=True),
    Begun(used=True),
)


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        (None, None, None),
        (COMING, None, None),
        (OPEN, None, "first"),
        (None, OPEN, "second"),
        (None, COMING, None),
        (OPEN, OPEN, "first"),
        (USED, USED, "first"),
        (OPEN, USED, "second"),
        (OPEN, COMING, "first"),
        (COMING, USED, "second"),
        (DARK, OPEN, "second"),
        (OPEN, DARK, "first"),
        (DARK, DARK, None),
    ],
)
def test_whoever_has_had_a_pipe_is_used_and_else_the_lower_id(
    first: Begun | None, second: Begun | None, chosen: str | None
) -> None:
    wanted = {"first": first, "second": second, None: None}[chosen]
    assert settle(first, second, now=0.0) == (wanted, None)


def test_the_first_is_waited_for_a_little() -> None:
    assert settle(COMING, OPEN, now=9.9) == (None, 10.0)
    assert settle(COMING, OPEN, now=10.0) == (OPEN, None)
