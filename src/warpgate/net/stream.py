"""Stream sockets of the kernel, whatever their family: reading, writing and ending them, and accepting them.

Every operation tries the system call first and waits for readiness only when the kernel has nothing: on a
busy connection that is one call and no turn of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from warpgate.errors import NetworkError
from warpgate.net.sockets import IMMEDIATE_BEFORE_YIELD, Readiness, network_error, reset_and_close
from warpgate.platform.readiness import watch_of

# One allocation per recv, whatever the caller's limit: beyond this the allocator maps and unmaps pages on
# every call, and loopback throughput falls instead of rising.
LARGEST_RECV = 256 * 1024

BACKLOG = 256
ACCEPTS_PER_WAKE_UP = 32

# Out of descriptors or memory: the connection stays in the backlog and the listening socket stays readable,
# so accepting again at once would be a busy loop.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE = 0.1


class SocketStream:
    """A connected socket. One task may receive and one may send at a time; a second one gets RuntimeError.

    A cancelled `recv` loses nothing; a cancelled `send` may have sent a part. `peer` is for messages.
    """

    def __init__(self, sock: socket.socket, peer: object) -> None:
        """Takes over a connected, non-blocking socket."""
        loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = sock
        self._peer = peer
        self._readable = Readiness.to_read(loop, sock)
        self._writable = Readiness.to_write(loop, sock)
        self._receiving = False
        self._sending = False
        self._immediate = 0
        self._end = "closed on this side"

    async def recv(self, limit: int) -> bytes:
        if limit <= 0:
            raise ValueError(f"cannot receive {limit} bytes")
        if self._receiving:
            raise RuntimeError(f"two tasks receive from {self._peer} at once")
        self._receiving = True
        try:
            if self._owes_a_turn():
                await asyncio.sleep(0)
            while True:
                try:
                    return self._usable().recv(min(limit, LARGEST_RECV))
                except BlockingIOError:
                    self._immediate = 0
                    await self._readable.wait()
                except OSError as error:
                    raise network_error(f"receive from {self._peer}", error) from error
        finally:
            self._receiving = False

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise RuntimeError(f"two tasks send to {self._peer} at once")
        self._sending = True
        try:
            if self._owes_a_turn():
                await asyncio.sleep(0)
            await self._send_all(data)
        finally:
            self._sending = False

    async def _send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._usable()
        rest = data.cast("B") if isinstance(data, memoryview) else data
        failure: OSError | None = None

        def push() -> bool:
            """False while the kernel's buffer is full and there is more to come."""
            nonlocal rest, failure
            try:
                sent = self._usable().send(rest)
            except BlockingIOError:
                return False
            except OSError as error:
                failure = error.with_traceback(None)  # it would hold this frame, which holds it
                return True
            except NetworkError:  # closed meanwhile
                return True
            rest = memoryview(rest)[sent:]
            return not rest

        if not push():
            # The loop's callback goes on pushing: waking this task for every part costs 30 % on large chunks.
            self._immediate = 0
            await self._writable.wait(push)
        if failure is not None:
            raise network_error(f"send to {self._peer}", failure) from failure
        if rest:
            self._usable()

    def write_eof(self) -> None:
        try:
            self._usable().shutdown(socket.SHUT_WR)
        except OSError as error:
            raise network_error(f"end the stream to {self._peer}", error) from error

    def abort(self) -> None:
        sock = self._release("aborted on this side")
        if sock is not None:
            reset_and_close(sock)

    def close(self) -> None:
        """The kernel still delivers what was sent. Received bytes nobody read turn the FIN into RST (RFC
        1122, 4.2.2.13).
        """
        sock = self._release("closed on this side")
        if sock is not None:
            sock.close()

    def _release(self, end: str) -> socket.socket | None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._end = end
            self._readable.wake()
            self._writable.wake()
        return sock

    def _usable(self) -> socket.socket:
        if self._sock is None:
            raise NetworkError(f"the connection to {self._peer} was {self._end}")
        return self._sock

    def _owes_a_turn(self) -> bool:
        self._immediate += 1
        if self._immediate <= IMMEDIATE_BEFORE_YIELD:
            return False
        self._immediate = 0
        return True


S = TypeVar("S", bound=SocketStream)


class SocketListener(Generic[S]):
    """Accepts until closed, and hands each connection over in the same turn of the loop.

    `connected` makes a stream of what was accepted and its address; OSError when that is gone already.
    """

    def __init__(
        self, sock: socket.socket, connected: Callable[[socket.socket, Any], S], acceptor: Callable[[S], None]
    ) -> None:
        """Takes over a listening, non-blocking socket."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._connected = connected
        self._acceptor = acceptor
        self._open = True
        self._pause: asyncio.TimerHandle | None = None
        self._watch = watch_of(self._loop)
        self._watch.add_reader(sock.fileno(), self._accept_waiting)

    def _accept_waiting(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE_UP):
            try:
                sock, remote = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._watch.remove_reader(self._sock.fileno())
                    self._pause = self._loop.call_later(ACCEPT_PAUSE, self._resume)
                    return
                continue  # that connection died in the backlog (accept(2): treat such errors like EAGAIN)
            self._hand_over(sock, remote)
            if not self._open:
                return

    def _hand_over(self, sock: socket.socket, remote: Any) -> None:
        try:
            stream = self._connected(sock, remote)
        except OSError:  # reset by the peer before we looked
            sock.close()
            return
        try:
            self._acceptor(stream)
        except BaseException:
            stream.abort()
            raise

    def _resume(self) -> None:
        self._pause = None
        self._watch.add_reader(self._sock.fileno(), self._accept_waiting)

    def close(self) -> None:
        """Idempotent. Connections still in the backlog are reset by the kernel, accepted ones live on."""
        if not self._open:
            return
        self._open = False
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._watch.remove_reader(self._sock.fileno())
        self._sock.close()
