"""What may be shown, and what may be a name."""

from __future__ import annotations

import unicodedata

import pytest

from warpgate.model.text import is_deceiving, is_plugin_name, printable, printable_lines

TITLE = "\x1b]0;owned\x07\x1b[2J"
HOSTILE = [
    TITLE,
    "direct\nwarpgate: all is well",
    "a\rb",
    "\x9b31m",  # CSI in one character (ISO 6429, C1)
    "\x7f",
    "a\u202egpj.exe",
    "\u2066left\u2069",
    "\u200e\u200f\u061c",
    "soft\u00adhyphen\ufeff",
    "line\u2028paragraph\u2029",
    "\udc80",
    "tag\U000e0041",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown != text
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)


def test_what_people_write_stays() -> None:
    for text in ("naïve ☃ name.txt", "文件.pdf", "☺️.png", "'quoted' \\x1b"):
        assert printable(text) == text


def test_long_text_is_cut_before_it_is_escaped() -> None:
    assert printable("\x1b" * 10, 3) == "\\x1b\\x1b\\x1b..."
    assert printable("abc", 3) == "abc"
    assert printable("x" * 1000, None) == "x" * 1000


def test_line_feeds_that_are_ours() -> None:
    assert printable_lines("one\ntwo\x1b[m\r\n\n") == "one\ntwo\\x1b[m\\r\n\n"


@pytest.mark.parametrize(
    "name", ["", "x" * 33, "ü" * 17, "a b", "a,b", "direct\n", TITLE, "a\u200db", "\u202e", "\xa0"]
)
def test_what_is_no_name_of_a_plugin(name: str) -> None:
    assert not is_plugin_name(name)


@pytest.mark.parametrize("name", ["udp_punch", "x" * 32, "ü" * 16, "Δ-quic.2"])
def test_what_may_be_one(name: str) -> None:
    assert is_plugin_name(name)


def test_deceiving_characters() -> None:
    assert all(map(is_deceiving, "\x00\x1b\x7f\x9b\xad\u200b\u200d\u202e\u2028\u2060\ufeff\u3164\u115f\u034f"))
    assert not any(map(is_deceiving, "a -.é☃文️"))
