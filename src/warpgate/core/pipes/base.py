"""What every pipe is: the authenticated, chosen link in the user's hands."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import field
from typing import Self

from warpgate.core.pipes.streams import READ_LIMIT, streams_over
from warpgate.core.pipes.subscription import SUB_ALL, Subscription
from warpgate.errors import ConfigError, PipeClosed
from warpgate.events import PluginReport
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Mode, Transport

# Two flights, which a path of a second with losses repeats twice or so.
TLS_PATIENCE = 10.0
ABORTED = "aborted on this side"


def bytes_like(data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """What `send` was given; ConfigError when it is text or anything else that is no bytes."""
    if isinstance(data, bytes | bytearray | memoryview):
        return data
    hint = ": encode the text first" if isinstance(data, str) else ""
    raise ConfigError(f"send takes bytes, not {type(data).__name__}{hint}")


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
    service: str = ""


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
    def service(self) -> str:
        """Which of the services of the accepting side it is for; "" for the one without a name."""
        return self._info.service

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
    def durable(self) -> bool:
        """Whether it outlives the path it began on."""
        return False

    @property
    def largest(self) -> int | None:
        """Bytes of the longest datagram that `send` takes; None: a stream takes any."""
        return None

    @property
    def closed(self) -> bool:
        return self._end is not None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {self.plugin} {self.local} -> {self.remote} peer {self.peer} {state}>"

    async def __aenter__(self) -> Self:
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
    async def recv(self, sub: Subscription | int = SUB_ALL, timeout: float | None = None) -> bytes:
        """The next bytes (b"" at end of stream) or datagram. PipeClosed; TimeoutError after `timeout` seconds.

        `sub`: a filter, or as with sockets how many bytes at most.
        """

    @abstractmethod
    async def recv_n(self, count: int) -> bytes:
        """Exactly `count` bytes of a stream; PipeClosed when it ends before (what came stays readable by `recv`)."""

    def open_streams(self, limit: int = READ_LIMIT) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """asyncio's reader and writer over this pipe, TCP or QUIC, which is theirs from now on.

        `limit` as for `asyncio.open_connection`; `writer.get_extra_info("pipe")` is this pipe. ConfigError on a
        datagram pipe, and where no event loop runs.
        """
        if self.mode is Mode.DATAGRAM:
            raise ConfigError("asyncio streams need a stream; this pipe carries datagrams")
        self._check_open()
        return streams_over(self, limit)

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
