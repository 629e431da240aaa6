"""The two calls most programs need."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from warpgate.core.node import Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.streams import open_streams
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Mode, Transport

# asyncio's own default for open_connection.
READ_LIMIT = 64 * 1024


async def auto_connect(
    node: Node,
    dest: bytes | str | NodeAddress,
    mode: Mode = Mode.STREAM,
    transport: Transport | None = None,
    *,
    plugins: Sequence[str] | None = None,
    timeout: float | None = None,
    secure: bool = False,
) -> tuple[Pipe, str]:
    """The pipe to `dest` (address bytes, text or nickname) and the name of the strategy that won.

    Arguments and errors as for `Node.connect`.
    """
    pipe = await node.connect(
        dest, mode=mode, transport=transport, plugins=plugins, timeout=timeout, secure=secure
    )
    return pipe, pipe.plugin


async def open_connection(
    node: Node, dest: bytes | str | NodeAddress, *, timeout: float | None = None, secure: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Like `asyncio.open_connection`, but to a node: a stream reader and writer on the punched socket, QUIC or TLS."""
    pipe = await node.connect(dest, timeout=timeout, secure=secure)
    if pipe.secure:  # QUIC or TLS: what the socket carries is not what the user reads
        return open_streams(pipe, READ_LIMIT)
    sock = pipe.detach()
    try:
        return await asyncio.open_connection(sock=sock, limit=READ_LIMIT)
    except BaseException:
        sock.close()
        raise
