"""HTML and SVG as values: whatever is not `Markup` is text, and becomes markup in one place, where it is escaped.

Texts come from peers, servers and routers. Beside what HTML would obey, control characters, bidirectional controls and
what else cannot be seen are written as escapes (`model.text.printable`), as they are on a terminal. Should markup get
through nevertheless, the page's policy lets nothing run and nothing load.
"""

from __future__ import annotations

from html import escape

from warpgate import __version__
from warpgate.cli.pages.style import STYLE
from warpgate.model.text import printable

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_EMPTY = frozenset(("meta", "br"))  # HTML: elements that have no end tag


class Markup(str):
    """HTML of ours. Only this module makes it of other things."""

    __slots__ = ()


def tag(name: str, /, *content: str | Markup, **attributes: str | float | None) -> Markup:
    """An element. Names of attributes may end in `_` (class_) and have `_` for `-`; None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in _EMPTY else f"</{name}>"
    return Markup(f"<{name}{given}>{joined(*content)}{end}")


def joined(*content: str | Markup) -> Markup:
    """One after the other."""
    return Markup("".join(part if isinstance(part, Markup) else escape(_plain(part)) for part in content))


def document(title: str, *body: Markup, told: str) -> str:
    """The whole page. `told`: what stands at its end, beside the version."""
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    foot = tag("footer", f"warpgate {__version__}. {told}")
    page = tag("html", tag("head", *head), tag("body", tag("main", *body, foot)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _plain(value: str | float) -> str:
    return printable(value, None) if isinstance(value, str) else f"{value:g}"
