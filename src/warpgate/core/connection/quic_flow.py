"""Drives a `QuicStream` on the running loop, over the flow of one peer on one of the udp's ports.

Datagrams that arrive in one turn of the loop are handed over together, and what is written in one turn is sent
together: the library is much quicker so. Whoever waits is woken after every step and looks again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from warpgate.core.connection.quic_stream import CLOSED, QuicStream, State
from warpgate.core.udp.demultiplexer import Port
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Family

# Ethernet's 1,500 bytes less the IP and UDP headers. Path MTU discovery asks for more than IPv6 leaves; such a probe
# would be fragmented by our own kernel and pass, and so would all packets after it. Not sent, it counts as lost.
LARGEST = {Family.V4: 1472, Family.V6: 1452}
# What a TURN message adds to the data on its way to the relay (RFC 8656 section 11: a Send indication; channels less).
RELAYING = 48


class QuicFlow:
    """Lives from the first packet until `close`; its owner is a link, then a pipe."""

    def __init__(
        self, stream: QuicStream, port: Port, remote: Endpoint, *other_ids: bytes, relayed: bool = False
    ) -> None:
        """`other_ids`: further connection ids under which the peer's packets may come."""
        self.stream = stream
        self._port = port
        self.remote = remote
        self._target = remote.sockaddr
        self._largest = LARGEST[remote.family] - (RELAYING if relayed else 0)
        self._loop = asyncio.get_running_loop()
        self._arrived: list[bytes] = []
        self._stuck: list[bytes] = []  # refused by a full socket buffer
        self._unsticking: asyncio.Task[None] | None = None
        self._step: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._waiters: list[asyncio.Future[None]] = []
        stream.watch.on_excess = self.soon
        self.on_change: Callable[[], None] = lambda: None
        self._over = False
        self._ids = (stream.id, *other_ids)
        routes = port.streams.setdefault(self._target, {})
        for connection_id in self._ids:
            routes[connection_id] = self.deliver
        self.soon()

    @property
    def base(self) -> Endpoint:
        return self._port.base

    # -- waiting -------------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        """Until both ends are proved. NetworkError, AuthenticationError when that fails."""
        while self.stream.state is State.OPENING and not self._over:
            await self.changed()
        if self.stream.state is not State.OPEN:
            raise self.stream.failure or NetworkError("the QUIC handshake was given up")

    async def changed(self) -> None:
        """Until anything may have happened; at once when the flow is over."""
        if self._over:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- driving -------------------------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        """One datagram of the peer's."""
        self._arrived.append(data)
        self.soon()

    def soon(self) -> None:
        """After a verb of the stream's: step at the end of this turn."""
        if self._step is None and not self._over:
            self._step = self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        self._step = None
        if self._over:
            return
        if self._arrived or self.stream.watch.excess is not None:
            arrived, self._arrived = self._arrived, []
            self.stream.receive(arrived, self._loop.time())
        self._send()
        self._wake()
        self._set_timer()
        self.on_change()

    def _send(self) -> None:
        if self._stuck:
            return
        datagrams = self.stream.datagrams(self._loop.time())
        for index, data in enumerate(datagrams):
            if len(data) > self._largest or self._port.socket.send(data, self._target):
                continue
            self._stuck = datagrams[index:]
            self._unsticking = self._loop.create_task(self._unstick())
            return

    async def _unstick(self) -> None:
        """Go on as soon as the socket takes datagrams again; one that is refused even then is lost, as UDP may."""
        while self._stuck:
            with contextlib.suppress(NetworkError):
                await self._port.socket.writable()
            self._port.socket.send(self._stuck.pop(0), self._target)
            while self._stuck and self._port.socket.send(self._stuck[0], self._target):
                self._stuck.pop(0)
        self._unsticking = None
        self._advance()

    def _set_timer(self) -> None:
        deadline = self.stream.deadline
        if deadline == self._deadline and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._deadline = deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._expired, deadline)

    def _expired(self, deadline: float) -> None:
        self._timer = None
        # Loops fire up to one clock resolution early: the library must see that its deadline has come.
        self.stream.handle_timeout(max(self._loop.time(), deadline))
        self._advance()

    # -- ending --------------------------------------------------------------------------------------------------

    def close(self, code: int = CLOSED, reason: str = "closed") -> None:
        """Tell the peer by one datagram and let go of the socket; synchronous and idempotent."""
        if self._over:
            return
        self.stream.close(code, reason)
        self._send()
        self._over = True
        for handle in (self._step, self._timer, self._unsticking):
            if handle is not None:
                handle.cancel()
        routes = self._port.streams.get(self._target, {})
        for connection_id in self._ids:
            routes.pop(connection_id, None)
        if not routes:
            self._port.streams.pop(self._target, None)
        self._wake()
