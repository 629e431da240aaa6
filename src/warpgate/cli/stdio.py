"""stdin and stdout as one end of a join, whatever they are: pipes, files, terminals, sockets.

The event loop's own pipe transports refuse regular files and switch what they get to non-blocking, which
everybody else who holds the same terminal or pipe then suffers from. So two threads do plain blocking calls.
They are daemons: a read of a terminal may never return, and must not keep the program from ending.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from warpgate.cli.ends import CHUNK, DATAGRAM, End, PipeEnd, join
from warpgate.cli.output import Output
from warpgate.cli.records import Received
from warpgate.model.endpoint import Mode
from warpgate.net.threads import SerialThread
from warpgate.platform import TERMINAL

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe


class StdioEnd:
    """What the user types or pipes in, and where the peer's bytes go. `limit`: most bytes in one chunk."""

    def __init__(self, output: Output, limit: int = CHUNK, stdin: int = 0, stdout: int = 1) -> None:
        self._output = output
        self._limit = limit
        self._stdin = stdin
        self._stdout = stdout
        self._reader = SerialThread("stdin")
        self._writer = SerialThread("stdout")

    @property
    def interactive(self) -> bool:
        """Whether a person sits at stdin."""
        return os.isatty(self._stdin)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while data := await self._reader.call(lambda: TERMINAL.read(self._stdin, self._limit)):
            yield data

    async def write(self, data: bytes) -> None:
        if self._output.json:
            self._output.show(Received(base64.b64encode(data).decode("ascii")))
        else:
            await self._writer.call(lambda: TERMINAL.write(self._stdout, data))

    async def end(self) -> None:
        """Let whoever reads our stdout see the end: ssh, for one, waits for it from its ProxyCommand."""
        if not self._output.json and not os.isatty(self._stdout):
            await self._writer.call(lambda: _replace_by_null(self._stdout))


def _replace_by_null(descriptor: int) -> None:
    """Close the file but keep the number taken: the next file opened must not become our stdout."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


async def join_stdio(pipe: Pipe, output: Output, linger: float = 0.0) -> None:
    """Join the pipe to stdin and stdout until it is over; see PipeEnd for `linger`.

    A stream is over when both sides are. At a terminal it is over with the peer's end already: nobody likes
    to press Ctrl-D for a peer that has gone. A datagram pipe is over when the peer closes it, and, with
    `linger`, when our input has ended.
    """
    datagrams = pipe.mode is Mode.DATAGRAM
    far = PipeEnd(pipe, linger)
    near = StdioEnd(output, CHUNK if pipe.largest is None else min(DATAGRAM, pipe.largest))
    final: list[End] = []
    if datagrams or near.interactive:
        final.append(far)
    if datagrams and linger:
        final.append(near)
    await join(near, far, final)
