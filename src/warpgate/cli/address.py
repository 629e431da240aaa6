"""`warpgate address`: what a peer needs to reach this node, as text and as a QR code."""

from __future__ import annotations

import argparse
import io

from warpgate.cli.records import AddressShown
from warpgate.cli.shell import Shell
from warpgate.errors import ConfigError


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    return shell.run(_show(shell, qr=arguments.qr))


async def _show(shell: Shell, *, qr: bool) -> int:
    async with shell.node(accept=True) as node:
        text = node.address.to_text()
        shell.output.show(AddressShown(node.node_id, text))
        if qr:
            shell.output.heading(draw_qr(text))
    return 0


def draw_qr(text: str) -> str:
    """Half-block characters, with the quiet zone that scanners need. ConfigError without segno."""
    try:
        import segno  # noqa: PLC0415 - an extra: pip install warpgate[cli]
    except ImportError:
        raise ConfigError("--qr needs the package segno: pip install 'warpgate[cli]'") from None
    drawing = io.StringIO()
    segno.make_qr(text, error="l").terminal(drawing, compact=True)
    return drawing.getvalue().rstrip("\n")
