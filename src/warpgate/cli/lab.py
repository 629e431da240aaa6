"""`warpgate lab`: a whole internet on one machine, to try things in."""

from __future__ import annotations

import argparse
import importlib

from warpgate.cli.shell import Shell


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    status: int = importlib.import_module(f"warpgate.cli.lab_{arguments.action}").run(arguments, shell)
    return status
