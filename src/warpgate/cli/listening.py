"""What commands that wait for peers have in common: who is let in, and where peers can connect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from warpgate.cli.options import UsageError
from warpgate.cli.records import Ready

if TYPE_CHECKING:
    from warpgate.cli.shell import Shell
    from warpgate.core.node import Node

NODE_ID = re.compile(r"[a-z2-7]{26}")


def parse_allowed(ids: list[str] | None) -> frozenset[str] | None:
    """None: anybody. UsageError for what cannot be a node id."""
    if ids is None:
        return None
    for text in ids:
        if NODE_ID.fullmatch(text.lower()) is None:
            raise UsageError(f"--allow: {text!r} is no node id (26 letters and digits, see warpgate id)")
    return frozenset(text.lower() for text in ids)


def announce(node: Node, shell: Shell) -> None:
    """Tell that and where peers can connect now."""
    shell.output.show(Ready(node.node_id, node.address.to_text()))
    if not node.address.brokers:
        shell.output.note("there is no broker: only peers who can reach this machine directly can connect")
