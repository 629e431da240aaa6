"""`warpgate connect`: a pipe to TARGET, joined to stdin and stdout, pinged, or fed by local connections."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from warpgate.cli.connecting import Journey
from warpgate.cli.ends import cancel_all, owned
from warpgate.cli.forwarding import Connect, Visit, open_entrance
from warpgate.cli.options import UsageError
from warpgate.cli.outages import Outages
from warpgate.cli.ping import ping
from warpgate.cli.places import Entrance, UdpPlace
from warpgate.cli.records import Forwarding, PipeOpen, Unserved
from warpgate.cli.shell import Shell
from warpgate.cli.status_door import told
from warpgate.cli.stdio import join_stdio
from warpgate.errors import WarpgateError
from warpgate.model.endpoint import Mode, Transport
from warpgate.net import descriptors

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

# After our input ended, an answer to the last datagram may take a round trip; a second is three slow ones.
DATAGRAM_LINGER = 1.0
# What a browser has open to a host, and few enough for the 20 signals a second that a peer takes from one sender.
ATTEMPTS_AT_ONCE = 6
CONNECTIONS_AT_ONCE = 400
DESCRIPTORS = 2 * CONNECTIONS_AT_ONCE + 512  # a socket for the pipe and one for who is served, and the node's own


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    if arguments.ping is not None and arguments.durable is None:
        arguments.durable = False  # what is measured is one path
    journey = Journey.of(arguments, shell.settings.config)
    if arguments.listen:
        _check_entrances(arguments, journey)
        return shell.run(_forward(shell, journey, arguments.listen), stopped=0)
    if arguments.ping is not None:
        return shell.run(_ping(shell, journey, arguments.ping))
    shell.output.bytes_on_stdout = True
    return shell.run(_join(shell, journey))


def _check_entrances(arguments: argparse.Namespace, journey: Journey) -> None:
    """Each has its kind of pipe. UsageError when that was excluded."""
    if arguments.ping is not None:
        raise UsageError("--ping measures one pipe, it cannot go with --listen or --socks")
    if journey.mode is Mode.DATAGRAM:
        raise UsageError("--listen says itself what it forwards (udp:PORT), it cannot go with --datagram")
    if any(isinstance(place, UdpPlace) for place in arguments.listen):
        if journey.transport is Transport.TCP:
            raise UsageError("--listen udp: needs UDP, it cannot go with --transport tcp")
        if journey.secure:
            raise UsageError("--tls encrypts streams, it cannot go with --listen udp:")


async def _ping(shell: Shell, journey: Journey, count: int) -> int:
    async with (
        shell.node(accept=False, observer=Outages(shell.output).observe) as node,
        told(node, shell, "connect"),
        owned(await journey.connect(node)) as pipe,
    ):
        shell.output.show(PipeOpen.of_pipe(pipe))
        await ping(pipe, count, shell.output.show)
    return 0


async def _join(shell: Shell, journey: Journey) -> int:
    async with (
        shell.node(accept=False, observer=Outages(shell.output).observe) as node,
        told(node, shell, "connect"),
        owned(await journey.connect(node)) as pipe,
    ):
        if shell.output.json or shell.output.verbose:
            shell.output.show(PipeOpen.of_pipe(pipe))
        await join_stdio(pipe, shell.output, linger=DATAGRAM_LINGER)
    return 0


async def _forward(shell: Shell, journey: Journey, entrances: Sequence[tuple[Entrance, str]]) -> int:
    """Each local connection, and each that sends by UDP, gets a pipe of its own; runs until told to stop."""
    descriptors.ask_for(DESCRIPTORS)
    async with (
        shell.node(accept=False, observer=Outages(shell.output).observe) as node,
        told(node, shell, "connect"),
        contextlib.AsyncExitStack() as stack,
    ):
        carrying: set[asyncio.Task[None]] = set()
        stack.push_async_callback(cancel_all, carrying)
        attempts = asyncio.Semaphore(ATTEMPTS_AT_ONCE)

        async def connect(service: str, mode: Mode) -> Pipe:
            # Those of programs may be longer than a durable pipe takes: as UDP has them, unless asked for.
            durable = journey.durable if mode is Mode.STREAM else journey.durable_datagrams
            async with attempts:
                pipe = await replace(journey, mode=mode, durable=durable).connect(node, service)
            shell.output.show(PipeOpen.of_pipe(pipe))
            return pipe

        def accepted(service: str, visit: Visit) -> None:
            if len(carrying) >= CONNECTIONS_AT_ONCE:
                visit.abort()
                shell.output.warn(Unserved(visit.name, f"there are {len(carrying)} connections already"))
                return
            task = asyncio.create_task(_carry(shell, visit, partial(connect, service)))
            carrying.add(task)
            task.add_done_callback(carrying.discard)

        for place, service in entrances:
            stack.callback(open_entrance(place, partial(accepted, service)).close)
            shell.output.show(Forwarding(str(place)))
        await asyncio.get_running_loop().create_future()  # until cancelled
    return 0


async def _carry(shell: Shell, visit: Visit, connect: Connect) -> None:
    """One local connection from start to end; what goes wrong with it concerns no other."""
    try:
        await visit.carry(connect)
    except (WarpgateError, OSError) as error:
        shell.output.warn(Unserved(visit.name, str(error)))
