"""The command line as data, read off the argument parser: for completion scripts and the manual page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from warpgate.cli.parser import Parser, build_parser
from warpgate.lazy_dataclass import dataclass

# What is written for a value that names a file or directory.
_FILES = ("FILE", "DIR", "[CODE] [DIR]", "WHERE")


@dataclass(frozen=True, slots=True)
class Option:
    """`value`: what stands for its value, "" if it takes none. `files`: whether that is the name of one."""

    flags: tuple[str, ...]
    text: str
    value: str = ""
    choices: tuple[str, ...] = ()
    files: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """`words`: as typed behind `warpgate`, () for the program itself. `options`: its own, without the common ones."""

    words: tuple[str, ...]
    text: str
    description: str
    usage: str
    positionals: tuple[Option, ...]
    options: tuple[Option, ...]
    common: tuple[Option, ...]
    commands: tuple[tuple[str, str], ...]


def all_commands() -> tuple[Command, ...]:
    """Outer ones first."""
    return tuple(_walk(build_parser(), (), ""))


def _walk(parser: Parser, words: tuple[str, ...], text: str) -> Iterator[Command]:
    help_of = _help_of_commands(parser)
    parser.format_help()  # which completes the description
    actions = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    shared = _is_shared(words)
    yield Command(
        words,
        text,
        parser.description or "",
        parser.format_usage().removeprefix("usage: ").strip(),
        tuple(_option(action, parser) for action in actions if not action.option_strings),
        tuple(_option(action, parser) for action in actions if action.option_strings and not shared(action)),
        tuple(_option(action, parser) for action in actions if action.option_strings and shared(action)),
        tuple(help_of.items()),
    )
    for name, below in parser.commands.items():
        yield from _walk(below, (*words, name), help_of.get(name, ""))


def _is_shared(words: tuple[str, ...]) -> Callable[[argparse.Action], bool]:
    """Common options store by level (`cli/options.py`)."""
    suffix = f"_{len(words)}"
    return lambda action: action.dest.endswith(suffix)


def _help_of_commands(parser: Parser) -> dict[str, str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {each.dest: each.help or "" for each in action._choices_actions}
    return {}


def _option(action: argparse.Action, parser: Parser) -> Option:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    choices = tuple(map(str, action.choices or ()))
    text = "" if action.help in (None, argparse.SUPPRESS) else parser._get_formatter()._expand_help(action)
    value = "" if action.nargs == 0 else "|".join(choices) or metavar
    return Option(tuple(action.option_strings), text, value, choices, metavar in _FILES)
