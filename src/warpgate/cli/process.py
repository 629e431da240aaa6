"""A child process on a pipe: `listen --exec`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from warpgate.cli.ends import ChildEnd, PipeEnd, join
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Mode
from warpgate.platform import PROCESSES

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

TERMINATION_PATIENCE = 3.0  # seconds between SIGTERM and SIGKILL, as most supervisors have it, give or take
# How long a peer that goes on sending after the child has ended is listened to: closing a TCP socket with
# unread input resets it, and the child's last words could be lost.
DRAIN_PATIENCE = 2.0


async def run_on_pipe(pipe: Pipe, command: str) -> None:
    """Run a shell command on the pipe until it ends; in its environment WARPGATE_PEER is the peer's node id.

    Raises NetworkError when the command fails.
    """
    async with _child(command, pipe.peer) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        talker = ChildEnd(child.stdout, child.stdin)
        await join(PipeEnd(pipe), talker, final=(talker,))
        status = await child.wait()
    await _drain(pipe)
    if status != 0:
        raise NetworkError(f"the command ended with status {status}")


@contextlib.asynccontextmanager
async def _child(command: str, peer: str) -> AsyncIterator[Process]:
    """The process, in a group of its own, which is ended when the block is left early."""
    environment = {**os.environ, "WARPGATE_PEER": peer}
    child = await asyncio.create_subprocess_shell(
        command, stdin=PIPE, stdout=PIPE, env=environment, **PROCESSES.own_group()
    )
    group = PROCESSES.group_of(child.pid)
    try:
        yield child
    finally:
        if child.returncode is None:
            group.terminate()
            try:
                await asyncio.wait_for(child.wait(), TERMINATION_PATIENCE)
            except TimeoutError:
                group.kill()
                await child.wait()


async def _drain(pipe: Pipe) -> None:
    if pipe.mode is not Mode.STREAM:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_PATIENCE):
            while await pipe.recv():
                pass
