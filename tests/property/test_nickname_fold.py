"""Folding of nicknames: any text gives a canonical name or the one error."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from strategies import fixed, only

from warpgate.errors import NicknameError
from warpgate.model.nickname import MAX_BYTES, MAX_LENGTH, MIN_LENGTH, SEPARATORS, fold

_letters = st.sampled_from("aZé0-_.ıßЖсοσ佐々あｱ한मि\u0301\u200d ﬁ")
texts = st.text(max_size=300) | st.text(_letters, max_size=12) | st.text(st.characters(), min_size=2, max_size=6)


@fixed
@given(texts)
def test_what_passes_is_canonical(text: str) -> None:
    name = only(fold, text, NicknameError)
    if name is None:
        return
    assert fold(name) == name
    assert name == unicodedata.normalize("NFKC", name) == name.casefold()
    assert MIN_LENGTH <= len(name) <= MAX_LENGTH
    assert len(name.encode()) <= MAX_BYTES
    kinds = {unicodedata.category(character) for character in name if character not in SEPARATORS}
    assert kinds <= {"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"}


@fixed
@given(texts)
def test_the_ways_of_typing_a_name_are_one(text: str) -> None:
    name = only(fold, text, NicknameError)
    if name is not None:
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert fold(unicodedata.normalize(form, name)) == name


def test_every_character_alone_is_judged() -> None:
    """No code point makes it raise anything else; those that pass after a letter are letters, marks or digits."""
    for code in (*range(0x3400), *range(0xA000, 0x11000), *range(0x1F000, 0x20000), 0xE0001, 0x10FFFF):
        name = only(fold, f"{chr(code)}{chr(code)}", NicknameError)
        assert name is None or fold(name) == name
