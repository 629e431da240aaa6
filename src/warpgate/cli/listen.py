"""`warpgate listen`: wait for peers and serve each of their pipes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from warpgate.cli.ends import PipeEnd, cancel_all, owned
from warpgate.cli.forwarding import forward
from warpgate.cli.listening import announce, naming_news, parse_allowed, parse_name, while_named
from warpgate.cli.options import UsageError
from warpgate.cli.places import SocksPlace
from warpgate.cli.process import run_on_pipe
from warpgate.cli.records import PipeOpen, Unserved
from warpgate.cli.shell import Shell
from warpgate.cli.status_door import told
from warpgate.cli.stdio import join_stdio
from warpgate.errors import PipeClosed, WarpgateError
from warpgate.model.wanted import FILES_SERVICE, RELAY_SERVICE
from warpgate.net import descriptors
from warpgate.plan.shares import Places
from warpgate.proto.relay_limits import user_of

if TYPE_CHECKING:
    from warpgate.cli.reception import Reception
    from warpgate.core.node import Node
    from warpgate.core.pipes.base import Pipe
    from warpgate.server.peer_relay import PeerRelay

PIPES_AT_ONCE = 400
# A pipe's own socket, and as many as a command that is run for it needs (three pipes).
DESCRIPTORS_A_PIPE = 4
# For the node itself, and for what strangers can make it hold.
DESCRIPTORS_SPARE = 512

Handler = Callable[["Pipe"], Awaitable[None]]


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    name = parse_name(arguments.name, shell)
    allow = parse_allowed(arguments.allow)
    if allow is None and any(isinstance(place, SocksPlace) for _, place in arguments.forward):
        raise UsageError("--forward socks lends this machine's network to peers: say to whom, with --allow ID")
    services = offered(arguments)
    if arguments.relay is not None:
        _check_lending(arguments, services)
    if arguments.tls:
        shell = shell.secured()
    reception = None
    if arguments.receive is not None:
        if arguments.once:
            raise UsageError("--once does not go with --receive (see warpgate receive --once)")
        reception = _reception(shell, arguments.receive, allow)
    # Being told to stop is how a service ends: nothing went wrong.
    return shell.run(
        _listen(
            shell,
            allow,
            name,
            services,
            reception,
            once=arguments.once,
            metrics=arguments.metrics,
            lend=arguments.relay,
        ),
        stopped=0,
    )


def _reception(shell: Shell, folder: str, allow: frozenset[str] | None) -> Reception:
    from warpgate.cli.reception import Reception, writable  # noqa: PLC0415 - not loaded where nothing is received
    from warpgate.transfer.receiver import Rules  # noqa: PLC0415

    return Reception(shell, writable(folder), Rules(known=allow or ()))


def _check_lending(arguments: argparse.Namespace, services: dict[str, Handler]) -> None:
    """UsageError for what does not go with --relay."""
    if not arguments.allow:
        raise UsageError("--relay lends this machine's network to peers: say to whom, with --allow ID")
    if arguments.once:
        raise UsageError("--once does not go with --relay, which peers ask again and again")
    if RELAY_SERVICE in services:
        raise UsageError(f"--relay is the service {RELAY_SERVICE!r}: take another name for --forward")


def offered(arguments: argparse.Namespace) -> dict[str, Handler]:
    """By name, "" for the one without; none at all: stdin and stdout. UsageError for two of one name."""
    services: list[tuple[str, Handler]] = []
    if arguments.echo:
        services.append(("", echo))
    if arguments.exec_command is not None:
        services.append(("", partial(run_on_pipe, command=arguments.exec_command)))
    services += [(name, partial(forward, place=place)) for name, place in arguments.forward]
    for name, count in Counter(name for name, _ in services).items():
        if count > 1 and name:
            raise UsageError(f"--forward: there are {count} services with the name {name!r}")
        if count > 1:
            raise UsageError("only one service goes without a name: --forward NAME=PLACE for the others")
        if name == FILES_SERVICE and arguments.receive is not None:
            raise UsageError(f"--receive is the service {FILES_SERVICE!r}: take another name for --forward")
    return dict(services)


async def _listen(
    shell: Shell,
    allow: frozenset[str] | None,
    name: str | None,
    services: dict[str, Handler],
    reception: Reception | None,
    *,
    once: bool,
    metrics: int | None,
    lend: int | None,
) -> int:
    on_stdio = not services and reception is None and lend is None
    shell.output.bytes_on_stdout = on_stdio
    node = shell.node(accept=True, allow=allow, observer=naming_news(shell))
    serving = Serving(shell, once=once)
    for service, handler in services.items():
        if service:
            node.serve(service, partial(serving.take, handler))
    if reception is not None:
        node.serve(FILES_SERVICE, reception.take)
    relay = None if lend is None else lent(node, lend)
    if relay is not None:
        node.serve(RELAY_SERVICE, partial(serving.take, relay.tell))
    async with node, AsyncExitStack() as stack:
        if reception is not None:
            stack.enter_context(reception.view)
            if allow is None:
                reception.warn_of_strangers()
        stack.push_async_callback(serving.stop)
        if relay is not None:
            stack.push_async_callback(relay.close)
            await relay.open()
            if not relay.use.reachable and not shell.settings.config.port_map:
                shell.output.note("nobody can reach this relay: there is no public address, and no router is asked")
        await stack.enter_async_context(told(node, shell, "listen", metrics, relay))
        announce(node, shell)
        work = _join_first(node, shell) if on_stdio else serving.until_over(node, services.get(""))
        return await while_named(work, node, name, shell)


def lent(node: Node, port: int) -> PeerRelay:
    from warpgate.net.system import SystemNetwork  # noqa: PLC0415 - slow imports, only where needed
    from warpgate.server.peer_relay import PeerRelay  # noqa: PLC0415

    return PeerRelay(node, SystemNetwork(follow_routes=True), port or None)


class Serving:
    """Serves every peer concurrently until told to stop; with `once` only the first, to its end."""

    def __init__(self, shell: Shell, *, once: bool) -> None:
        self._output = shell.output
        self._once = once
        wanted = PIPES_AT_ONCE * DESCRIPTORS_A_PIPE + DESCRIPTORS_SPARE
        allowed = (descriptors.ask_for(wanted) - DESCRIPTORS_SPARE) // DESCRIPTORS_A_PIPE
        self._places: Places[Pipe] = Places(max(1, min(PIPES_AT_ONCE, allowed)))
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun = False
        self._over = asyncio.Event()

    async def until_over(self, node: Node, unnamed: Handler | None) -> int:
        """`unnamed` is for pipes without a service."""
        if unnamed is None:
            await self._over.wait()
            return 0
        accepting = asyncio.ensure_future(self._accept(node, unnamed))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((accepting, over), return_when=asyncio.FIRST_COMPLETED)
            if accepting.done():
                accepting.result()
        finally:
            await cancel_all({accepting, over})
        return 0

    async def stop(self) -> None:
        await cancel_all(self._tasks)

    async def _accept(self, node: Node, handler: Handler) -> None:
        while True:
            task = asyncio.ensure_future(self.take(handler, await node.accept()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def take(self, handler: Handler, pipe: Pipe) -> None:
        """One pipe from start to end; what goes wrong with it concerns no other."""
        if self._once and self._begun:
            pipe.abort()  # peers that come while the only one we serve is there shall know at once
            return
        task = asyncio.current_task()
        assert task is not None
        others = len(self._places)
        leaver = self._places.enter(pipe, pipe.peer, user_of(pipe.remote.ip))
        if leaver is not None:
            leaver.abort()
            self._output.warn(Unserved(leaver.peer, f"there are {others} pipes already"))
        if leaver is pipe:
            return
        self._begun = True
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._output.show(PipeOpen.of_pipe(pipe))
        try:
            async with owned(pipe):
                await handler(pipe)
        except PipeClosed:
            pass  # the peer went away: -v tells (PipeEnded)
        except (WarpgateError, OSError) as error:
            self._output.warn(Unserved(pipe.peer, str(error)))
        finally:
            self._places.leave(pipe)
            if self._once:
                self._over.set()


async def _join_first(node: Node, shell: Shell) -> int:
    """Like `nc -l`: the first peer gets our stdin and stdout, and with it the command ends."""
    async with contextlib.AsyncExitStack() as stack:
        pipe = await node.accept()
        stack.push_async_callback(cancel_all, {asyncio.create_task(_turn_away(node))})
        async with owned(pipe):
            shell.output.show(PipeOpen.of_pipe(pipe))
            await join_stdio(pipe, shell.output)
    return 0


async def _turn_away(node: Node) -> None:
    """Peers that come while the only one we serve is there shall know at once."""
    while True:
        (await node.accept()).abort()


async def echo(pipe: Pipe) -> None:
    """Answer everything with itself, until the peer has no more."""
    async with contextlib.aclosing(PipeEnd(pipe).chunks()) as chunks:
        async for chunk in chunks:
            await pipe.send(chunk)
