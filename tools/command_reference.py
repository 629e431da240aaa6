"""Write the tables of commands and of the library's settings into docs/configuration.md.

They are made from the grammar of the command line and from `config.py`; `make docs` runs this, and
tests/test_architecture.py tells when the page has others.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from warpgate import config
from warpgate.cli.grammar import Command, Option, all_commands
from warpgate.user_settings import KEYS

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
# Keys of the command and the fields of `Config` that they become.
FIELDS = {"broker": "brokers", "interface": "interfaces"}


def blocks() -> dict[str, str]:
    """By their names in the page."""
    keyed = {FIELDS.get(key, key) for key in KEYS}
    return {
        "commands": "\n".join(line for command in all_commands() for line in _command(command)).strip(),
        "library": _settings(config.Config, without=keyed | {"timing", "budgets"}),
        "timing": _settings(config.Timing),
        "budgets": _settings(config.Budgets),
    }


def filled(page: str) -> str:
    """The page with its tables as they should be."""
    for name, text in blocks().items():
        marked = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
        page, found = marked.subn(lambda mark, text=text: f"{mark[1]}\n{text}\n\n{mark[2]}", page)
        if not found:
            raise ValueError(f"the page has no place for {name}")
    return page


def _command(command: Command) -> Iterator[str]:
    if not command.words:
        return
    yield f"\n### {' '.join(command.words)}\n"
    yield f"`{' '.join(command.usage.split())}`: {command.text}\n"
    rows = [option for option in command.positionals + command.options if "--help" not in option.flags]
    if rows:
        yield "| | |\n|---|---|"
        yield from (f"| {_named(option)} | {_cell(option.text)} |" for option in rows)


def _named(option: Option) -> str:
    value = f" {option.value}" if option.value and option.flags else ""
    return ", ".join(f"`{_cell(flag + value)}`" for flag in option.flags) or f"`{_cell(option.value)}`"


def _settings(of: type, without: frozenset[str] | set[str] = frozenset()) -> str:
    values = of()
    reasons = _reasons(of.__name__)
    lines = ["| field | default | |", "|---|---|---|"]
    for each in fields(of):
        if each.name not in without:
            default = getattr(values, each.name)
            lines.append(f"| `{each.name}` | `{_cell(repr(default))}` | {_cell(reasons[each.name])} |")
    return "\n".join(lines)


def _reasons(name: str) -> dict[str, str]:
    """The comment before each field of the class, or behind it."""
    text = Path(config.__file__).read_text()
    lines = text.splitlines()
    tree = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above = node.lineno - 1
            while lines[above - 1].strip().startswith("#"):
                above -= 1
            own = [*lines[above : node.lineno - 1], *lines[node.lineno - 1 : node.end_lineno]]
            found[node.target.id] = " ".join(part for line in own for part in re.findall(r"#\s*(.*)", line))
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
