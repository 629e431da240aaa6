"""Two QUIC streams joined by a path in memory that delays and loses; no sockets, no loop, no clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_engine import State
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.errors import AuthenticationError
from warpgate.model.identity import Identity
from warpgate.proto.quic_wire import connection_id_of

SESSION = bytes(range(16))
A, B, OTHER = Identity.generate(), Identity.generate(), Identity.generate()
DELAY = 0.02


def key_of_a(session: bytes) -> bytes:
    if session != SESSION:
        raise AuthenticationError("no such session")
    return A.public_key


@dataclass
class Path:
    """`client` speaks first; `step` carries everything that both ends have to say, one way."""

    client: QuicStream = field(default_factory=lambda: QuicStream.client(A, B.public_key, SESSION, 0.0, Holdings()))
    server_identity: Identity = B
    server_certificate: bytes = b""
    loss: float = 0.0
    holdings: Holdings = field(default_factory=Holdings)  # the server's
    now: float = 0.0
    server: QuicStream | None = None
    sent_by_client: list[bytes] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def step(self) -> None:
        forth = self.client.datagrams(self.now)
        back = [] if self.server is None else self.server.datagrams(self.now)
        self.sent_by_client += forth
        self.now += DELAY
        if self.server is None and forth:
            self.server = QuicStream.server(
                self.server_identity,
                self.server_certificate or self.server_identity.certificate(),
                connection_id_of(forth[0]),
                key_of_a,
                self.holdings,
            )
        for end, flight in ((self.server, forth), (self.client, back)):
            if end is None:
                continue
            if arrived := [data for data in flight if self.rng.random() >= self.loss]:
                end.receive(arrived, self.now)
            if end.deadline is not None and end.deadline <= self.now:
                end.handle_timeout(self.now)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def open(self) -> tuple[QuicStream, QuicStream]:
        self.steps(8)
        assert self.server is not None
        assert (self.client.state, self.server.state) == (State.OPEN, State.OPEN)
        return self.client, self.server

    def carry(self, source: QuicStream, sink: QuicStream, data: bytes, limit: int = 3000) -> bytes:
        """All of `data` through, read as it comes; b"".join of what came."""
        came, view = bytearray(), memoryview(data)
        for _ in range(limit):
            if view and (room := source.room):
                source.write(view[:room])
                view = view[room:]
            self.step()
            while sink.readable:
                came += sink.read()
            if len(came) >= len(data):
                break
        return bytes(came)
