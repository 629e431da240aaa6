"""What --help looks like, for every command; and what is said to words that are none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from warpgate import __version__
from warpgate.cli.main import main
from warpgate.cli.parser import Parser, build_parser

SCREEN = 60  # lines, of 100 columns


def all_commands(parser: Parser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, below in parser.commands.items():
        yield from all_commands(below, (*words, name))


@pytest.mark.parametrize("words", list(all_commands(build_parser())), ids=" ".join)
def test_every_help_fits_a_screen_and_has_an_example(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {' '.join(('warpgate', *words))} ")
    assert shown.count("\n") <= SCREEN
    assert f"\n    {' '.join(('warpgate', *words))}" in shown
    assert ("--no-port-map" in shown) == (words == ())  # what all commands take is told once


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lisen"], "there is no command 'lisen' (did you mean listen?) (see warpgate --help)"),
        (["lab", "matrx"], "there is no command 'matrx' (did you mean matrix?) (see warpgate lab --help)"),
        (["listen", "--foward", "80"], "(did you mean --forward?) (see warpgate listen --help)"),
        (["fly"], "invalid choice: 'fly'"),
        (["connect", "home.adr"], "home.adr' is a nickname, and no name server is configured"),
        (["connect", "home.addr"], "(there is a file of that name: @home.addr takes the address in it)"),
        (["connect", "@home.adr"], "No such file or directory (did you mean @home.addr?)"),
        (["connect", "my address!"], "(there is a file of that name: @my address! takes the address in it)"),
    ],
)
def test_words_that_are_none(words, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("home.addr", "my address!"):
        (tmp_path / name).touch()
    assert main(words) in (1, 2)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_the_version(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == f"warpgate {__version__}\n"
