"""`warpgate address`: what a peer needs to reach this node, as text and as a QR code."""

from __future__ import annotations

import argparse
import io

from warpgate.cli.options import UsageError
from warpgate.cli.records import AddressShown
from warpgate.cli.shell import Shell
from warpgate.cli.status import running
from warpgate.cli.target import parse_target
from warpgate.errors import ConfigError
from warpgate.model.address import NodeAddress


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    given: str | None = arguments.host_name
    if given:
        target = parse_target(given, shell.settings.config)
        if isinstance(target, str):
            raise UsageError(f"--host-name: {given!r} is a nickname, and serves as a host name as it is")
        _tell(shell, target, qr=arguments.qr, host_name=True)
        return 0
    return shell.run(_show(shell, qr=arguments.qr, host_name=given is not None))


async def _show(shell: Shell, *, qr: bool, host_name: bool) -> int:
    """That of the process that accepts peers; where none does, what one would have."""
    for told in await running(shell.settings.config.identity):
        if told["accepts"]:
            _tell(shell, NodeAddress.from_text(told["address"]), qr=qr, host_name=host_name)
            return 0
    async with shell.node(accept=False, beside=False) as node:
        _tell(shell, node.address, qr=qr, host_name=host_name)
    return 0


def _tell(shell: Shell, address: NodeAddress, *, qr: bool, host_name: bool) -> None:
    text = address.to_host_name() if host_name else address.to_text()
    shell.output.show(AddressShown(address.node_id, text))
    if qr:
        shell.output.heading(draw_qr(text))


def draw_qr(text: str) -> str:
    """Half-block characters, with the quiet zone that scanners need. ConfigError without segno."""
    try:
        import segno  # noqa: PLC0415 - an extra: pip install warpgate[cli]
    except ImportError:
        raise ConfigError("--qr needs the package segno: pip install 'warpgate[cli]'") from None
    drawing = io.StringIO()
    segno.make_qr(text, error="l").terminal(drawing, compact=True)
    return drawing.getvalue().rstrip("\n")
