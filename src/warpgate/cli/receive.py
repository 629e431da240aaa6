"""`warpgate receive`: take files and directories from peers that run `warpgate send`."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpgate.cli.asking import Doorkeeper, at_terminal
from warpgate.cli.ends import cancel_all
from warpgate.cli.listen import announce, parse_allowed
from warpgate.cli.naming import naming_news, parse_name, while_named
from warpgate.cli.options import UsageError
from warpgate.cli.shell import Shell
from warpgate.cli.transfer_records import NotReceived, ReceivedShown, TextShown
from warpgate.cli.transfer_view import TransferView
from warpgate.errors import TransferFailed, TransferRefused, WarpgateError
from warpgate.model.code import OneTimeCode, looks_like_code
from warpgate.proto.transfer_wire import Reason
from warpgate.transfer.receiver import Receiver, Rules

if TYPE_CHECKING:
    from warpgate.core.node import Node
    from warpgate.core.pipes.base import Pipe


# A sender that lost us tries again for two minutes.
CODE_PATIENCE = 150.0
FAILED = 1


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    allow = parse_allowed(arguments.allow)
    code, where = split(arguments.words)
    if where is None and allow is None and code is None:
        raise UsageError(
            "say where to put what comes (warpgate receive DIR), or with --allow ID from whom to take it: without that "
            "whoever has the address may send"
        )
    folder = Path(where or ".")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"the directory {folder} cannot be written to")
    name = parse_name(arguments.name, shell)
    rules = Rules(known=allow or (), dotfiles=arguments.dotfiles, executable=arguments.executable)
    asking = allow is None and code is None and not arguments.yes and not shell.output.json and at_terminal()
    reception = Reception(shell.secured(), folder, rules, overwrite=arguments.overwrite, asking=asking)
    if code is not None:
        if name is not None or allow is not None:
            raise UsageError("a one-time code says who sends: --name and --allow do not go with it")
        return shell.run(reception.run_by_code(code))
    # Being told to stop is how a service ends: nothing went wrong.
    return shell.run(reception.run(allow, name, once=arguments.once), stopped=0)


def split(words: Sequence[str]) -> tuple[str | None, str | None]:
    """A code, and a directory; what is the name of a directory is one, whatever it looks like."""
    code = words[0] if words and looks_like_code(words[0]) and not Path(words[0]).is_dir() else None
    rest = words if code is None else words[1:]
    if len(rest) > 1:
        raise UsageError(
            f"one directory, not {len(rest)} (a one-time code, 4821-piano-zebra, comes before it)"
        )
    if code is not None:
        OneTimeCode.parse(code)
    return code, rest[0] if rest else None


class Reception:
    """One run of the command. `asking`: the person at the terminal decides about each stranger's offer."""

    def __init__(self, shell: Shell, folder: Path, rules: Rules, *, overwrite: bool, asking: bool) -> None:
        self._shell = shell
        self._folder = folder
        self._overwrite = overwrite
        self._rules = rules
        self._asking = asking
        self._view = TransferView(shell.output)
        self._receiver = self._receiver_by(rules)
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self._received = asyncio.Event()
        self._failed = asyncio.Event()  # a transfer ended in a way that is not made good by another try

    def _receiver_by(self, rules: Rules) -> Receiver:
        doorkeeper = Doorkeeper(self._shell.output, self._view.paused)
        return Receiver(
            self._folder,
            overwrite=self._overwrite,
            rules=rules,
            consent=doorkeeper.consent if self._asking else None,
            watcher=self._view.watch,
        )

    async def run(self, allow: frozenset[str] | None, name: str | None, *, once: bool) -> int:
        """Until told to stop; with `once` until something was received."""
        shell = self._shell
        async with shell.node(accept=True, allow=allow, observer=naming_news(shell)) as node:
            announce(node, shell)
            if allow is None and not self._asking:
                shell.output.note(
                    f"whoever has this address may put files into {self._folder} (--allow says who)"
                )
            ending = self._received.wait() if once else asyncio.get_running_loop().create_future()
            return await while_named(self._receive(node, ending), node, name, shell)

    async def run_by_code(self, code: str) -> int:
        """From the one who made the code, until all has come. CodeFailed, ServiceError, TransferFailed."""
        shell = self._shell
        async with (
            shell.node(accept=True, beside=True, allow=frozenset()) as node,
            node.take_code(code) as exchange,
        ):
            sender = (await exchange.agreed()).node_id
            shell.output.note(f"the code is right, and {sender} is let in")
            self._receiver = self._receiver_by(replace(self._rules, known={sender}))
            await self._receive(node, self._end_of_code())
        return 0 if self._received.is_set() else FAILED

    async def _end_of_code(self) -> None:
        """All has come, or it failed, or nobody comes any more: then TransferFailed."""
        waits: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(event.wait()) for event in (self._received, self._failed)
        }
        waits.add(asyncio.ensure_future(self._abandoned()))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel_all(waits)

    async def _abandoned(self) -> None:
        while True:
            if self._tasks:
                await asyncio.wait(set(self._tasks))
                continue
            self._arrived.clear()
            try:
                async with asyncio.timeout(CODE_PATIENCE):
                    await self._arrived.wait()
            except TimeoutError:
                raise TransferFailed(f"the sender did not come (back) for {CODE_PATIENCE:g} s") from None

    async def _receive(self, node: Node, until: Awaitable[object]) -> int:
        """Take what comes, until that ends; what it raises is raised."""
        ending = asyncio.ensure_future(until)
        working = {asyncio.ensure_future(self._accept_all(node)), ending}
        with self._view:
            try:
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    ending.result()
            finally:
                await cancel_all(working)
                await cancel_all(self._tasks)
        return 0

    async def _accept_all(self, node: Node) -> None:
        async for pipe in node:  # how many are let in is the receiver's to say
            task = asyncio.create_task(self._take(pipe))
            self._tasks.add(task)
            self._arrived.set()
            task.add_done_callback(self._tasks.discard)

    async def _take(self, pipe: Pipe) -> None:
        """One pipe from start to end; what goes wrong with it concerns no other."""
        output = self._shell.output
        try:
            done = await self._receiver.take(pipe)
        except (WarpgateError, OSError) as error:
            reason = error.reason if isinstance(error, TransferRefused) else ""
            output.warn(NotReceived(pipe.peer, str(error), reason))
            if isinstance(error, TransferFailed) and reason != Reason.BUSY:
                self._failed.set()
        else:
            if done.text is None:
                output.show(ReceivedShown.of(done, str(self._folder / done.name)))
            else:
                output.show(TextShown(done.peer, tuple(done.text.splitlines())))
            if not done.more:
                self._received.set()
