"""What UDP and TCP sockets share: waiting for a descriptor without losing track of it, readable errors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Family
from warpgate.platform import SOCKETS
from warpgate.platform.readiness import watch_of

# An operation that finds its data ready never suspends, so a peer that is always faster than we are would
# starve every other task of the loop. One pause in 64 costs 2 % on a saturated loopback connection.
IMMEDIATE_BEFORE_YIELD = 64


def address_family(family: Family) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if family is Family.V6 else socket.AF_INET


def network_error(doing: str, error: OSError) -> NetworkError:
    """`doing` names the operation and the endpoint; raise the result `from error`, which keeps the errno."""
    reason = SOCKETS.reason(error)
    return NetworkError(f"{doing}: {reason[:1].lower()}{reason[1:]}")


def reset_and_close(sock: socket.socket) -> None:
    """Close with RST where there is a connection, silently where there is none."""
    SOCKETS.reset_on_close(sock)
    sock.close()


def _nothing_to_try() -> bool:
    return True


class Readiness:
    """Tasks waiting for one direction of one descriptor.

    The descriptor is watched only while somebody waits, so a socket nobody reads costs nothing and nothing is
    left registered behind. Waking is a hint: who wakes tries the system call again and waits again if need
    be.
    """

    __slots__ = ("_fd", "_loop", "_unwatch", "_waiters", "_watch")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        watch: Callable[[int, Callable[[], None]], object],
        unwatch: Callable[[int], object],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._watch = watch
        self._unwatch = unwatch
        self._waiters: list[tuple[asyncio.Future[None], Callable[[], bool]]] = []

    @classmethod
    def to_read(cls, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Readiness:
        watch = watch_of(loop)
        return cls(loop, sock.fileno(), watch.add_reader, watch.remove_reader)

    @classmethod
    def to_write(cls, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Readiness:
        watch = watch_of(loop)
        return cls(loop, sock.fileno(), watch.add_writer, watch.remove_writer)

    async def wait(self, attempt: Callable[[], bool] = _nothing_to_try) -> None:
        """Until the descriptor is ready and `attempt`, called from the loop each time it is, returns True.

        `attempt` must not raise. `wake` counts as ready.
        """
        if not self._waiters:
            self._watch(self._fd, self.wake)
        entry = (self._loop.create_future(), attempt)
        self._waiters.append(entry)
        try:
            await entry[0]
        finally:
            if entry in self._waiters:  # cancelled before it was done
                self._waiters.remove(entry)
                if not self._waiters:
                    self._unwatch(self._fd)

    def wake(self) -> None:
        """Let every waiter try; owners call it, marked as closed, before they close the descriptor."""
        if not self._waiters:
            return
        still_waiting = []
        for waiter, attempt in self._waiters:
            if waiter.done():
                continue
            if attempt():
                waiter.set_result(None)
            else:
                still_waiting.append((waiter, attempt))
        self._waiters = still_waiting
        if not still_waiting:
            self._unwatch(self._fd)
