"""`warpgate version`."""

from __future__ import annotations

import argparse

from warpgate import __version__
from warpgate.cli.records import VersionShown
from warpgate.cli.shell import Shell


def run(_arguments: argparse.Namespace, shell: Shell) -> int:
    shell.output.show(VersionShown(__version__))
    return 0
