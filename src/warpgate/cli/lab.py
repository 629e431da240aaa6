"""`warpgate lab`: a whole internet on one machine, to try things in."""

from __future__ import annotations

import argparse
import importlib

from warpgate.cli.shell import Shell

ACTIONS = {
    "up": "warpgate.cli.lab_up",
    "kinds": "warpgate.cli.lab_kinds",
    "matrix": "warpgate.cli.lab_matrix",
}


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    status: int = importlib.import_module(ACTIONS[arguments.action]).run(arguments, shell)
    return status
