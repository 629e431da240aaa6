"""`warpgate install-service`: a systemd user unit that runs one of the commands that wait (systemd.service(5))."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from warpgate.cli.options import UsageError
from warpgate.cli.parser import build_parser
from warpgate.cli.records import UnitInstalled
from warpgate.cli.shell import Shell
from warpgate.core.disk.whole_file import replace_file
from warpgate.platform import PROCESSES

WAITING = ("listen", "receive", "serve")
# RestartSec: a broker that is away is not called more often by us than by others. No ProtectHome: keys and received
# files are there. After=network-online.target does not exist for users; a node waits for networks itself.
UNIT = """\
[Unit]
Description=warpgate {words}
Documentation=man:warpgate(1)

[Service]
ExecStart={command}
{environment}Restart=on-failure
RestartSec=10
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
LockPersonality=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=default.target
"""


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    words: list[str] = arguments.words
    _check(words)
    unit = unit_text(words, dict(os.environ))
    if arguments.show:
        print(unit, end="")
        return 0
    if not PROCESSES.may_have_systemd:
        raise UsageError(
            "this system has no systemd: have what starts programs here run the command (--show prints the unit)"
        )
    place = unit_folder(os.environ.get("XDG_CONFIG_HOME", "")) / f"{arguments.unit}.service"
    if place.exists() and not arguments.replace:
        raise UsageError(f"{place} is there already: --replace, or another --unit NAME")
    replace_file(place, unit.encode())
    shell.output.show(UnitInstalled(str(place), place.name))
    return 0


def unit_folder(config_home: str) -> Path:
    """Where systemd looks for the user's units."""
    own = Path(config_home)
    return (own if own.is_absolute() else Path.home() / ".config") / "systemd" / "user"


def unit_text(words: list[str], environ: dict[str, str]) -> str:
    """This program, as it runs now, with the variables of ours that are set."""
    command = [sys.executable, *_program(), *words]
    kept = sorted(name for name in environ if name.startswith("WARPGATE_"))
    return UNIT.format(
        words=_plain(" ".join(words)),
        command=" ".join(map(quoted, command)),
        environment="".join(f"Environment={quoted(f'{name}={environ[name]}')}\n" for name in kept),
    )


def _program() -> tuple[str, ...]:
    """What the interpreter has to run: a zipapp, if that is what we are in, which has our modules to itself."""
    place = getattr(sys.modules["__main__"], "__file__", None)
    archive = None if place is None else Path(place).resolve().parent
    return ("-m", "warpgate") if archive is None or not archive.is_file() else (str(archive),)


def quoted(word: str) -> str:
    """One word of a unit file. UsageError for what cannot be in one."""
    if not word.isprintable():
        raise UsageError(f"{word!r} cannot stand in a unit file")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _plain(text: str) -> str:
    return "".join(letter for letter in text.replace("%", "%%") if letter.isprintable())


def _check(words: list[str]) -> None:
    """Now, not when nobody looks: the command must be one, and one that waits."""
    command = build_parser().parse_args(words).command if words else None
    if command not in WAITING:
        raise UsageError(f"say what the service does: warpgate install-service {'|'.join(WAITING)} ...")
