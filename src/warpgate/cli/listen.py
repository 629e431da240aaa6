"""`warpgate listen`: wait for peers and serve each of their pipes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from warpgate.cli.ends import PipeEnd, cancel_all, owned
from warpgate.cli.forwarding import forward
from warpgate.cli.naming import naming_news, parse_name, while_named
from warpgate.cli.options import UsageError
from warpgate.cli.places import Place
from warpgate.cli.process import run_on_pipe
from warpgate.cli.records import PipeOpen, Ready, Unserved
from warpgate.cli.shell import Shell
from warpgate.cli.stdio import join_stdio
from warpgate.errors import PipeClosed, WarpgateError
from warpgate.net import descriptors

if TYPE_CHECKING:
    from warpgate.core.node import Node
    from warpgate.core.pipes.base import Pipe

PIPES_AT_ONCE = 400
# A pipe's own socket, and as many as a command that is run for it needs (three pipes).
DESCRIPTORS_A_PIPE = 4
# For the node itself, and for what strangers can make it hold.
DESCRIPTORS_SPARE = 512

Handler = Callable[["Pipe"], Awaitable[None]]
NODE_ID = re.compile(r"[a-z2-7]{26}")


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    name = parse_name(arguments.name, shell)
    allow = parse_allowed(arguments.allow)
    handler = _handler(arguments)
    if arguments.tls:
        shell = shell.secured()
    # Being told to stop is how a service ends: nothing went wrong.
    return shell.run(_listen(shell, allow, name, handler, once=arguments.once), stopped=0)


def parse_allowed(ids: list[str] | None) -> frozenset[str] | None:
    """None: anybody. UsageError for what cannot be a node id."""
    if ids is None:
        return None
    for text in ids:
        if NODE_ID.fullmatch(text.lower()) is None:
            raise UsageError(f"--allow: {text!r} is no node id (26 letters and digits, see warpgate id)")
    return frozenset(text.lower() for text in ids)


def _handler(arguments: argparse.Namespace) -> Handler | None:
    if arguments.echo:
        return echo
    if arguments.exec_command is not None:
        command: str = arguments.exec_command
        return lambda pipe: run_on_pipe(pipe, command)
    if arguments.forward is not None:
        place: Place = arguments.forward
        return lambda pipe: forward(pipe, place)
    return None


async def _listen(
    shell: Shell, allow: frozenset[str] | None, name: str | None, handler: Handler | None, *, once: bool
) -> int:
    shell.output.bytes_on_stdout = handler is None
    async with shell.node(accept=True, allow=allow, observer=naming_news(shell)) as node:
        announce(node, shell)
        work = _join_first(node, shell) if handler is None else _serve(node, shell, handler, once=once)
        return await while_named(work, node, name, shell)


async def _serve(node: Node, shell: Shell, handler: Handler, *, once: bool) -> int:
    """Serve every peer concurrently until told to stop; with `once` only the first, to its end."""
    wanted = PIPES_AT_ONCE * DESCRIPTORS_A_PIPE + DESCRIPTORS_SPARE
    allowed = max(1, (descriptors.ask_for(wanted) - DESCRIPTORS_SPARE) // DESCRIPTORS_A_PIPE)
    async with contextlib.AsyncExitStack() as stack:
        serving: set[asyncio.Task[None]] = set()
        stack.push_async_callback(cancel_all, serving)
        while True:
            pipe = await node.accept()
            if len(serving) >= min(PIPES_AT_ONCE, allowed):
                pipe.abort()
                shell.output.warn(Unserved(pipe.peer, f"there are {len(serving)} pipes already"))
                continue
            shell.output.show(PipeOpen.of(pipe))
            task = asyncio.create_task(_serve_one(pipe, handler, shell))
            serving.add(task)
            if once:
                serving.add(asyncio.create_task(_turn_away(node)))
                await task
                return 0
            task.add_done_callback(serving.discard)


async def _serve_one(pipe: Pipe, handler: Handler, shell: Shell) -> None:
    """One pipe from start to end; what goes wrong with it concerns no other."""
    try:
        async with owned(pipe):
            await handler(pipe)
    except PipeClosed:
        pass  # the peer went away: -v tells (PipeEnded)
    except (WarpgateError, OSError) as error:
        shell.output.warn(Unserved(pipe.peer, str(error)))


async def _join_first(node: Node, shell: Shell) -> int:
    """Like `nc -l`: the first peer gets our stdin and stdout, and with it the command ends."""
    async with contextlib.AsyncExitStack() as stack:
        pipe = await node.accept()
        stack.push_async_callback(cancel_all, {asyncio.create_task(_turn_away(node))})
        async with owned(pipe):
            shell.output.show(PipeOpen.of(pipe))
            await join_stdio(pipe, shell.output)
    return 0


def announce(node: Node, shell: Shell) -> None:
    """Tell that and where peers can connect now."""
    shell.output.show(Ready(node.node_id, node.address.to_text()))
    if not node.address.brokers:
        shell.output.note("there is no broker: only peers who can reach this machine directly can connect")


async def _turn_away(node: Node) -> None:
    """Peers that come while the only one we serve is there shall know at once."""
    while True:
        (await node.accept()).abort()


async def echo(pipe: Pipe) -> None:
    """Answer everything with itself, until the peer has no more."""
    async with contextlib.aclosing(PipeEnd(pipe).chunks()) as chunks:
        async for chunk in chunks:
            await pipe.send(chunk)
