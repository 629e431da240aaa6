"""`warpgate receive`: take files and directories from peers that run `warpgate send`."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from warpgate.cli.asking import Doorkeeper, at_terminal
from warpgate.cli.ends import cancel_all
from warpgate.cli.listen import announce, parse_allowed
from warpgate.cli.naming import naming_news, parse_name, while_named
from warpgate.cli.options import UsageError
from warpgate.cli.shell import Shell
from warpgate.cli.transfer_records import NotReceived, ReceivedShown
from warpgate.cli.transfer_view import TransferView
from warpgate.errors import TransferRefused, WarpgateError
from warpgate.transfer.receiver import Receiver, Rules

if TYPE_CHECKING:
    from warpgate.core.node import Node
    from warpgate.core.pipes.base import Pipe


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    allow = parse_allowed(arguments.allow)
    if arguments.folder is None and allow is None:
        raise UsageError(
            "say where to put what comes (warpgate receive DIR), or with --allow ID from whom to take it: without that "
            "whoever has the address may send"
        )
    folder = Path(arguments.folder or ".")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"the directory {folder} cannot be written to")
    name = parse_name(arguments.name, shell)
    rules = Rules(known=allow or (), dotfiles=arguments.dotfiles, executable=arguments.executable)
    asking = allow is None and not arguments.yes and not shell.output.json and at_terminal()
    reception = Reception(shell.secured(), folder, rules, overwrite=arguments.overwrite, asking=asking)
    # Being told to stop is how a service ends: nothing went wrong.
    return shell.run(reception.run(allow, name, once=arguments.once), stopped=0)


class Reception:
    """One run of the command. `asking`: the person at the terminal decides about each stranger's offer."""

    def __init__(self, shell: Shell, folder: Path, rules: Rules, *, overwrite: bool, asking: bool) -> None:
        self._shell = shell
        self._folder = folder
        self._asking = asking
        self._view = TransferView(shell.output)
        doorkeeper = Doorkeeper(shell.output, self._view.paused)
        self._receiver = Receiver(
            folder,
            overwrite=overwrite,
            rules=rules,
            consent=doorkeeper.consent if asking else None,
            watcher=self._view.watch,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._received = asyncio.Event()

    async def run(self, allow: frozenset[str] | None, name: str | None, *, once: bool) -> int:
        """Until told to stop; with `once` until something was received."""
        shell = self._shell
        async with shell.node(accept=True, allow=allow, observer=naming_news(shell)) as node:
            announce(node, shell)
            if allow is None and not self._asking:
                shell.output.note(
                    f"whoever has this address may put files into {self._folder} (--allow says who)"
                )
            return await while_named(self._receive(node, once=once), node, name, shell)

    async def _receive(self, node: Node, *, once: bool) -> int:
        ending = self._received.wait() if once else asyncio.get_running_loop().create_future()
        working = {asyncio.ensure_future(self._accept_all(node)), asyncio.ensure_future(ending)}
        with self._view:
            try:
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all(working)
                await cancel_all(self._tasks)
        return 0

    async def _accept_all(self, node: Node) -> None:
        async for pipe in node:  # how many are let in is the receiver's to say
            task = asyncio.create_task(self._take(pipe))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, pipe: Pipe) -> None:
        """One pipe from start to end; what goes wrong with it concerns no other."""
        output = self._shell.output
        try:
            done = await self._receiver.take(pipe)
        except (WarpgateError, OSError) as error:
            reason = error.reason if isinstance(error, TransferRefused) else ""
            output.warn(NotReceived(pipe.peer, str(error), reason))
        else:
            output.show(ReceivedShown.of(done, str(self._folder / done.name)))
            self._received.set()
