"""`warpgate explain TARGET`: connect, then tell what each strategy did and why."""

from __future__ import annotations

import argparse
import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from warpgate.cli.connecting import Journey
from warpgate.cli.ends import owned
from warpgate.cli.fingerprints import nats_settled
from warpgate.cli.page_file import PageFile
from warpgate.cli.records import Explained, PathTaken, PipeOpen, explain_report
from warpgate.cli.shell import Shell
from warpgate.cli.terminal import in_one_line
from warpgate.errors import ConnectFailed
from warpgate.events import PathChosen

if TYPE_CHECKING:
    from warpgate.cli.output import Output
    from warpgate.core.node import Node
    from warpgate.events import Event, PluginReport


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    if arguments.watch is not None:
        arguments.durable = True  # others have one path
    journey = Journey.of(arguments, shell.settings.config)
    watch = arguments.watch or 0.0
    file = None if arguments.html is None else PageFile(arguments.html)
    return shell.run(_explain(shell, journey, watch) if file is None else _draw(shell, journey, watch, file))


async def _explain(shell: Shell, journey: Journey, watch: float) -> int:
    async with shell.node(accept=False, observer=partial(_tell_path, shell.output)) as node:
        await _connect(shell, journey, watch, node)
    return 0


def _tell_path(output: Output, event: Event) -> None:
    if isinstance(event, PathChosen):
        output.show(PathTaken.of(event))


async def _connect(
    shell: Shell, journey: Journey, watch: float, node: Node
) -> tuple[PipeOpen, tuple[PluginReport, ...]]:
    """Told as it ends; ConnectFailed with its report."""
    try:
        pipe = await journey.connect(node)
    except ConnectFailed as error:
        shell.output.heading(explain_report(in_one_line(error.report)))
        raise
    async with owned(pipe):
        opened = PipeOpen.of_pipe(pipe)
        shell.output.show(opened)
        shell.output.show(Explained(pipe.report))
        if watch:
            shell.output.note(f"watching which paths it takes, for {watch:g} s")
            await asyncio.sleep(watch)
        return opened, pipe.report


async def _draw(shell: Shell, journey: Journey, watch: float, file: PageFile) -> int:
    """The same, and a page of it, whether it connects or not."""
    from warpgate.cli.pages.explanation import Explanation, Witness, page  # noqa: PLC0415 - only for --html

    loop, at = asyncio.get_running_loop(), time.time()
    began = loop.time()
    witness = Witness(clock=lambda: loop.time() - began)

    def observe(event: Event) -> None:
        witness.observe(event)
        _tell_path(shell.output, event)

    async with shell.node(accept=False, observer=observe) as node:
        began = loop.time()
        opened, error = None, None
        try:
            opened, report = await _connect(shell, journey, watch, node)
        except ConnectFailed as failed:
            error, report = failed, failed.report
        watched = loop.time() - began if watch else 0.0
        await nats_settled(node, shell.settings.config)
        name = journey.target if isinstance(journey.target, str) else ""
        said = "" if error is None else str(error)
        told = Explanation(at, name, node.address, witness, report, opened, said, watched)
        shell.output.show(file.write(page(told)))
        if error is not None:
            raise error
    return 0
