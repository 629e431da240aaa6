"""Sockets for programs without an event loop: scripts, web frameworks, GUIs, other libraries.

    with sync.Node() as node, node.connect(dest) as sock:
        sock.sendall(b"hello world")
        data = sock.recv(1024)

A `Node` here is a `warpgate.Node` on an event loop in a thread of its own; its methods block, and may be called from
any thread. What it gives out are real sockets. A TCP stream in clear is the punched socket itself. For what is
encrypted (QUIC, TLS, durable pipes) the caller has one end of a pair, and a task on the loop, a `_Carrier`, joins the
other end to the pipe: so `select`, `ssl`, `http.client`, child processes and GUI toolkits can use either.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from warpgate.config import Config
from warpgate.core import node as core
from warpgate.core.names.destination import Destination
from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConfigError, PipeClosed
from warpgate.events import Observer
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Mode, Transport
from warpgate.model.identity import Identity

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Result = TypeVar("Result")

CHUNK = 65_536
# The end of what is sent and the close of the socket look the same at our end of a pair; how often it is looked again.
LOOK_AGAIN = 0.5
# What a closed socket had sent goes on to the peer while the node closes; a pipe gives up after 5 s without progress.
LINGER = 10.0
ENDING = 1.0  # for those who wait when the node is closed to be told so
THREADS_AT_ONCE = 256  # of `serve`: one for each pipe
WANTED = {
    Mode.STREAM: "this program takes streams, the peer opened a datagram pipe",
    Mode.DATAGRAM: "this program takes datagrams, the peer opened a stream",
}


def _wanted(pipe: Pipe, mode: Mode) -> bool:
    """Whether it is of this kind; one of the other is turned away."""
    if pipe.mode is not mode:
        pipe.abort(WANTED[mode])
    return pipe.mode is mode


class Socket(socket.socket):
    """A stream to the node `peer`, as a blocking socket with all that sockets have.

    b"" from `recv` is the peer's orderly end; where the stream broke off it is a ConnectionResetError.
    """

    def __init__(self, sock: socket.socket, pipe: Pipe, ending: _Ending) -> None:
        """Takes the place of `sock`."""
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.setblocking(True)
        self.peer = pipe.peer
        self.plugin = pipe.plugin
        self.service = pipe.service
        self.secure = pipe.secure
        self._ending = ending

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        data = super().recv(bufsize, flags)
        if not data and bufsize:
            self._ending.check()
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """`makefile` reads by it, too."""
        count = super().recv_into(buffer, nbytes, flags)
        if not count and memoryview(buffer).nbytes:
            self._ending.check()
        return count


class Datagrams:
    """A datagram pipe to the node `peer`: whole messages, of which some may be lost. For threads; not a socket."""

    def __init__(self, pipe: Pipe, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.peer = pipe.peer
        self.plugin = pipe.plugin
        self.service = pipe.service
        self._pipe = pipe
        self._wait = wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """PipeClosed; ConfigError for one that is too large."""
        self._wait(self._pipe.send(data))

    def recv(self, timeout: float | None = None) -> bytes:
        """The next one. TimeoutError after `timeout` seconds; PipeClosed when the peer has closed, or the node."""
        data: bytes = self._wait(self._pipe.recv(timeout=timeout))
        return data

    def close(self) -> None:
        """Idempotent."""
        with contextlib.suppress(ConfigError):  # closed with its node
            self._wait(self._pipe.close())


class _Ending:
    """Why the stream of a pair broke off: set on the loop before its end is closed, read by whoever sees that."""

    reason: str | None = None

    def check(self) -> None:
        if self.reason is not None:
            raise ConnectionResetError(self.reason)


class _Carrier:
    """Joins `near`, our end of the pair, and the pipe, until both directions have ended or the caller has closed."""

    def __init__(self, pipe: Pipe, near: socket.socket, ending: _Ending) -> None:
        self.pipe = pipe
        self._near = near
        self._ending = ending
        self._peer_ended = False
        near.setblocking(False)

    def abandoned(self) -> bool:
        """Whether the caller has closed its end, not only ended what it sends. Sending nothing tells it."""
        try:
            self._near.send(b"")
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    async def run(self) -> None:
        there, back = (asyncio.ensure_future(work()) for work in (self._there, self._back))
        try:
            await self._until_over(there, back)
            await self.pipe.close()
        except PipeClosed as error:
            self._break(str(error))
        except BaseException:
            self._break("the node was closed")
            raise
        finally:
            for each in (there, back):
                each.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            self._near.close()

    async def _until_over(self, there: asyncio.Future[None], back: asyncio.Future[None]) -> None:
        await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        if back.done():
            back.result()
            await there
            return
        there.result()
        while not back.done() and not self.abandoned():
            await asyncio.wait((back,), timeout=LOOK_AGAIN)
        if back.done():
            back.result()

    def _break(self, reason: str) -> None:
        if not self._peer_ended:
            self._ending.reason = reason
        self.pipe.abort()

    async def _there(self) -> None:
        while data := await self._said():
            await self.pipe.send(data)
        try:
            self.pipe.write_eof()
        except PipeClosed:
            if not self._peer_ended:  # who has said everything and gone need not hear that we have, too
                raise

    async def _said(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._near, CHUNK)
        except OSError:  # closed before it was read to the end
            return b""

    async def _back(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await self.pipe.recv():
                await loop.sock_sendall(self._near, data)
            self._peer_ended = True
            self._near.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the caller has closed its end: what it sent before still goes


class Node:
    """Starts when it is made; use it in `with`, or call `close`. One for a program is enough.

    Not to be shared by processes: make one in each, after the fork.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        identity: Identity | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Arguments and errors as for `warpgate.Node` and its `start`; `observer` is called in the node's thread."""
        self._node = core.Node(config, identity=identity, observer=observer)
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="warpgate", daemon=True)
        self._carried: dict[asyncio.Task[None], _Carrier] = {}
        self._threads = 0
        self._closing = threading.Lock()
        self._closed = False
        self._thread.start()
        try:
            self._wait(self._node.start())
        except BaseException:
            self._stop()
            raise
        atexit.register(self.close)  # a daemon's thread would be cut off with what closed sockets had sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset what is open, after what closed sockets had sent is with their peers (10 s at most). Idempotent."""
        with self._closing:
            if self._closed or os.getpid() != self._process:
                return
            self._wait(self._end())
            self._stop()
        atexit.unregister(self.close)

    @property
    def node_id(self) -> str:
        return self._node.node_id

    @property
    def address(self) -> NodeAddress:
        """What peers need, as good as it is known now."""
        return self._node.address

    def connect(
        self,
        dest: Destination,
        *,
        transport: Transport | str | None = None,
        **options: Unpack[core.ConnectOptions],
    ) -> Socket:
        """A stream to the node that `dest` names. Arguments and errors as for `warpgate.Node.connect`."""

        async def connected() -> Socket:
            return self._socket(await self._node.connect(dest, transport=transport, **options))

        return self._wait(connected())

    def connect_datagrams(
        self,
        dest: Destination,
        *,
        service: str = "",
        plugins: Sequence[str] | None = None,
        timeout: float | None = None,
        durable: bool | None = None,
    ) -> Datagrams:
        """A datagram pipe to the node that `dest` names. Arguments and errors as for `warpgate.Node.connect`."""
        work = self._node.connect(
            dest, mode=Mode.DATAGRAM, service=service, plugins=plugins, timeout=timeout, durable=durable
        )
        return Datagrams(self._wait(work), self._wait)

    def accept(self, timeout: float | None = None) -> Socket:
        """The next stream that a peer opens; `peer` of the socket tells whose. Datagram pipes are turned away.

        TimeoutError; PipeClosed when the node is closed meanwhile; IdentityInUse.
        """

        async def accepted() -> Socket:
            async with asyncio.timeout(timeout):
                while True:
                    if (sock := self._taken(await self._node.accept())) is not None:
                        return sock

        return self._wait(accepted())

    def accept_datagrams(self, timeout: float | None = None) -> Datagrams:
        """The next datagram pipe that a peer opens; streams are turned away. Errors as of `accept`."""

        async def accepted() -> Pipe:
            async with asyncio.timeout(timeout):
                while not _wanted(pipe := await self._node.accept(), Mode.DATAGRAM):
                    pass
                return pipe

        return Datagrams(self._wait(accepted()), self._wait)

    def serve(self, service: str, handler: Callable[[Socket], object]) -> None:
        """Offer a service: `handler(sock)` in a thread of its own for each peer, 256 at once; closed when it returns.

        As `warpgate.Node.serve`; streams alone.
        """

        async def take(pipe: Pipe) -> None:
            if self._threads >= THREADS_AT_ONCE:
                pipe.abort(f"{self._threads} peers are served already")
            elif (sock := self._taken(pipe)) is not None:
                self._threads += 1
                threading.Thread(target=handled, args=(sock,), daemon=True).start()
                await asyncio.gather(*(task for task, each in self._carried.items() if each.pipe is pipe))

        def handled(sock: Socket) -> None:
            try:
                with sock:
                    handler(sock)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._thread_ended)

        async def serve() -> None:
            self._node.serve(service, take)

        self._wait(serve())

    def nickname(self, name: str) -> tuple[str, ...]:
        """As `warpgate.Node.nickname`."""
        return self._wait(self._node.nickname(name))

    # -- on the loop ---------------------------------------------------------------------------------------------

    def _taken(self, pipe: Pipe) -> Socket | None:
        """None when it is not to be had: no stream, or gone again."""
        try:
            return self._socket(pipe) if _wanted(pipe, Mode.STREAM) else None
        except PipeClosed:
            return None

    def _socket(self, pipe: Pipe) -> Socket:
        ending = _Ending()
        if not pipe.secure:
            return Socket(pipe.detach(), pipe, ending)
        near, far = socket.socketpair()
        carrier = _Carrier(pipe, near, ending)
        task = asyncio.ensure_future(carrier.run())
        self._carried[task] = carrier
        task.add_done_callback(self._carried.pop)
        return Socket(far, pipe, ending)

    def _thread_ended(self) -> None:
        self._threads -= 1

    async def _end(self) -> None:
        for task, carrier in self._carried.items():
            if not carrier.abandoned():
                task.cancel()
        if self._carried:
            await asyncio.wait(self._carried, timeout=LINGER)
        await self._node.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}  # also what other threads wait for
        if rest:
            _, rest = await asyncio.wait(rest, timeout=ENDING)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # -- between threads -----------------------------------------------------------------------------------------

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            self._check_caller()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise PipeClosed("the node was closed") from None
        except BaseException:
            future.cancel()  # Ctrl-C, while it goes on
            raise

    def _check_caller(self) -> None:
        if os.getpid() != self._process:
            raise ConfigError("this node was made before a fork: make one in each process")
        if self._closed:
            raise ConfigError("the node is closed")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise ConfigError("warpgate.sync would block the event loop that runs here: use warpgate.Node in it")

    def _close_with_stream(self) -> None:
        """Now, if its only stream is a socket of its own; else when that has ended."""

        def over(_: asyncio.Task[None]) -> None:
            if not self._closing.locked():
                threading.Thread(target=self.close).start()

        carried = list(self._carried)
        if not carried:
            self.close()
        for task in carried:
            self._loop.call_soon_threadsafe(task.add_done_callback, over)

    def _stop(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def connect(
    dest: Destination,
    *,
    config: Config | None = None,
    transport: Transport | str | None = None,
    **options: Unpack[core.ConnectOptions],
) -> Socket:
    """One stream, by a node of its own, which ends with it; more than one are quicker by one `Node`.

    Arguments and errors as for `warpgate.Node` and its `connect`.
    """
    node = Node(replace(Config() if config is None else config, accept=False))
    try:
        sock = node.connect(dest, transport=transport, **options)
    except BaseException:
        node.close()
        raise
    node._close_with_stream()
    return sock
