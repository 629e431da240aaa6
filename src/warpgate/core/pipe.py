"""Pipes: the authenticated, chosen link in the user's hands; and those that carry datagrams.

A `DatagramPipe` shares the node's UDP socket; only STUN that verifies under its session is kept back.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from warpgate.core.hub import CheckSession, Port, UdpHub
from warpgate.core.subscription import SUB_ALL, Subscription
from warpgate.errors import ConfigError, NetworkError, PipeClosed
from warpgate.events import PluginReport
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.proto.check import CheckEvent, CheckingEnded

# RFC 8085 section 3.2: without path MTU discovery stay below the smallest that IPv6 guarantees; but a user who knows
# the path may send whatever fits a UDP datagram.
LARGEST_DATAGRAM = 65507
# Two flights, which a path of a second with losses repeats twice or so.
TLS_PATIENCE = 10.0
ABORTED = "aborted on this side"


@dataclass(frozen=True, slots=True)
class PipeInfo:
    """How a pipe came about. `seconds` from the start of the attempt to usable."""

    session: bytes
    peer: str
    plugin: str
    transport: Transport
    local: Endpoint
    remote: Endpoint
    relayed: bool
    seconds: float
    report: tuple[PluginReport, ...] = field(default=(), compare=False)


class Pipe(ABC):
    """A connected channel between two nodes; whoever is at the other end has proved to be `peer`."""

    mode: Mode

    def __init__(self, info: PipeInfo, on_end: Callable[[Pipe, str], None]) -> None:
        self._info = info
        self._on_end = on_end
        self._end: str | None = None

    @property
    def peer(self) -> str:
        """The other side's node id."""
        return self._info.peer

    @property
    def plugin(self) -> str:
        """The strategy that won."""
        return self._info.plugin

    @property
    def transport(self) -> Transport:
        return self._info.transport

    @property
    def relayed(self) -> bool:
        """Whether the data takes the way over a relay."""
        return self._info.relayed

    @property
    def local(self) -> Endpoint:
        return self._info.local

    @property
    def remote(self) -> Endpoint:
        return self._info.remote

    @property
    def seconds(self) -> float:
        """From the start of the attempt until the pipe could be used (on the accepting side: from its first sign)."""
        return self._info.seconds

    @property
    def report(self) -> tuple[PluginReport, ...]:
        """What each strategy did (initiating side)."""
        return self._info.report

    @property
    def session(self) -> bytes:
        """16 bytes, the same on both sides, chosen by the initiator."""
        return self._info.session

    @property
    def secure(self) -> bool:
        """Whether the bytes travel encrypted and authenticated: QUIC, or TLS on TCP."""
        return False

    @property
    def closed(self) -> bool:
        return self._end is not None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {self.plugin} {self.local} -> {self.remote} peer {self.peer} {state}>"

    async def __aenter__(self) -> Pipe:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks (or datagrams) until the end of the stream; a datagram pipe that the peer closed just ends."""
        while True:
            try:
                data = await self.recv()
            except PipeClosed:
                if self.mode is Mode.DATAGRAM and self._end is not None:
                    return
                raise
            if not data and self.mode is Mode.STREAM:
                return
            yield data

    @abstractmethod
    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Returns when the kernel has taken it. PipeClosed when the pipe is over."""

    @abstractmethod
    async def recv(self, sub: Subscription = SUB_ALL, timeout: float | None = None) -> bytes:
        """The next bytes (b"" at end of stream) or datagram. PipeClosed; TimeoutError after `timeout` seconds."""

    @abstractmethod
    async def recv_n(self, count: int) -> bytes:
        """Exactly `count` bytes of a stream; PipeClosed when it ends before (what came stays readable by `recv`)."""

    @abstractmethod
    async def start_tls(self, timeout: float = TLS_PATIENCE) -> None:
        """Go on in TLS 1.3, both ends pinned to their node keys; at once where the pipe is `secure` already.

        Both sides call it at the same point of their conversation, as with asyncio's `start_tls`: nothing else sends or
        receives meanwhile, and whoever said what made them start says no more in clear. AuthenticationError (another
        node's certificate), ProtocolError (not our TLS), PipeClosed (ended, reset, or nothing for `timeout` seconds):
        the pipe is closed then, and nothing of what came is given out. ConfigError on a datagram pipe.
        """

    @abstractmethod
    def write_eof(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on (streams only)."""

    @abstractmethod
    async def close(self) -> None:
        """Close in an orderly way; idempotent."""

    @abstractmethod
    def abort(self, reason: str = ABORTED) -> None:
        """Drop at once, synchronously; idempotent. `reason`: what PipeClosed says from then on."""

    @abstractmethod
    def detach(self) -> socket.socket:
        """Hand over the non-blocking, connected OS socket; the pipe is closed to this object afterwards."""

    def check_stall(self, limit: float) -> None:
        """Called now and then: end the pipe when the peer has not acknowledged our data for `limit` seconds.

        Pipes over UDP have consent for that.
        """
        return

    def _finish(self, reason: str) -> bool:
        """Record the end; False when it had ended before."""
        if self._end is not None:
            return False
        self._end = reason
        self._on_end(self, reason)
        return True

    def _check_open(self) -> None:
        if self._end is not None:
            raise PipeClosed(self._end)


class DatagramPipe(Pipe):
    """UDP as it is: datagrams may be lost, doubled or reordered; none is cut or merged."""

    mode = Mode.DATAGRAM

    def __init__(
        self,
        info: PipeInfo,
        hub: UdpHub,
        port: Port,
        checks: CheckSession,
        queue_limit: int,
        on_end: Callable[[Pipe, str], None],
        own_port: bool = False,
    ) -> None:
        """`own_port`: the socket was opened for this pipe alone and goes with it."""
        super().__init__(info, on_end)
        self._own_port = own_port
        self.dropped = 0  # datagrams lost because nobody received them fast enough
        self._hub = hub
        self._port = port
        self._checks = checks
        self._target = info.remote.sockaddr
        self._limit = queue_limit
        self._queue: deque[bytes] = deque(checks.early)
        self._waiters: set[asyncio.Future[None]] = set()
        checks.early.clear()
        checks.disown(keep=info.remote)
        port.expecting.pop(self._target, None)
        port.flows[self._target] = self._deliver

    def _deliver(self, data: bytes) -> None:
        self._checks.agent.note_traffic()
        if len(self._queue) >= self._limit:
            self.dropped += 1
            return
        self._queue.append(data)
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """ConfigError for more than 65,507 bytes; more than about 1,200 may not pass every path."""
        if self._end is not None:
            raise PipeClosed(self._end)
        payload = data if isinstance(data, bytes) else bytes(data)
        if len(payload) > LARGEST_DATAGRAM:
            raise ConfigError(f"{len(payload)} bytes do not fit a UDP datagram ({LARGEST_DATAGRAM} at most)")
        if self._port.socket.send(payload, self._target):
            return
        try:
            await self._port.socket.writable()
        except NetworkError as error:
            raise PipeClosed(str(error)) from error
        self._port.socket.send(payload, self._target)  # refused again for another reason: lost, as UDP may

    async def recv(self, sub: Subscription = SUB_ALL, timeout: float | None = None) -> bytes:
        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.recv(sub)
        while True:
            if self._queue and (data := self._pick(sub)) is not None:
                return data
            self._check_open()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:  # a receive that timed out leaves nothing behind, however often it is tried
                self._waiters.discard(waiter)

    def _pick(self, sub: Subscription) -> bytes | None:
        if sub.takes_all:
            return self._queue.popleft()
        if sub.sender is not None and sub.sender != self.remote:
            return None
        pattern = sub.pattern
        for index, data in enumerate(self._queue):
            if pattern is None or pattern.search(data):
                del self._queue[index]
                return data
        return None

    async def recv_n(self, count: int) -> bytes:
        raise ConfigError("recv_n counts bytes of a stream; this pipe carries datagrams")

    async def start_tls(self, timeout: float = TLS_PATIENCE) -> None:
        raise ConfigError("TLS needs a stream; this pipe carries datagrams")

    def write_eof(self) -> None:
        raise ConfigError("a datagram pipe has no end of stream; close it")

    def check_event(self, event: CheckEvent) -> None:
        """Fed by the session: the peer closed, or consent was lost."""
        if isinstance(event, CheckingEnded):
            self._drop()
            self._finish(event.reason)
            self._release()

    async def close(self) -> None:
        """The peer is told, again until it has answered (in the background, at most 2 s)."""
        if self._finish("closed on this side"):
            self._drop()
            self._checks.close()

    def abort(self, reason: str = ABORTED) -> None:
        if self._finish(reason):
            self._drop()
            self._release()

    def detach(self) -> socket.socket:
        """The new socket gets this flow alone. Consent checks stop on this side: detach both, or keep sending."""
        self._check_open()
        sock = self._port.socket.detach(self.remote)
        self._drop()
        self._release()
        self._finish("handed over by detach()")
        return sock

    def _drop(self) -> None:
        self._port.flows.pop(self._target, None)
        self._wake()

    def _release(self) -> None:
        self._hub.forget(self._checks)
        if self._own_port:
            self._hub.close_port(self._port.base)
