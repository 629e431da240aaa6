"""Datagrams over UDP as they are.

A `PlainDatagramPipe` shares the node's UDP socket; only STUN that verifies under its session is kept back.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from warpgate.core.pipes.base import ABORTED, Pipe, PipeInfo
from warpgate.core.pipes.datagrams import DatagramPipe
from warpgate.core.udp.demultiplexer import UNVALIDATED_DATAGRAMS, Demultiplexer, Port, SessionChecks
from warpgate.errors import NetworkError, PipeClosed
from warpgate.proto.check import CheckEvent, CheckingEnded, PathValidated

# RFC 8085 section 3.2: without path MTU discovery stay below the smallest that IPv6 guarantees; but a user who knows
# the path may send whatever fits a UDP datagram.
LARGEST_DATAGRAM = 65507
UNVALIDATED_BYTES = UNVALIDATED_DATAGRAMS * 1200


class PlainDatagramPipe(DatagramPipe):
    """UDP as it is: datagrams may be lost, doubled or reordered; none is cut or merged."""

    def __init__(
        self,
        info: PipeInfo,
        udp: Demultiplexer,
        port: Port,
        checks: SessionChecks,
        queue_limit: int,
        on_end: Callable[[Pipe, str], None],
        own_port: bool = False,
    ) -> None:
        """`own_port`: the socket was opened for this pipe alone and is left with it."""
        super().__init__(info, udp.take_early(port, info.remote.sockaddr), on_end)
        self._own_port = own_port
        self._dropped = 0
        self._udp = udp
        self._port = port
        self._checks = checks
        self._target = info.remote.sockaddr
        self._limit = queue_limit
        # The peer may have named, or forged, somebody else's address: until it has answered from there, that gets no
        # more than this. Usually it has, or the answer is on its way; `send` waits for it.
        self._unvalidated_datagrams, self._unvalidated_bytes = UNVALIDATED_DATAGRAMS, UNVALIDATED_BYTES
        self._validation = None if checks.agent.path_validated else asyncio.Event()
        checks.stop_expecting()
        checks.disown(keep=(port, info.remote.sockaddr))
        port.flows[self._target] = self._deliver

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def largest(self) -> int:
        """As long as UDP allows; what is longer than about 1,200 bytes may not pass every path."""
        return LARGEST_DATAGRAM

    def _deliver(self, data: bytes) -> None:
        if len(self._queue) >= self._limit:
            self._dropped += 1
            return
        self._queue.append(data)
        if self._waiters:
            self._wake()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """ConfigError for more than 65,507 bytes; more than about 1,200 may not pass every path."""
        # Mostly; a call would be a third of what is done here before the system is called.
        if isinstance(data, bytes) and len(data) <= LARGEST_DATAGRAM and self._end is None:
            payload = data
        else:
            payload = self._checked(data)
        if self._validation is not None:
            await self._await_validation(self._validation, len(payload))
        if self._port.socket.send(payload, self._target):
            return
        try:
            await self._port.socket.writable()
        except NetworkError as error:
            raise PipeClosed(str(error)) from error
        self._port.socket.send(payload, self._target)  # refused again for another reason: lost, as UDP may

    async def _await_validation(self, validation: asyncio.Event, size: int) -> None:
        """Return when `size` bytes may leave; PipeClosed when the peer never answers."""
        if self._unvalidated_datagrams > 0 and size <= self._unvalidated_bytes:
            self._unvalidated_datagrams -= 1
            self._unvalidated_bytes -= size
            return
        await validation.wait()
        self._check_open()

    def _validated(self) -> None:
        validation, self._validation = self._validation, None
        if validation is not None:
            validation.set()

    def check_event(self, event: CheckEvent) -> None:
        """Fed by the session: the path is validated, the peer closed, or consent was lost."""
        if isinstance(event, PathValidated):
            self._validated()
        elif isinstance(event, CheckingEnded):
            self._drop()
            self._finish(event.reason)
            self._release()

    async def close(self) -> None:
        """The peer is told, again until it has answered (in the background, at most 2 s)."""
        if self._finish("closed on this side"):
            self._drop()
            self._checks.close()

    def abort(self, reason: str = ABORTED) -> None:
        """At once on this side; the peer is told as by `close`, else it would find out when consent is lost (30 s)."""
        if self._finish(reason):
            self._drop()
            self._checks.close()

    def detach(self) -> socket.socket:
        """The new socket gets this flow alone, with late answers to checks and the peer's consent checks (STUN:
        RFC 8489's cookie 0x2112A442 is in bytes 4 to 7). Ours stop: detach both, or keep sending.
        """
        self._check_open()
        sock = self._port.socket.detach(self.remote)
        self._drop()
        self._release()
        self._finish("handed over by detach()")
        return sock

    def _drop(self) -> None:
        self._port.flows.pop(self._target, None)
        self._validated()  # who waits to send finds the pipe closed
        self._wake()

    def _release(self) -> None:
        self._udp.forget(self._checks)
        if self._own_port:
            self._udp.leave_port(self._port.base, relayed=self.relayed)
