"""`warpgate completion`: what shells need to complete our command lines, made from the grammar.

The three scripts work alike: the words before the cursor lead to a command; behind an option that takes a value, that
is completed, else options or the names of commands. Files are left to the shell.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from warpgate.cli.grammar import Command, Option, all_commands
from warpgate.cli.shell import Shell

FISH_APOSTROPHE = "\\'"


def run(arguments: argparse.Namespace, _shell: Shell) -> int:
    print(SCRIPTS[arguments.shell](all_commands()), end="")
    return 0


def bash(commands: tuple[Command, ...]) -> str:
    steps = "\n".join(f"            {_step(each)}) at={_key(each)} ;;" for each in commands if each.words)
    values = "\n".join(_bash_values(commands))
    words = "\n".join(f"        {_key(each)}) words='{' '.join(_words(each))}' ;;" for each in commands)
    return f"""\
# Completion of warpgate for bash: source it, or put it into ~/.local/share/bash-completion/completions/warpgate
_warpgate() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at=- word words=
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$at $word" in
{steps}
        esac
    done
    case "$at $prev" in
{values}
    esac
    if [[ $cur == @* ]]; then  # where readline does not take the @ for a word of its own
        COMPREPLY=($(compgen -f -P @ -- "${{cur#@}}")); return
    elif [[ $prev == @ ]]; then
        COMPREPLY=($(compgen -f -- "$cur")); return
    fi
    case $at in
{words}
    esac
    # Nothing of ours: the shell completes files.
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o bashdefault -o default -F _warpgate warpgate
"""


def _bash_values(commands: tuple[Command, ...]) -> Iterator[str]:
    for command, flag, option in _with_values(commands):
        if option.choices:
            done = f"COMPREPLY=($(compgen -W '{' '.join(option.choices)}' -- \"$cur\")); return"
        else:
            done = "return" if option.files else "compopt +o bashdefault +o default; return"
        yield f"        '{_key(command)} {flag}') {done} ;;"


def zsh(commands: tuple[Command, ...]) -> str:
    steps = "\n".join(f"            {_step(each)}) at={_key(each)} ;;" for each in commands if each.words)
    values = "\n".join(_zsh_values(commands))
    words = "\n".join(_zsh_words(commands))
    return f"""\
#compdef warpgate
# Completion of warpgate for zsh: source it, or put it into a directory of $fpath as _warpgate
_warpgate() {{
    local at=- word
    local -a options names
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "$at $word" in
{steps}
        esac
    done
    case "$at ${{words[CURRENT-1]}}" in
{values}
    esac
    case $at in
{words}
    esac
    if [[ $PREFIX == -* ]]; then
        _describe -o option options
    elif (( $#names )); then
        _describe command names
    else
        compset -P @
        _files
    fi
}}
if [[ ${{funcstack[1]}} == _warpgate ]]; then _warpgate "$@"; else compdef _warpgate warpgate; fi
"""


def _zsh_values(commands: tuple[Command, ...]) -> Iterator[str]:
    for command, flag, option in _with_values(commands):
        if option.choices:
            done = f"compadd -- {' '.join(option.choices)}; return"
        else:
            done = "_files; return" if option.files else f"_message {_quoted(option.value)}; return"
        yield f"        '{_key(command)} {flag}') {done} ;;"


def _zsh_words(commands: tuple[Command, ...]) -> Iterator[str]:
    for command in commands:
        options = " ".join(
            _quoted(f"{flag}:{option.text}".rstrip(":")) for option in _options(command) for flag in option.flags
        )
        names = " ".join(_quoted(f"{name}:{text}") for name, text in command.commands)
        yield f"        {_key(command)}) options=({options}); names=({names}) ;;"


def fish(commands: tuple[Command, ...]) -> str:
    steps = "\n".join(
        f"            case {_step(each)}\n                set at {_key(each)}" for each in commands if each.words
    )
    lines = "\n".join(line for each in commands for line in _fish_lines(each))
    return f"""\
# Completion of warpgate for fish: source it, or put it into ~/.config/fish/completions/warpgate.fish
function __warpgate_at
    set -l at -
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
{steps}
        end
    end
    test $at = $argv[1]
end
function __warpgate_target_files
    set -l token (commandline -ct)
    if string match -q '@*' -- $token
        set -l begun (string sub -s 2 -- $token)
        for each in $begun*
            echo @$each
        end
    end
end
complete -c warpgate -f -n '__warpgate_at -'
complete -c warpgate -a '(__warpgate_target_files)'
{lines}
"""


def _fish_lines(command: Command) -> Iterator[str]:
    condition = f"complete -c warpgate -n '__warpgate_at {_key(command)}'"
    for name, text in command.commands:
        yield f"{condition} -f -a {name} -d {_quoted(text, FISH_APOSTROPHE)}"
    for option in _options(command):
        flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
        value = ""
        if option.choices:
            value = f" -x -a '{' '.join(option.choices)}'"
        elif option.value:
            value = " -r -F" if option.files else " -x"
        yield f"{condition} {flags}{value} -d {_quoted(option.text, FISH_APOSTROPHE)}"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}


def _key(command: Command) -> str:
    return "/".join(command.words) or "-"


def _step(command: Command) -> str:
    """The place before it, and the word that leads to it."""
    return f"'{'/'.join(command.words[:-1]) or '-'} {command.words[-1]}'"


def _options(command: Command) -> tuple[Option, ...]:
    return command.options + command.common


def _words(command: Command) -> list[str]:
    flags = [flag for option in _options(command) for flag in option.flags]
    return [name for name, _ in command.commands] + flags


def _with_values(commands: tuple[Command, ...]) -> Iterator[tuple[Command, str, Option]]:
    for command in commands:
        for option in _options(command):
            if option.value:
                for flag in option.flags:
                    yield command, flag, option


def _quoted(text: str, apostrophe: str = "'\\''") -> str:
    """In single quotes; fish has another escape in them than the others."""
    return "'" + text.replace("\\", "/").replace("'", apostrophe) + "'"
