"""The `warpgate` program: parse, run one command, turn every outcome into an exit status and one sentence.

0 done, 1 failed, 2 asked in a way that makes no sense, 130 interrupted. Modules of commands are imported
only when their command runs: help and usage errors must not wait for asyncio.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from warpgate import __version__
from warpgate.cli.options import CommonOptions, UsageError
from warpgate.cli.output import Output, discard_stdout
from warpgate.cli.parser import build_parser
from warpgate.cli.records import Failed
from warpgate.cli.standard_streams import fill_standard_streams
from warpgate.cli.terminal import guarded_streams
from warpgate.errors import AddressError, ConfigError, WarpgateError
from warpgate.user_settings import FALSE, unknown_variables

if TYPE_CHECKING:
    import argparse

    from warpgate.cli.shell import NodeMaker

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None, node_maker: NodeMaker | None = None) -> int:
    """Run one command and return the exit status. `node_maker` replaces the real node (for tests)."""
    fill_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    # Until the settings are known: an error in them must be reported in the form that was asked for.
    output = Output(json="--json" in words or os.environ.get("WARPGATE_JSON", "").lower() not in ("", *FALSE))
    with guarded_streams():
        try:
            return _run(words, output, node_maker)
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            discard_stdout()
            return FAILED
        except Exception as error:  # noqa: BLE001 - the last line of defence: users get a sentence, -v shows a bug's place
            return _report(error, output)


def _report(error: Exception, output: Output) -> int:
    """Say what went wrong; the exit status."""
    if isinstance(error, UsageError | ConfigError | AddressError):
        output.fail(Failed(_one_line(error)))
        return MISUSED
    if isinstance(error, WarpgateError | OSError):
        output.fail(Failed(_one_line(error), getattr(error, "report", ())))
        return FAILED
    if output.verbose:
        output.trace(error)
    output.fail(Failed(f"a bug in warpgate: {type(error).__name__}: {_one_line(error)} (-v shows where)"))
    return FAILED


def _run(words: list[str], output: Output, node_maker: NodeMaker | None) -> int:
    arguments = _parse(words)
    if arguments is None:
        return 0
    if arguments.version:
        print(f"warpgate {__version__}")
        return 0
    if arguments.command is None:
        raise UsageError("say what to do, for example: warpgate listen (see warpgate --help)")

    from warpgate.cli.settings import load  # noqa: PLC0415 - not needed for --help
    from warpgate.cli.shell import Shell, make_node  # noqa: PLC0415

    chosen = load(CommonOptions.gather(arguments), os.environ)
    output.json, output.verbose = chosen.json, chosen.verbose
    for name in unknown_variables(os.environ):
        output.note(
            f"{name} is set, but there is no such setting: warpgate --help lists the options, whose names they have"
        )
    command = importlib.import_module(f"warpgate.cli.{arguments.command.replace('-', '_')}")
    status: int = command.run(arguments, Shell(chosen, output, node_maker or make_node))
    return status


def _parse(words: list[str]) -> argparse.Namespace | None:
    """None after --help. What follows `--` in a lab command is not ours: argparse must not see it."""
    commands: list[str] = []
    if "lab" in words and "--" in words:
        cut = words.index("--")
        words, commands = words[:cut], words[cut + 1 :]
    try:
        arguments = build_parser().parse_args(words)
    except SystemExit:
        return None
    arguments.lab_commands = commands
    return arguments


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
