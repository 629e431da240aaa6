"""`warpgate receive`: take files and directories from peers that run `warpgate send`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpgate.cli.asking import at_terminal
from warpgate.cli.ends import cancel_all
from warpgate.cli.listening import announce, naming_news, parse_allowed, parse_name, while_named
from warpgate.cli.options import UsageError
from warpgate.cli.reception import Reception, writable
from warpgate.cli.shell import Shell
from warpgate.cli.status_door import told
from warpgate.errors import TransferFailed
from warpgate.model.code import OneTimeCode, looks_like_code
from warpgate.model.wanted import FILES_SERVICE
from warpgate.transfer.receiver import Rules

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
    folder = writable(where or ".")
    name = parse_name(arguments.name, shell)
    rules = Rules(known=allow or (), dotfiles=arguments.dotfiles, executable=arguments.executable)
    asking = allow is None and code is None and not arguments.yes and not shell.output.json and at_terminal()
    shell = shell.secured()
    command = Receiving(shell, Reception(shell, folder, rules, overwrite=arguments.overwrite, asking=asking))
    if code is not None:
        if name is not None or allow is not None:
            raise UsageError("a one-time code says who sends: --name and --allow do not go with it")
        return shell.run(command.run_by_code(code))
    # Being told to stop is how a service ends: nothing went wrong.
    return shell.run(command.run(allow, name, once=arguments.once), stopped=0)


def split(words: Sequence[str]) -> tuple[str | None, str | None]:
    """A code, and a directory; what is the name of a directory is one, whatever it looks like."""
    code = words[0] if words and looks_like_code(words[0]) and not Path(words[0]).is_dir() else None
    rest = words if code is None else words[1:]
    if len(rest) > 1:
        raise UsageError(f"one directory, not {len(rest)} (a one-time code, 4821-piano-zebra, comes before it)")
    if code is not None:
        OneTimeCode.parse(code)
    return code, rest[0] if rest else None


class Receiving:
    """One run of the command."""

    def __init__(self, shell: Shell, reception: Reception) -> None:
        self._shell = shell
        self._reception = reception
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()

    async def run(self, allow: frozenset[str] | None, name: str | None, *, once: bool) -> int:
        """Until told to stop; with `once` until something was received."""
        shell = self._shell
        async with (
            shell.node(accept=True, allow=allow, observer=naming_news(shell)) as node,
            told(node, shell, "receive"),
        ):
            announce(node, shell)
            if allow is None:
                self._reception.warn_of_strangers()
            ending = self._reception.received.wait() if once else asyncio.get_running_loop().create_future()
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
            self._reception.trust(sender)
            await self._receive(node, self._end_of_code())
        return 0 if self._reception.received.is_set() else FAILED

    async def _end_of_code(self) -> None:
        """All has come, or it failed, or nobody comes any more: then TransferFailed."""
        waits: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(event.wait()) for event in (self._reception.received, self._reception.failed)
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
        node.serve(FILES_SERVICE, self._take)  # how many are let in is the receiver's to say
        with self._reception.view:
            try:
                await until
            finally:
                await cancel_all(self._tasks)
        return 0

    async def _take(self, pipe: Pipe) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._arrived.set()
        await self._reception.take(pipe)
