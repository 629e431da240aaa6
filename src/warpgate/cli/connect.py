"""`warpgate connect`: a pipe to TARGET, joined to stdin and stdout, pinged, or fed by local connections."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from warpgate.cli.connecting import Journey
from warpgate.cli.ends import LocalStream, PipeEnd, StreamEnd, cancel_all, join, owned, owned_stream
from warpgate.cli.forwarding import open_entrance
from warpgate.cli.options import UsageError
from warpgate.cli.outages import Outages
from warpgate.cli.ping import ping
from warpgate.cli.places import Place
from warpgate.cli.records import Forwarding, PipeOpen, Unserved
from warpgate.cli.shell import Shell
from warpgate.cli.status_door import told
from warpgate.cli.stdio import join_stdio
from warpgate.errors import WarpgateError
from warpgate.model.endpoint import Mode
from warpgate.net import descriptors

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

# After our input ended, an answer to the last datagram may take a round trip; a second is three slow ones.
DATAGRAM_LINGER = 1.0
# What a browser has open to a host, and few enough for the 20 signals a second that a peer takes from one sender.
ATTEMPTS_AT_ONCE = 6
CONNECTIONS_AT_ONCE = 400
DESCRIPTORS = (
    2 * CONNECTIONS_AT_ONCE + 512
)  # a socket for the pipe and one for who is served, and the node's own


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    journey = Journey.of(arguments, shell.settings.config)
    if arguments.listen:
        if journey.mode is Mode.DATAGRAM:
            raise UsageError("--listen forwards TCP connections, it cannot go with --datagram")
        return shell.run(_forward(shell, journey, arguments.listen), stopped=0)
    if arguments.ping is not None:
        return shell.run(_ping(shell, journey, arguments.ping))
    shell.output.bytes_on_stdout = True
    return shell.run(_join(shell, journey))


async def _ping(shell: Shell, journey: Journey, count: int) -> int:
    async with (
        shell.node(accept=False, observer=Outages(shell.output).observe) as node,
        owned(await journey.connect(node)) as pipe,
    ):
        shell.output.show(PipeOpen.of(pipe))
        await ping(pipe, count, shell.output.show)
    return 0


async def _join(shell: Shell, journey: Journey) -> int:
    async with (
        shell.node(accept=False, observer=Outages(shell.output).observe) as node,
        owned(await journey.connect(node)) as pipe,
        told(node, shell, "connect"),
    ):
        if shell.output.json or shell.output.verbose:
            shell.output.show(PipeOpen.of(pipe))
        await join_stdio(pipe, shell.output, linger=DATAGRAM_LINGER)
    return 0


async def _forward(shell: Shell, journey: Journey, entrances: Sequence[tuple[Place, str]]) -> int:
    """Each local connection gets a pipe of its own; runs until told to stop."""
    descriptors.ask_for(DESCRIPTORS)
    async with (
        shell.node(accept=False, observer=Outages(shell.output).observe) as node,
        told(node, shell, "connect"),
        contextlib.AsyncExitStack() as stack,
    ):
        carrying: set[asyncio.Task[None]] = set()
        stack.push_async_callback(cancel_all, carrying)
        attempts = asyncio.Semaphore(ATTEMPTS_AT_ONCE)

        def accepted(service: str, stream: LocalStream, name: str) -> None:
            if len(carrying) >= CONNECTIONS_AT_ONCE:
                stream.abort()
                shell.output.warn(Unserved(name, f"there are {len(carrying)} connections already"))
                return
            task = asyncio.create_task(
                _carry(shell, partial(journey.connect, node, service), stream, name, attempts)
            )
            carrying.add(task)
            task.add_done_callback(carrying.discard)

        for place, service in entrances:
            stack.callback(open_entrance(place, partial(accepted, service)).close)
            shell.output.show(Forwarding(str(place)))
        await asyncio.get_running_loop().create_future()  # until cancelled
    return 0


async def _carry(
    shell: Shell,
    connect: Callable[[], Awaitable[Pipe]],
    stream: LocalStream,
    name: str,
    attempts: asyncio.Semaphore,
) -> None:
    """One local connection from start to end; what goes wrong with it concerns no other."""
    try:
        with owned_stream(stream):
            async with attempts:
                pipe = await connect()
            async with owned(pipe):
                shell.output.show(PipeOpen.of(pipe))
                await join(StreamEnd(stream), PipeEnd(pipe))
    except (WarpgateError, OSError) as error:
        shell.output.warn(Unserved(name, str(error)))
