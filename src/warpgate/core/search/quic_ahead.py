"""A stream's QUIC client that begins before there is a pair: its first packets travel with the offer and the checks."""

from __future__ import annotations

from warpgate.core.connection.quic_engine import CLOSED, State
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.links import UdpLink

# The server's answer comes so long after its check at most, seconds: it has a handshake to compute. Later, and it is
# lost: a NAT or a relay did not let it in yet.
COMPUTING = 0.03


class QuicAhead:
    """`flight`: what it says first. What answers it is held until it goes on, on one pair."""

    def __init__(self, equipment: Equipment, peer_key: bytes, session: bytes) -> None:
        context = equipment.context
        now = context.now()
        self._udp, self._loop = equipment.udp, context.loop
        self._stream = stream = QuicStream.client(context.identity, peer_key, session, now, equipment.quic_holdings)
        self._waits = True
        self.flight = tuple(stream.datagrams(now))
        self._udp.expect_ahead(stream.id)

    def go_on(self, link: UdpLink) -> QuicFlow | None:
        """On this pair, once; whoever gets the flow closes it. NetworkError when its socket is closed."""
        if not self._waits:
            return None
        port = self._udp.port(link.local)
        flow = QuicFlow(self._stream, port, link.remote)
        held = self._udp.take_ahead(self._stream.id, port, link.remote.sockaddr)
        flow.deliver(held)
        if not held:
            self._loop.call_later(COMPUTING, self._say_again, flow)
        self._end()
        return flow

    def _say_again(self, flow: QuicFlow) -> None:
        if self._stream.state is State.OPENING:
            flow.say_again(self.flight)

    def _end(self) -> None:
        self._waits = False
        self._udp.end_ahead(self._stream.id)

    def close(self) -> None:
        """Idempotent; nobody needs it any more, unless it has gone on."""
        if self._waits:
            self._end()
            self._stream.close(CLOSED, "not used")
            self._stream.let_go()
