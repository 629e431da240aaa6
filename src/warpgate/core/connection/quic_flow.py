"""A `QuicStream` over the flow of one peer on one of the udp's ports."""

from __future__ import annotations

import asyncio
import contextlib

from warpgate.core.connection.quic_driver import QuicDriver
from warpgate.core.connection.quic_engine import State
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.udp.demultiplexer import UNVALIDATED_DATAGRAMS, Port
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Family

# Ethernet's 1,500 bytes less the IP and UDP headers. Path MTU discovery asks for more than IPv6 leaves; such a probe
# would be fragmented by our own kernel and pass, and so would all packets after it. Not sent, it counts as lost.
LARGEST = {Family.V4: 1472, Family.V6: 1452}
# What a TURN message adds to the data on its way to the relay (RFC 8656 section 11: a Send indication; channels less).
RELAYING = 48


class QuicFlow(QuicDriver):
    """Lives from the first packet until `close`; its owner is a link, then a pipe."""

    def __init__(
        self, stream: QuicStream, port: Port, remote: Endpoint, *other_ids: bytes, relayed: bool = False
    ) -> None:
        """`other_ids`: further connection ids under which the peer's packets may come."""
        super().__init__(stream)
        self.stream = stream
        self._port = port
        self.remote = remote
        self._target = remote.sockaddr
        self._largest = LARGEST[remote.family] - (RELAYING if relayed else 0)
        self._unproved = UNVALIDATED_DATAGRAMS
        self._stuck: list[bytes] = []  # refused by a full socket buffer
        self._unsticking: asyncio.Task[None] | None = None
        self._ids = (stream.id, *other_ids)
        routes = port.streams.setdefault(self._target, {})
        for connection_id in self._ids:
            routes[connection_id] = self.deliver
        self.soon()

    @property
    def base(self) -> Endpoint:
        return self._port.base

    def _send(self) -> None:
        if self._stuck:
            return
        datagrams = self.stream.datagrams(self._loop.time())
        # Only the end of the handshake shows that somebody with the key is there: the peer may have forged its check
        # with somebody else's address. A server is bounded by what came (RFC 9000 section 8.1).
        if self.stream.is_client and self.stream.state is State.OPENING:
            datagrams = datagrams[: self._unproved]
            self._unproved -= len(datagrams)
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

    def _release(self) -> None:
        if self._unsticking is not None:
            self._unsticking.cancel()
        routes = self._port.streams.get(self._target, {})
        for connection_id in self._ids:
            routes.pop(connection_id, None)
        if not routes:
            self._port.streams.pop(self._target, None)
