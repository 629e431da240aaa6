"""Nicknames: which texts can be one, and the one form in which each is stored, signed and compared.

A nickname is what a person would type: letters of one writing system, the digits 0 to 9, and single `-`, `_`, `.`
between them. Folding is NFKC (UAX #15) and full case folding (Unicode section 3.13), so that `Alice`, `ALICE` and
full-width letters are one name.

What the rules stop is a name that mixes alphabets to look like another (a Cyrillic `a` in `paypal`; UTS #39 section
5.1), one all of whose letters look like another alphabet's (section 4.1, whole-script confusables: Cyrillic as Latin,
Han as Katakana), with accents or without, a dotless i where no Turkic word has one, and characters that cannot be seen.
What they do not stop is a likeness within one alphabet: `l` and `1`, `rn` and `m`, `e` and an e with an accent. Who is
behind a name is told by its key, never by its looks.

The tables of look-alikes are those pairs of Unicode's confusables.txt (UTS #39, version 15) whose one side is a small
letter that `fold` lets through and whose other side is a Latin one, with small capitals counted where they are read as
the small letter in running text; for Japanese, the pairs of Han and Katakana.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from warpgate.errors import NicknameError

MIN_LENGTH = 2
MAX_LENGTH = 64
MAX_BYTES = 128
# NFKC makes up to 18 characters of one: what is far too long is not worth folding.
_MAX_RAW = 256

SEPARATORS = "-_."

# UAX #31 table 5, by the word with which the Unicode names of a script's characters begin ("CJK" is Han).
_SCRIPT_WORDS = """
LATIN GREEK CYRILLIC ARMENIAN HEBREW ARABIC THAANA DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA
MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR GEORGIAN HANGUL ETHIOPIC KHMER HIRAGANA KATAKANA BOPOMOFO CJK
"""
_SCRIPTS = frozenset(_SCRIPT_WORDS.split())
# People mix these when they write one language (UTS #39 section 5.1, Jpan, Kore; Bopomofo stands beside Han to explain
# it, not in names).
_WRITING_SYSTEMS = (
    frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    frozenset({"CJK", "HANGUL"}),
)
_HAN_REPETITION = "\u3005"  # 々: of no script by its name, and in every third Japanese family name
# Latin has hundreds of phonetic letters that look like punctuation or like other letters. Those of living
# alphabets are a to z, with an accent or without, and these.
_LATIN_EXTRAS = frozenset("æðøþđħıłŋœŧəɓɗɖɛɔƒƙƴʋ")
# Letters by their category that are invisible, or only stretch the line.
_BLANKS = frozenset("\u115f\u1160\u17b4\u17b5\u0640")
# Small letters that are drawn like Latin ones; a name made of these alone, with accents or without, is a disguise.
_LOOKS_LATIN = {
    "CYRILLIC": frozenset("асеһіјӏорѕхуԁԛԝѵкт"),
    "GREEK": frozenset("αικνορυτ"),
    "ARMENIAN": frozenset("օոսհցյզ"),
    "HEBREW": frozenset("\u05d5\u05df\u05e1\u05d8"),  # vav, final nun, samekh, tet
    "ARABIC": frozenset("\u0627\u0647"),  # alef, heh
}
# A dotless i is an i to whoever does not read Turkish, Azeri or Kazakh. There it does not stand in one word with front
# vowels (vowel harmony), nor with w, which these alphabets lack; what else it disguises is only what is reserved.
_DOTLESS = "\u0131"
_NEVER_WITH_DOTLESS = frozenset("eiöüəäw")
# Han that are drawn like Katakana, and small words that Japanese places and families have between Han.
_LOOKS_KATAKANA = frozenset("力夕口二八工卜千匕一丿乂才七又厶彐")
_BETWEEN_HAN = frozenset("ノツヶケ")
_HIRAGANA_AS_KATAKANA = frozenset("へべぺ")
# Devanagari puts three on a consonant, Tibetan sometimes four; more are a smear over the neighbouring lines.
_MAX_MARKS = 4

_RESERVED_WORDS = """
abuse admin administrator all anonymous anybody anyone api broadcast broker everybody everyone example guest help host
hostmaster info invalid local localhost mail me metrics moderator myself name names nickname nobody none noreply null
official operator peer postmaster relay root security self server service staff stun support sysadmin system test turn
undefined unknown user warpgate webmaster wpad www you
"""
RESERVED = frozenset(_RESERVED_WORDS.split())

_ADDRESS_TEXT = re.compile(r"wg[0-9]")
_NODE_ID = re.compile(r"[a-z2-7]{26}")


def fold(text: str) -> str:
    """The canonical form of a nickname: folding it again changes nothing.

    NicknameError says why when the text cannot be a nickname.
    """
    if len(text) > _MAX_RAW:
        raise NicknameError(f"a nickname has at most {MAX_LENGTH} characters, not {len(text)}")
    name = _folded(text)
    _check_characters(name)
    _check_length(name)
    _check_separators(name)
    _check_script(name)
    _check_meaning(name)
    return name


def _folded(text: str) -> str:
    """NFKC and case folding can each undo the other's work: repeated until nothing changes (Unicode D146)."""
    while (folded := unicodedata.normalize("NFKC", text.casefold())) != text:
        text = folded
    return text


def _check_characters(name: str) -> None:
    marks = 0
    for character in name:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Mc") else 0
        if character.isascii() and (character.isalnum() or character in SEPARATORS):
            continue
        if marks > _MAX_MARKS:
            raise NicknameError(f"more than {_MAX_MARKS} marks on one letter cannot be read")
        if category == "Nd":
            raise NicknameError(f"digits in a nickname are 0 to 9, not {_shown(character)}")
        if category[0] not in "LM" or character in _BLANKS or not _is_of_living_alphabet(character):
            raise NicknameError(
                f"a nickname is made of letters, digits and single '-', '_', '.', not of {_shown(character)}"
            )


def _is_of_living_alphabet(character: str) -> bool:
    script = _script_of(character)
    if script == "LATIN":
        return character in _LATIN_EXTRAS or unicodedata.normalize("NFD", character)[0].isascii()
    if script == "HANGUL":
        return "\uac00" <= character <= "\ud7a3"  # whole syllables: loose jamo can be drawn in several ways
    return script in _SCRIPTS


def _script_of(character: str) -> str:
    if character == _HAN_REPETITION:
        return "CJK"
    return re.split("[ -]", unicodedata.name(character, ""), maxsplit=1)[0]


def _check_length(name: str) -> None:
    size = len(name.encode())
    if not MIN_LENGTH <= len(name) <= MAX_LENGTH:
        raise NicknameError(f"a nickname has {MIN_LENGTH} to {MAX_LENGTH} characters, not {len(name)}")
    if size > MAX_BYTES:
        raise NicknameError(f"a nickname has at most {MAX_BYTES} bytes in UTF-8, not {size}")


def _check_separators(name: str) -> None:
    if unicodedata.category(name[0])[0] == "M":
        raise NicknameError("a nickname begins with a letter or a digit, not with a mark")
    if name[0] in SEPARATORS or name[-1] in SEPARATORS:
        raise NicknameError("a nickname begins and ends with a letter or a digit")
    for first, second in pairwise(name):
        if first in SEPARATORS and (second in SEPARATORS or unicodedata.category(second)[0] == "M"):
            raise NicknameError(f"{first!r} in a nickname stands alone, between letters or digits")


def _check_script(name: str) -> None:
    letters = [character for character in name if unicodedata.category(character)[0] in "LM"]
    scripts = {_script_of(character) for character in letters}
    if len(scripts) > 1 and not any(scripts <= system for system in _WRITING_SYSTEMS):
        listed = " and ".join(sorted(script.capitalize() for script in scripts))
        raise NicknameError(f"a nickname keeps to one alphabet; this one mixes {listed}")
    bare = {unicodedata.normalize("NFD", each)[0] for each in letters if unicodedata.category(each)[0] == "L"}
    for script in scripts:
        if bare <= _LOOKS_LATIN.get(script, frozenset()):
            raise NicknameError(f"every letter of this nickname is {script.capitalize()} and looks like a Latin one")
    _check_dotless(name)
    if "CJK" in scripts or "HIRAGANA" in scripts:
        _check_japanese(letters)


def _check_dotless(name: str) -> None:
    for word in re.split("[-_.]", name):
        # Folded without a language, the capital of the dotless i is a dotted one: it may begin a Turkish name.
        letters = set(word.removeprefix("i"))
        if _DOTLESS in letters and letters & _NEVER_WITH_DOTLESS:
            raise NicknameError(f"{word!r} has a dotless i (U+0131) where it would be read as an i")


def _check_japanese(letters: list[str]) -> None:
    scripts = [_script_of(letter) for letter in letters]
    han = {letter for letter, script in zip(letters, scripts, strict=True) if script == "CJK"}
    hiragana = {letter for letter, script in zip(letters, scripts, strict=True) if script == "HIRAGANA"}
    disguised = bool(han) and han <= _LOOKS_KATAKANA and hiragana <= _HIRAGANA_AS_KATAKANA
    # In a longer name as well: a Han letter that stands among Katakana is read as one.
    pairs = [pair for one in pairwise(letters) for pair in (one, one[::-1])]
    disguised |= any(
        letter in _LOOKS_KATAKANA and _script_of(neighbour) == "KATAKANA" and neighbour not in _BETWEEN_HAN
        for letter, neighbour in pairs
    )
    if disguised:
        raise NicknameError("Han letters of this nickname look like Katakana")
    if "KATAKANA" in scripts and hiragana and hiragana <= _HIRAGANA_AS_KATAKANA:
        raise NicknameError("the Hiragana of this nickname looks like Katakana")


def _check_meaning(name: str) -> None:
    if not any(unicodedata.category(character)[0] == "L" for character in name):
        raise NicknameError("a nickname has at least one letter: this looks like a number or an IP address")
    if _ADDRESS_TEXT.match(name):
        raise NicknameError("a nickname does not begin like an address text ('wg' and a digit)")
    if _NODE_ID.fullmatch(name):
        raise NicknameError("26 letters and digits look like a node id: a nickname must not")
    plain = name.translate({ord(separator): None for separator in SEPARATORS})
    if plain.replace(_DOTLESS, "i") in RESERVED:
        raise NicknameError(f"{name!r} is reserved")


def _shown(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X}" + (f" ({name})" if name else "")
