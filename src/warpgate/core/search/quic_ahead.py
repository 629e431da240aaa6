"""A stream's QUIC client that begins before there is a pair: its first packets travel with the offer and the checks."""

from __future__ import annotations

from warpgate.core.connection.quic_engine import CLOSED
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.search.equipment import Equipment


class QuicAhead:
    """`flight`: what it says first. Until it is taken, what answers it is held for the pair that it comes by."""

    def __init__(self, equipment: Equipment, peer_key: bytes, session: bytes) -> None:
        context = equipment.context
        now = context.now()
        self._udp = equipment.udp
        self._stream: QuicStream | None
        self._stream = stream = QuicStream.client(
            context.identity, peer_key, session, now, equipment.quic_holdings
        )
        self.flight = tuple(stream.datagrams(now))
        self._udp.ahead.add(stream.id)

    def take(self) -> QuicStream | None:
        """The client, once; whoever takes it closes it."""
        taken, self._stream = self._stream, None
        if taken is not None:
            self._udp.ahead.discard(taken.id)
        return taken

    def close(self) -> None:
        """Idempotent; nobody needs it any more."""
        if (stream := self.take()) is not None:
            stream.close(CLOSED, "not used")
