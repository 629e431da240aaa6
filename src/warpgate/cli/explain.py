"""`warpgate explain TARGET`: connect, then tell what each strategy did and why."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from warpgate.cli.connecting import Journey
from warpgate.cli.ends import owned
from warpgate.cli.fingerprints import nats_settled
from warpgate.cli.page_file import PageFile
from warpgate.cli.records import Explained, PipeOpen, explain_report
from warpgate.cli.shell import Shell
from warpgate.cli.terminal import in_one_line
from warpgate.errors import ConnectFailed

if TYPE_CHECKING:
    from warpgate.core.node import Node
    from warpgate.events import PluginReport


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    journey = Journey.of(arguments, shell.settings.config)
    file = None if arguments.html is None else PageFile(arguments.html)
    return shell.run(_explain(shell, journey) if file is None else _draw(shell, journey, file))


async def _explain(shell: Shell, journey: Journey) -> int:
    async with shell.node(accept=False) as node:
        await _connect(shell, journey, node)
    return 0


async def _connect(shell: Shell, journey: Journey, node: Node) -> tuple[PipeOpen, tuple[PluginReport, ...]]:
    """Told as it ends; ConnectFailed with its report."""
    try:
        pipe = await journey.connect(node)
    except ConnectFailed as error:
        shell.output.heading(explain_report(in_one_line(error.report)))
        raise
    async with owned(pipe):
        opened = PipeOpen.of(pipe)
        shell.output.show(opened)
        shell.output.show(Explained(pipe.report))
        return opened, pipe.report


async def _draw(shell: Shell, journey: Journey, file: PageFile) -> int:
    """The same, and a page of it, whether it connects or not."""
    from warpgate.cli.pages.explanation import Explanation, Witness, page  # noqa: PLC0415 - only for --html

    witness, at = Witness(), time.time()
    async with shell.node(accept=False, observer=witness.observe) as node:
        opened, error = None, None
        try:
            opened, report = await _connect(shell, journey, node)
        except ConnectFailed as failed:
            error, report = failed, failed.report
        await nats_settled(node, shell.settings.config)
        name = journey.target if isinstance(journey.target, str) else ""
        told = Explanation(
            at, name, node.address, witness, report, opened, "" if error is None else str(error)
        )
        shell.output.show(file.write(page(told)))
        if error is not None:
            raise error
    return 0
