"""`warpgate manual`: the manual page, made from the grammar, as troff with the man macros (groff_man(7))."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from warpgate import __version__
from warpgate.cli.grammar import Command, Option, all_commands
from warpgate.cli.shell import Shell

HEAD = """\
.TH WARPGATE 1 "" "warpgate {version}" "User Commands"
.SH NAME
warpgate \\- a socket between two machines, wherever they are
.SH SYNOPSIS
.B warpgate
.RI [ OPTION ]...\\& " COMMAND" ...
"""
TAIL = """\
.SH EXIT STATUS
0 done, 1 failed, 2 asked in a way that makes no sense, 130 interrupted.
.SH ENVIRONMENT
Each common option has a variable:
.BR WARPGATE_BROKER ", " WARPGATE_STUN
and so on; lists are separated by commas or blanks.
.B WARPGATE_CONFIG
names the file,
.B WARPGATE_DATA
the directory of the keys.
.SH FILES
.TP
.I ~/.config/warpgate/config.toml
Settings, with the same keys as the common options.
.TP
.I ~/.local/share/warpgate
Keys, and the book of known peers.
"""


def run(_arguments: argparse.Namespace, _shell: Shell) -> int:
    print(page(all_commands()), end="")
    return 0


def page(commands: tuple[Command, ...]) -> str:
    program, *others = commands
    lines = [HEAD.format(version=_text(__version__)), ".SH DESCRIPTION", *_paragraphs(program.description)]
    lines += [".SH COMMON OPTIONS", *_options(program.options + program.common), ".SH COMMANDS"]
    for command in others:
        lines += [f".SS {_text(' '.join(command.words))}", f".B {_text(_one_line(command.usage))}"]
        lines += [".PP", *_paragraphs(command.description), *_options(command.positionals + command.options)]
    return "\n".join(lines) + f"\n{TAIL}"


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        value = f" \\fI{_text(option.value)}\\fR" if option.value and option.flags else ""
        named = ", ".join(f"\\fB{_text(flag)}\\fR{value}" for flag in option.flags)
        yield ".TP"
        yield named or f"\\fI{_text(option.value)}\\fR"
        yield _text(option.text)


def _paragraphs(text: str) -> Iterator[str]:
    """What begins with blanks is an example, and stays as it is."""
    for paragraph in re.split(r"\n\n+", text):
        if paragraph.startswith(" "):
            yield from (".PP", ".nf", ".RS")
            yield from (_text(line[4:]) for line in paragraph.splitlines())
            yield from (".RE", ".fi")
        else:
            yield from (".PP", _text(_one_line(paragraph)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text(text: str) -> str:
    """For troff: nothing in it is a request or an escape, and hyphens can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped
