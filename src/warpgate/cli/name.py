"""`warpgate name`: nicknames."""

from __future__ import annotations

import argparse

from warpgate.cli.shell import Shell
from warpgate.cli.target import NO_NAMES
from warpgate.errors import ServiceError


def run(arguments: argparse.Namespace, _shell: Shell) -> int:
    raise ServiceError(f"{NO_NAMES}: cannot {arguments.action} {arguments.name!r}")
