"""A `QuicStream` over the flow of one peer on one of the udp's ports."""

from __future__ import annotations

from collections.abc import Sequence

from warpgate.core.connection.quic_driver import QuicDriver
from warpgate.core.connection.quic_engine import State
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.udp.demultiplexer import UNVALIDATED_DATAGRAMS, Port
from warpgate.core.udp.outflow import Outflow
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint


class QuicFlow(QuicDriver):
    """Lives from the first packet until `close`; its owner is a link, then a pipe."""

    def __init__(self, stream: QuicStream, port: Port, remote: Endpoint, *other_ids: bytes) -> None:
        """`other_ids`: further connection ids under which the peer's packets may come."""
        super().__init__(stream)
        self.stream = stream
        self._port = port
        self.remote = remote
        self._unproved = UNVALIDATED_DATAGRAMS
        self._ids = (stream.id, *other_ids)
        self._outflow = Outflow(port.socket, remote.sockaddr, self._advance)
        port.route(remote.sockaddr, self._ids, self.deliver)
        self.soon()

    @property
    def base(self) -> Endpoint:
        return self._port.base

    async def confirmed(self) -> None:
        """At the client, which is open: until its server says so, a round trip later. NetworkError when it ends."""
        while not self.stream.confirmed and self.stream.state is State.OPEN and not self._over:
            await self.changed()
        if self.stream.state is not State.OPEN:
            raise self.stream.failure or NetworkError("the QUIC connection was given up")

    def say_again(self, datagrams: Sequence[bytes]) -> None:
        """What was said before there was a flow, if none of it seems to have arrived."""
        self._unproved -= len(datagrams)
        self._outflow.send(list(datagrams))

    def _send(self) -> None:
        if self._outflow.full:
            return
        datagrams = self.stream.datagrams(self._loop.time())
        # Only the end of the handshake shows that somebody with the key is there: the peer may have forged its check
        # with somebody else's address. A server is bounded by what came (RFC 9000 section 8.1).
        if self.stream.is_client and self.stream.state is State.OPENING:
            datagrams = datagrams[: max(0, self._unproved)]
            self._unproved -= len(datagrams)
        self._outflow.send(datagrams)

    def _release(self) -> None:
        self._outflow.close()
        self._port.unroute(self.remote.sockaddr, self._ids, self.deliver)
