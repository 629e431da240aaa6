"""One-time codes as people write them."""

from __future__ import annotations

import math
import secrets

import pytest

from warpgate.errors import AddressError
from warpgate.model.code import CHANNELS, ENTROPY_BITS, WORDS_IN_A_CODE, OneTimeCode, looks_like_code
from warpgate.model.code_words import WORDS


def test_the_entropy_is_what_is_said() -> None:
    assert len(set(WORDS)) == 1024
    assert math.log2(len(WORDS)) * WORDS_IN_A_CODE == ENTROPY_BITS
    assert len({word[:4] for word in WORDS}) == len(WORDS)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


def test_they_come_back() -> None:
    for _ in range(200):
        code = OneTimeCode.generate(secrets.randbelow)
        assert 1 <= code.channel <= CHANNELS
        assert OneTimeCode.parse(str(code)) == code
        assert OneTimeCode.parse(" " + str(code).upper().replace("-", " ")) == code


def test_the_topics_tell_the_number_and_nothing_of_the_words() -> None:
    one, other = OneTimeCode.parse("7-piano-zebra"), OneTimeCode.parse("7-robot-robot")
    assert one.topic("offer") == other.topic("offer")
    assert len({one.topic("offer"), one.topic("take"), OneTimeCode.parse("8-piano-zebra").topic("offer")}) == 3


@pytest.mark.parametrize("text", ["7-piano-zebra", "12 robot piano", "7-Piano-Zebra ", "10000-piano-zebra"])
def test_what_looks_like_one(text: str) -> None:
    assert looks_like_code(text)


@pytest.mark.parametrize(
    "text",
    ["incoming", ".", "7", "7-piano", "2024-01-photos", "7-piano-zebra-more", "wg1abc", "\u0667-piano-zebra"],
)
def test_what_does_not(text: str) -> None:
    assert not looks_like_code(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7-pianno-zebra", "is it 'piano'?"),
        ("0-piano-zebra", "1 to 9999"),
        ("10000-piano-zebra", "1 to 9999"),
        ("7-qqqq-zebra", "no one-time code has 'qqqq' in it"),
        ("piano", "a number and two words"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(AddressError, match=message.replace("?", r"\?")):
        OneTimeCode.parse(text)
