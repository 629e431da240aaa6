"""Nicknames: what is one, how it is folded, and the reason when it is none."""

# ruff: noqa: RUF001 - likeness is the subject

from __future__ import annotations

import pytest

from warpgate.errors import AddressError, NicknameError
from warpgate.model.nickname import MAX_BYTES, MAX_LENGTH, RESERVED, fold


@pytest.mark.parametrize(
    ("typed", "folded"),
    [
        ("alice", "alice"),
        ("Alice", "alice"),
        ("\uff21\uff2c\uff29\uff23\uff25", "alice"),  # full-width
        ("stra\u00dfe", "strasse"),
        ("\ufb01nn", "finn"),  # a ligature
        ("a\u0301lex", "\u00e1lex"),  # composed
        ("bob-2.home_pc", "bob-2.home_pc"),
        ("7of9", "7of9"),
        ("Yıldız", "yıldız"),
        ("Zażółć", "zażółć"),
        ("Nguyễn", "nguyễn"),
        ("Алёна-7", "алёна-7"),
        ("ΑΛΈΞΑΝΔΡΟΣ", "αλέξανδροσ"),
        ("佐々木さん", "佐々木さん"),
        ("ｻｰﾊﾞｰ", "サーバー"),
        ("한글", "한글"),
        ("नमस्ते", "नमस्ते"),
        ("Işık", "işık"),
        ("夕ぐれ", "夕ぐれ"),
        ("ışık", "ışık"),
        ("Fırat-Emre", "fırat-emre"),
        ("xanım", "xanım"),
        ("Макс", "макс"),
        ("Виктор", "виктор"),
        ("Κώστας", "κώστασ"),
        ("Ελένη", "ελένη"),
        ("カタカナ", "カタカナ"),
        ("ヘルプ", "ヘルプ"),
        ("一ノ瀬", "一ノ瀬"),
        ("八ヶ岳", "八ヶ岳"),
        ("田中八郎", "田中八郎"),
        ("千葉カオリ", "千葉カオリ"),
        ("שלום", "שלום"),
        ("אבא", "אבא"),
        ("محمد", "محمد"),
        ("x" * MAX_LENGTH, "x" * MAX_LENGTH),
        ("я" * MAX_LENGTH, "я" * MAX_LENGTH),
    ],
)
def test_folding(typed: str, folded: str) -> None:
    assert fold(typed) == folded


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("", "2 to 64 characters, not 0"),
        ("a", "2 to 64 characters, not 1"),
        ("x" * 65, "2 to 64 characters, not 65"),
        ("x" * 10_000, "at most 64 characters"),
        ("語" * 43, f"at most {MAX_BYTES} bytes"),
        (" alice", "U+0020 (SPACE)"),
        ("al\u200dice", "ZERO WIDTH JOINER"),
        ("al\u202eice", "RIGHT-TO-LEFT OVERRIDE"),
        ("al\x00ice", "U+0000"),
        ("al/ice", "U+002F (SOLIDUS)"),
        ("@alice", "U+0040 (COMMERCIAL AT)"),
        ("al%2Fice", "U+0025"),
        ("alice\ud800", "U+D800"),
        ("alice\U0010ffff", "U+10FFFF"),
        ("😀face", "U+1F600 (GRINNING FACE)"),
        ("\u01c3alice", "LATIN LETTER RETROFLEX CLICK"),
        ("\u3164x", "HANGUL JUNGSEONG FILLER"),
        ("x\u0323\u0301y", "COMBINING DOT BELOW"),
        ("ᚠᚢᚦ", "RUNIC LETTER FEHU"),
        ("room٣", "digits in a nickname are 0 to 9, not U+0663 (ARABIC-INDIC DIGIT THREE)"),
        ("क" + "\u093c" * 5, "more than 4 marks"),
        ("\u093fक", "not with a mark"),
        ("-alice", "begins and ends with"),
        ("alice.", "begins and ends with"),
        ("al--ice", "'-' in a nickname stands alone"),
        ("al-.ice", "'-' in a nickname stands alone"),
        ("pаypal", "mixes Cyrillic and Latin"),
        ("αlice", "mixes Greek and Latin"),
        ("alice佐", "mixes Cjk and Latin"),
        ("сосо", "every letter of this nickname is Cyrillic and looks like a Latin one"),
        ("lıke", "a dotless i (U+0131) where it would be read as an i"),
        ("the-wınd", "a dotless i"),
        ("admın", "'admın' is reserved"),
        ("ad-mın", "reserved"),
        ("maıl", "reserved"),
        ("oĸta", "LATIN SMALL LETTER KRA"),
        ("окта", "every letter of this nickname is Cyrillic"),
        ("тест", "every letter of this nickname is Cyrillic"),
        ("ёх", "every letter of this nickname is Cyrillic"),
        ("ї-ё", "every letter of this nickname is Cyrillic"),
        ("νίκο", "every letter of this nickname is Greek"),
        ("νικότ", "every letter of this nickname is Greek"),
        ("סוס", "every letter of this nickname is Hebrew"),
        ("力夕力ナ", "Han letters of this nickname look like Katakana"),
        ("力ナダ大使館", "look like Katakana"),
        ("工口", "look like Katakana"),
        ("サーバ一", "look like Katakana"),
        ("二ノ", "look like Katakana"),
        ("へルプ", "the Hiragana of this nickname looks like Katakana"),
        ("ㄚ文", "mixes Bopomofo and Cjk"),
        ("сосо-2", "looks like a Latin one"),
        ("νικο", "every letter of this nickname is Greek"),
        ("12345", "at least one letter"),
        ("127.0.0.1", "at least one letter"),
        ("1-2_3", "at least one letter"),
        ("wg1alice", "address text"),
        ("WG2", "address text"),
        ("gq3dknzvgeydambqgezdcnrxg4", "node id"),
        ("Admin", "reserved"),
        ("ad-min", "reserved"),
        ("no-reply", "reserved"),
    ],
)
def test_refusals_tell_the_reason(typed: str, reason: str) -> None:
    with pytest.raises(NicknameError) as caught:
        fold(typed)
    assert reason in str(caught.value)
    assert isinstance(caught.value, AddressError)


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_every_reserved_word_is_refused(word: str) -> None:
    with pytest.raises(NicknameError, match="reserved"):
        fold(word.upper())
