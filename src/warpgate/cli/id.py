"""`warpgate id`: who this node is. Opens no socket."""

from __future__ import annotations

import argparse

from warpgate.cli.records import IdentityShown
from warpgate.cli.shell import Shell
from warpgate.core.disk.identity_store import load_or_create


def run(_arguments: argparse.Namespace, shell: Shell) -> int:
    identity = load_or_create(shell.settings.config.identity)
    shell.output.show(IdentityShown(identity.node_id, identity.public_key.hex()))
    return 0
