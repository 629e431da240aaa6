"""What UDP and TCP sockets share: waiting for a descriptor without losing track of it, readable errors."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Family

# An operation that finds its data ready never suspends, so a peer that is always faster than we are would
# starve every other task of the loop. One pause in 64 costs 2 % on a saturated loopback connection.
IMMEDIATE_BEFORE_YIELD = 64

# Level, hop limit, least hop limit (ip(7), ipv6(7) and linux/in.h, in6.h: the last ones have no name in Python).
_HOP_OPTIONS = {
    Family.V4: (socket.IPPROTO_IP, socket.IP_TTL, 21),
    Family.V6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 73),
}


def address_family(family: Family) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if family is Family.V6 else socket.AF_INET


@contextmanager
def hops_limited(sock: socket.socket, family: Family, ttl: int | None) -> Iterator[None]:
    """What is sent inside goes `ttl` hops far, and ICMP errors about it are ignored.

    Linux compares the hop limit in what an ICMP error quotes with IP_MINTTL (RFC 5082), as in segments that arrive.
    """
    if ttl is None or sys.platform != "linux":
        yield
        return
    level, limit, least = _HOP_OPTIONS[family]
    usual = sock.getsockopt(level, limit)
    sock.setsockopt(level, least, ttl)
    sock.setsockopt(level, limit, ttl)
    yield
    sock.setsockopt(level, limit, usual)


def network_error(doing: str, error: OSError) -> NetworkError:
    """`doing` names the operation and the endpoint; raise the result `from error`, which keeps the errno."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        reason = error.strerror or str(error)
    else:
        reason = os.strerror(error.errno)
    return NetworkError(f"{doing}: {reason[:1].lower()}{reason[1:]}")


def reset_and_close(sock: socket.socket) -> None:
    """Close with RST where there is a connection (SO_LINGER 0: RFC 9293 section 3.10.5), silently where there
    is none.
    """
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
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
        return cls(loop, sock.fileno(), loop.add_reader, loop.remove_reader)

    @classmethod
    def to_write(cls, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Readiness:
        return cls(loop, sock.fileno(), loop.add_writer, loop.remove_writer)

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
