"""The calls most programs need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Literal, Self, Unpack, overload

from warpgate.core.names.destination import Destination
from warpgate.core.node import ConnectOptions, Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.datagrams import DatagramPipe
from warpgate.core.pipes.streams import READ_LIMIT
from warpgate.errors import ConfigError, PipeClosed
from warpgate.model.endpoint import Mode, Transport

StreamHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


@overload
async def auto_connect(
    node: Node,
    dest: Destination,
    mode: Literal[Mode.DATAGRAM, "datagram"],
    transport: Transport | str | None = None,
    **options: Unpack[ConnectOptions],
) -> tuple[DatagramPipe, str]: ...


@overload
async def auto_connect(
    node: Node,
    dest: Destination,
    mode: Mode | str = Mode.STREAM,
    transport: Transport | str | None = None,
    **options: Unpack[ConnectOptions],
) -> tuple[Pipe, str]: ...


async def auto_connect(
    node: Node,
    dest: Destination,
    mode: Mode | str = Mode.STREAM,
    transport: Transport | str | None = None,
    **options: Unpack[ConnectOptions],
) -> tuple[Pipe, str]:
    """The pipe to `dest` (address bytes, text or nickname) and the name of the strategy that won.

    Arguments and errors as for `Node.connect`.
    """
    pipe = await node.connect(dest, mode=mode, transport=transport, **options)
    return pipe, pipe.plugin


async def open_connection(
    node: Node, dest: Destination, **options: Unpack[ConnectOptions]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Like `asyncio.open_connection`, but to a node: a stream reader and writer on the punched socket, QUIC or TLS.

    Arguments and errors as for `Node.connect`.
    """
    pipe = await node.connect(dest, **options)
    if pipe.secure:  # QUIC or TLS: what the socket carries is not what the user reads
        return pipe.open_streams()
    sock = pipe.detach()
    try:
        return await asyncio.open_connection(sock=sock, limit=READ_LIMIT)
    except BaseException:
        sock.close()
        raise


async def start_server(node: Node, callback: StreamHandler, *, service: str = "", limit: int = READ_LIMIT) -> Server:
    """Like `asyncio.start_server`, but on a node: `callback(reader, writer)` for each stream that a peer opens, TCP or
    QUIC; `writer.get_extra_info("pipe")` tells who it is (`pipe.peer`).

    `service`: those that peers open with `connect(..., service=...)`; without one it takes what `node.accept()` would.
    Peers that open datagram pipes are turned away. ConfigError when the node does not run, and as `Node.serve`.
    """
    if not callable(callback):
        raise ConfigError(f"start_server calls callback(reader, writer), and {callback!r} cannot be called")
    return Server(node, callback, service, limit)


class Server:
    """What `start_server` returns; `async with` ends it. Streams that are open outlive `close`, not the node."""

    def __init__(self, node: Node, callback: StreamHandler, service: str, limit: int) -> None:
        self._callback = callback
        self._limit = limit
        self._handlers: set[asyncio.Task[None]] = set()
        if service:
            accepting: Coroutine[None, None, None] = node.wait_closed()
        else:
            accepting = self._accept(node.pipes())
        self._accepting = asyncio.ensure_future(accepting)
        if service:
            self._offer(node, service)

    def _offer(self, node: Node, service: str) -> None:
        try:
            node.serve(service, self._take)
        except ConfigError:
            self.close()
            raise
        self._accepting.add_done_callback(lambda _: node.withdraw(service))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def is_serving(self) -> bool:
        return not self._accepting.done()

    def close(self) -> None:
        """Take no more; idempotent."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Returns when no more are taken, and every callback has returned."""
        await asyncio.wait([self._accepting])
        while self._handlers:
            await asyncio.wait(self._handlers)

    async def serve_forever(self) -> None:
        """Returns when the node is closed; cancelling it closes the server."""
        try:
            await self._accepting
        finally:
            self.close()

    async def _accept(self, pipes: AsyncIterator[Pipe]) -> None:
        async for pipe in pipes:
            self._serve(pipe)

    async def _take(self, pipe: Pipe) -> None:
        """A handler has its pipe until it returns, a callback its streams until it has closed them."""
        if (writer := self._serve(pipe)) is not None:
            with contextlib.suppress(OSError, PipeClosed):  # the callback has heard of that
                await writer.wait_closed()

    def _serve(self, pipe: Pipe) -> asyncio.StreamWriter | None:
        if pipe.mode is Mode.DATAGRAM:
            pipe.abort("this server takes streams, the peer opened a datagram pipe")
            return None
        try:
            reader, writer = pipe.open_streams(self._limit)
        except PipeClosed:  # the peer has gone again
            return None
        task = asyncio.ensure_future(self._handle(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        return writer

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if (waiting := self._callback(reader, writer)) is not None:
                await waiting
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything; the other streams go on
            writer.transport.abort()
            asyncio.get_running_loop().call_exception_handler(
                {"message": "unhandled exception in a callback of start_server", "exception": error}
            )
