"""`warpgate send`: a file or directory to a peer that runs `warpgate receive`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from warpgate.cli.connecting import Journey
from warpgate.cli.shell import Shell
from warpgate.cli.transfer_records import SentShown, Skipped
from warpgate.cli.transfer_view import TransferView
from warpgate.net.threads import in_thread
from warpgate.transfer.sender import send
from warpgate.transfer.source import scan

PATIENCE = 120.0
INCOMPLETE = 1  # all the rest has arrived


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    journey = Journey.of(arguments, shell.settings.config)
    patience = PATIENCE if arguments.patience is None else arguments.patience
    return shell.run(_send(shell, Path(arguments.file), journey, patience))


async def _send(shell: Shell, path: Path, journey: Journey, patience: float) -> int:
    source = await in_thread(lambda: scan(path))
    for left_out in source.not_sent:
        shell.output.warn(Skipped(left_out.path, left_out.reason))
    async with shell.node(accept=False) as node:
        began = time.monotonic()
        with TransferView(shell.output) as view:
            sent = await send(source, lambda: journey.connect(node), patience=patience, watcher=view.watch)
        shell.output.show(SentShown.of(sent, time.monotonic() - began))
    complete = not sent.left_out and not any(left_out.lost for left_out in source.not_sent)
    return 0 if complete else INCOMPLETE
