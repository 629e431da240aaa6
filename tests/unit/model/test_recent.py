"""What is remembered of many: anybody may claim to be many, and does not push aside who is heard again and again."""

from __future__ import annotations

from warpgate.model.recent import Recent


def test_who_was_set_longest_ago_is_forgotten() -> None:
    recent: Recent[str, int] = Recent(3)
    for number in range(100):
        recent[str(number)] = number
        recent["friend"] = -number
    assert dict(recent) == {"98": 98, "99": 99, "friend": -99}


def test_looking_is_no_setting() -> None:
    recent: Recent[str, int] = Recent(2)
    recent["one"], recent["two"] = 1, 2
    assert recent.get("one") == 1
    recent["three"] = 3
    assert list(recent) == ["two", "three"]
