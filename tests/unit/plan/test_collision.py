"""Which of two connections that two nodes have begun at once is used."""

from __future__ import annotations

import pytest

from warpgate.lazy_dataclass import dataclass
from warpgate.plan.collision import HEAD_START, settle


@dataclass(frozen=True, slots=True)
class Begun:
    by_peer: bool = False
    opening: bool = False
    usable: bool = False
    silent: bool = False
    used: bool = False
    settled_at: float = 10.0


COMING, OPEN, USED, DARK = (
    Begun(opening=True),
    Begun(usable=True),
    Begun(usable=True, used=True),
    Begun(silent=True, used=True),
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
    assert settle(Begun(silent=True), OPEN, now=9.9) == (None, 10.0)
    assert settle(Begun(), OPEN, now=0.0) == (OPEN, None)


THEIR_COMING, THEIRS, THEIRS_USED = (
    Begun(by_peer=True, opening=True),
    Begun(by_peer=True, usable=True, settled_at=9.0),
    Begun(by_peer=True, usable=True, used=True),
)


def test_at_the_lower_id_it_is_seen_first_where_the_peer_has_opened_its_pipe() -> None:
    assert settle(OPEN, THEIR_COMING, now=9.9) == (None, 10.0 + HEAD_START)
    assert settle(OPEN, THEIR_COMING, now=10.0 + HEAD_START) == (OPEN, None)
    assert settle(OPEN, THEIRS, now=8.9) == (None, 9.0 + HEAD_START)
    assert settle(OPEN, THEIRS, now=9.0 + HEAD_START) == (OPEN, None)
    assert settle(OPEN, THEIRS_USED, now=0.0) == (THEIRS_USED, None)
    assert settle(USED, THEIR_COMING, now=0.0) == (USED, None)


def test_at_the_higher_id_the_peers_is_taken_at_once() -> None:
    assert settle(THEIRS, COMING, now=0.0) == (THEIRS, None)
    assert settle(THEIRS, OPEN, now=0.0) == (THEIRS, None)
