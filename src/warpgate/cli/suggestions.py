"""What somebody probably meant by a word that is none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean X?)", or "" when nothing is like it."""
    found = _nearest(word, sorted(known))
    return f" (did you mean {found[0]}?)" if found else ""


def file_like(path: Path) -> str:
    """The same for the name of a file in its directory."""
    try:
        names = [each.name for each in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    found = _nearest(path.name, names)
    return f" (did you mean @{path.with_name(found[0])}?)" if found else ""


def as_a_file(text: str) -> str:
    """For a TARGET that is none, and the name of a file."""
    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):
        is_file = False
    return f" (there is a file of that name: @{text} takes the address in it)" if is_file else ""


def _nearest(word: str, known: list[str]) -> list[str]:
    import difflib  # noqa: PLC0415 - 0.15 MB, and only who has made a mistake needs it

    return difflib.get_close_matches(word, known, n=1)
