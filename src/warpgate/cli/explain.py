"""`warpgate explain TARGET`: connect, then tell what each strategy did and why."""

from __future__ import annotations

import argparse

from warpgate.cli.connecting import Journey
from warpgate.cli.ends import owned
from warpgate.cli.records import Explained, PipeOpen, explain_report
from warpgate.cli.shell import Shell
from warpgate.cli.terminal import in_one_line
from warpgate.errors import ConnectFailed


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    return shell.run(_explain(shell, Journey.of(arguments, shell.settings.config)))


async def _explain(shell: Shell, journey: Journey) -> int:
    async with shell.node(accept=False) as node:
        try:
            pipe = await journey.connect(node)
        except ConnectFailed as error:
            shell.output.heading(explain_report(in_one_line(error.report)))
            raise
        async with owned(pipe):
            shell.output.show(PipeOpen.of(pipe))
            shell.output.show(Explained(pipe.report))
    return 0
