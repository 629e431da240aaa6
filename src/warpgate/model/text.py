"""Text that somebody else chose: what of it may be shown, and what may be a name.

A terminal obeys control characters, and a line that holds one of the bidirectional controls (Unicode UAX #9) or
something invisible reads as another than it is. `printable` writes all of those as escapes. It stands at two doors:
where messages of others are decoded, and where the command line writes to a terminal (`cli/terminal.py`).
"""

from __future__ import annotations

import unicodedata

MAX_PLUGIN_NAME = 32  # bytes of UTF-8; the name travels in HELLO, in checks and in signals

# Default_Ignorable_Code_Point (Unicode DerivedCoreProperties) outside of the category Cf: letters and marks that
# nothing shows. Variation selectors 1 to 16 are not among them here: emoji in names are full of them.
_INVISIBLE = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2800, 0x3164, 0xFFA0))
) | frozenset(map(chr, range(0xE0100, 0xE01F0)))
# ZERO WIDTH NON-JOINER and JOINER: invisible, and needed to write Persian, Indic scripts and some emoji.
JOINERS = frozenset("\u200c\u200d")
# Controls, formats (the bidirectional ones are among them), halves of surrogate pairs, line and paragraph separators.
_DECEIVING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def printable(text: str, limit: int | None = 200) -> str:
    """One line for messages and screens: all that is not plainly visible is an escape; cut after `limit` characters."""
    if limit is not None and len(text) > limit:
        return printable(text[:limit], None) + "..."
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_lines(text: str) -> str:
    """The same for text whose line feeds are ours."""
    return text if text.isprintable() else "\n".join(printable(line, None) for line in text.split("\n"))


def is_deceiving(character: str) -> bool:
    """Whether it steers a terminal, turns the text around it, ends a line, or cannot be seen."""
    return unicodedata.category(character) in _DECEIVING or character in _INVISIBLE


def is_plugin_name(name: str) -> bool:
    """1 to 32 bytes without blanks, commas, and what cannot be printed."""
    return name.isprintable() and not any(mark in name for mark in " ,") and 1 <= len(name.encode()) <= MAX_PLUGIN_NAME
