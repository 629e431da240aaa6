"""Streams over UDP: QUIC on the link that the checks have proved (see `quic_stream` for what is on the wire)."""

from __future__ import annotations

import asyncio
import socket
from abc import abstractmethod
from collections.abc import Callable

from warpgate.core.connection.byte_stream import ByteStream
from warpgate.core.connection.quic_driver import QuicDriver
from warpgate.core.connection.quic_engine import ABORTED as RESET
from warpgate.core.connection.quic_engine import CLOSED, State
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.pipes.base import ABORTED, TLS_PATIENCE, Pipe, PipeInfo, bytes_like
from warpgate.core.pipes.reading import BytePipe
from warpgate.core.udp.demultiplexer import Demultiplexer, SessionChecks
from warpgate.errors import ConfigError, PipeClosed
from warpgate.proto.check import CheckEvent, CheckingEnded

# How long `close` waits for a peer that takes nothing more of what was sent; a lossy path repeats within that.
LINGER = 5.0


class BytesOverQuic(BytePipe):
    """Reliable ordered bytes in a stream of QUIC's. `send` returns when they are in a bounded buffer (1 MiB)."""

    def __init__(
        self,
        info: PipeInfo,
        stream: ByteStream,
        driver: QuicDriver,
        on_end: Callable[[Pipe, str], None],
    ) -> None:
        super().__init__(info, on_end)
        self._stream = stream
        self._driver = driver
        self._sending = asyncio.Lock()  # a large `send` waits in the middle; another one must not cut in
        self._on_its_way_until: int | None = None  # so many bytes acknowledged, when all has left
        self._left = False  # closed, aborted: nothing is received any more
        self._delivering = False

    async def _changed(self) -> None:
        """Until anything may have happened."""
        await self._driver.changed()

    @property
    @abstractmethod
    def _alive(self) -> bool:
        """Whether what is sent may still arrive."""

    # -- sending -------------------------------------------------------------------------------------------------

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """PipeClosed also after `write_eof`. Waits while the peer does not read."""
        view = memoryview(bytes_like(data)).cast("B")
        async with self._sending:
            while True:
                self._check_writable()
                room = self._stream.room
                if room > 0 or not view:
                    self._stream.write(view[:room])
                    self._driver.soon()
                    view = view[room:]
                    if not view:
                        return
                await self._changed()

    def _check_writable(self) -> None:
        self._check_open()
        if self._stream.finished:
            raise PipeClosed("the end of the stream has been sent")

    @property
    def secure(self) -> bool:
        return True

    async def start_tls(self, timeout: float = TLS_PATIENCE) -> None:
        """Nothing is to be done: QUIC carries TLS 1.3, and both node keys are proved."""
        self._check_open()

    def write_eof(self) -> None:
        self._check_open()
        self._stream.finish()
        self._driver.soon()

    # -- receiving -----------------------------------------------------------------------------------------------

    def _check_here(self) -> None:
        """What came before the peer closed is still to be had; not so after a close on this side."""
        if self._left:
            self._check_open()

    async def _read(self, _limit: int) -> bytes:
        while True:
            self._check_here()
            if self._stream.readable:
                granted = self._stream.granted
                data = self._stream.read()
                if self._stream.granted != granted:  # new credit, to be told
                    self._driver.soon()
                return data
            if self._stream.peer_finished:
                return b""
            self._check_open()
            await self._changed()

    # -- ending --------------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        """Send the end, and wait until the peer has everything, or has taken nothing of it for `LINGER`."""
        stream = self._stream
        stream.finish()
        self._driver.soon()
        self._delivering = True
        try:
            while self._alive and not stream.delivered:
                progress = self._progress()
                async with asyncio.timeout(LINGER):
                    while self._alive and not stream.delivered and self._progress() == progress:
                        await self._driver.changed()
        except TimeoutError:
            pass
        finally:
            self._delivering = False

    async def left(self) -> None:
        """Until a `close` that is going on has no more to wait for."""
        while self._delivering and self._alive and not self._stream.delivered:
            await self._driver.changed()

    def _progress(self) -> tuple[int, int, int]:
        """Changes whenever the peer has taken something of what was sent. What is on its way when the last byte has
        left may be so for long, in a queue before a slow link: it counts as it is acknowledged, and nothing that is
        sent later (by other pipes of the connection) does.
        """
        allowed, waiting = self._stream.progress
        if self._on_its_way_until is None and not waiting:
            self._on_its_way_until = self._driver.acknowledged + self._driver.in_flight
        return allowed, waiting, min(self._driver.acknowledged, self._on_its_way_until or 0)


class QuicPipe(BytesOverQuic):
    """On one pair of endpoints, for ever."""

    def __init__(
        self,
        info: PipeInfo,
        udp: Demultiplexer,
        checks: SessionChecks,
        flow: QuicFlow,
        on_end: Callable[[Pipe, str], None],
        own_port: bool = False,
    ) -> None:
        """`own_port`: the socket was opened for this pipe alone and is left with it."""
        super().__init__(info, flow.stream, flow, on_end)
        self._udp = udp
        self._checks = checks
        self._flow = flow
        self._own_port = own_port
        self._base = flow.base
        flow.on_change = self._flow_changed

    @property
    def _alive(self) -> bool:
        return self._flow.stream.state is State.OPEN

    def _flow_changed(self) -> None:
        """After each step of the flow."""
        if self._flow.stream.state is State.ENDED and not self.closed:
            self._finish(str(self._flow.stream.failure))
            self._flow.close()
            self._checks.close()

    def check_event(self, event: CheckEvent) -> None:
        """Fed by the session: the peer closed, or consent was lost."""
        if isinstance(event, CheckingEnded):
            self._finish(event.reason)
            self._flow.close()
            self._udp.forget(self._checks)
            if self._own_port:
                self._udp.leave_port(self._base, relayed=self.relayed)

    async def close(self) -> None:
        """Returns when the peer has everything that was sent, or has taken nothing of it for 5 s."""
        if not self._finish("closed on this side"):
            return
        self._left = True
        try:
            await self._deliver()
        finally:
            self._flow.close(CLOSED, "closed by the peer")
            self._checks.close()

    def abort(self, reason: str = ABORTED) -> None:
        if self._finish(reason):
            self._left = True
            self._flow.close(RESET, "reset by the peer")
            self._checks.close()

    def detach(self) -> socket.socket:
        """ConfigError: the stream is QUIC on a socket that all pipes of the node share."""
        raise ConfigError(
            "a stream over UDP has no socket of its own: use warpgate.open_connection for asyncio streams, "
            "or ask for transport=Transport.TCP"
        )
