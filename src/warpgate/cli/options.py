"""The options common to all commands, accepted before and after the command's name.

argparse gives each sub-parser a namespace of its own and lets it overwrite the outer one, so that
`warpgate --broker A connect --broker B` would forget A. Each level therefore stores under names of its own,
and `CommonOptions.gather` puts them together.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from typing import Any

from warpgate.lazy_dataclass import dataclass
from warpgate.user_settings import Choices


class UsageError(Exception):
    """What was asked for makes no sense; the message is one sentence. Ends the program with status 2."""


LEVELS = 3  # warpgate [0] lab [1] up [2]


@dataclass(frozen=True, slots=True)
class CommonOptions(Choices):
    """What was given on the command line. `config`: the file."""

    config: str | None = None

    @classmethod
    def gather(cls, arguments: argparse.Namespace) -> CommonOptions:
        def said(name: str, kind: str) -> Any:
            return _joined(arguments, name) if "tuple" in kind else _last(arguments, name)

        return cls(**{each.name: said(each.name, str(each.type)) for each in fields(cls)})


def add_common_options(parser: argparse.ArgumentParser, level: int, *, json: bool = True, servers: bool = True) -> None:
    """Give `parser` the common options; `level` counts the commands before it on the line. Only the help of the first
    one tells what they are: with twenty lines more, no command's own help would fit a screen.

    Without `json` the command brings its own --json; without `servers` it is a server itself.
    """
    group = parser.add_argument_group("common options")

    def add(*flags: str, text: str, **settings: Any) -> None:
        name = flags[-1].removeprefix("--no-" if settings.get("const") is False else "--").replace("-", "_")
        shown = text if level == 0 else argparse.SUPPRESS
        group.add_argument(*flags, dest=f"{name}_{level}", help=shown, **settings)

    def repeatable(name: str, metavar: str, text: str) -> None:
        add(f"--{name}", action="append", metavar=metavar, text=text)

    add("--identity", metavar="NAME", text="key to use (default: default)")
    if servers:
        repeatable("broker", "mqtt[s]|ws[s]://HOST", "signalling broker; repeatable, replaces the defaults")
        repeatable("stun", "HOST:PORT", "STUN server; repeatable, replaces the defaults")
        repeatable("server-list", "URL", "https URL of a newer list of defaults; '' fetches none; repeatable")
        repeatable("turn", "turn:USER:PASS@HOST:PORT", "relay server, with ?transport=udp|tcp|tls; repeatable")
        repeatable("ice-servers", "URL", "https URL of a TURN provider's iceServers; repeatable")
        repeatable("relay-peer", "TARGET", "node that lends its machine, by `listen --relay`; repeatable")
        repeatable("names", "URL", "name server; repeatable")
        repeatable("rendezvous", "warpgate://HOST/...", "all of these, as `warpgate serve` prints it")
    repeatable("interface", "NAME", "use only this network interface; repeatable")
    add("--port", type=port_number, metavar="N", text="listen port (default: by identity)")
    add(
        "--no-port-map",
        action="store_const",
        const=False,
        text="do not ask routers to pass connections on to the listen port",
    )
    add("--config", metavar="FILE", text="TOML file with the same keys")
    if json:
        add("--json", action="store_const", const=True, text="one JSON object a line on stdout")
    add("-v", "--verbose", action="store_const", const=True, text="tell what happens, on stderr")


def port_number(text: str) -> int:
    """An argparse type: 1..65535."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port number (1 to 65535)")
    return int(text)


def unit_name(text: str) -> str:
    """An argparse type: the name of a systemd unit, which is that of a file."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,99}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a unit")
    return text


def positive_seconds(text: str) -> float:
    """An argparse type: a duration above 0 and up to a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration in seconds")
    return seconds


def positive_count(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no count (1 or more)")
    return int(text)


def count_or_none(text: str) -> int:
    """An argparse type: a whole number, 0 or more."""
    return 0 if text == "0" else positive_count(text)


def not_negative(text: str) -> float:
    """An argparse type: a finite number, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return number


def _given(arguments: argparse.Namespace, name: str) -> list[Any]:
    found = (getattr(arguments, f"{name}_{level}", None) for level in range(LEVELS))
    return [value for value in found if value is not None]


def _last(arguments: argparse.Namespace, name: str) -> Any:
    """What was said last, that is closest to the command's own arguments."""
    given = _given(arguments, name)
    return given[-1] if given else None


def _joined(arguments: argparse.Namespace, name: str) -> tuple[str, ...] | None:
    """All values of a repeatable option; an empty one stands for "none", so `--stun ''` gives ()."""
    given = _given(arguments, name)
    return tuple(value for values in given for value in values if value) if given else None
