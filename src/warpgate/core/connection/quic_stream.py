"""One QUIC connection that carries one reliable stream: a plain pipe over UDP.

stream 0         both ways: the client's head (`proto.quic_proof`), then the users' bytes; FIN is end of stream
streams 2 and 3  the client's and the server's *credit*: 8-byte big-endian totals of user bytes that the other
                 side may have sent. Before the first a client may send FIRST_CREDIT, a server WINDOW. FIN: "all
                 that you sent has arrived"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from warpgate.core.connection.byte_stream import WINDOW, ByteStream
from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_engine import FIRST_CREDIT, QuicEngine, State
from warpgate.core.connection.quic_library import SecretLog
from warpgate.errors import NetworkError, WarpgateError
from warpgate.proto.quic_proof import ALPN
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE

if TYPE_CHECKING:
    from qh3.quic.connection import QuicConnection

USER = 0
CLIENT_CREDIT, SERVER_CREDIT = 2, 3
_CREDIT_SIZE = 8


class QuicStream(QuicEngine, ByteStream):
    """The engine's verbs for the wire, the byte stream's for the user."""

    alpn, id_size = ALPN, CONNECTION_ID_SIZE

    def __init__(self, quic: QuicConnection, secrets: SecretLog, holdings: Holdings, *, client: bool) -> None:
        QuicEngine.__init__(self, quic, secrets, holdings, client=client)
        allowed, granted = (FIRST_CREDIT, WINDOW) if client else (WINDOW, FIRST_CREDIT)
        ByteStream.__init__(self, allowed, granted, holdings.unread.share())
        self._credit_stream = CLIENT_CREDIT if client else SERVER_CREDIT
        self._peer_credit_stream = SERVER_CREDIT if client else CLIENT_CREDIT
        self._delivered |= {USER: 0, self._peer_credit_stream: 0}
        self._partial_credit = b""
        self.confirmed = not client  # whether the server has said anything that it says to a client it has proved

    # -- the engine ----------------------------------------------------------------------------------------------

    def _proved(self) -> None:
        if not self.is_client:
            self._grant(self._window)

    def _take_first(self, data: bytes) -> None:
        self._take(data)

    def _stream_data(self, stream: int, data: bytes, end: bool) -> None:
        if stream == USER:
            self._take(data)
            if end:
                self._ended_by_peer()
        elif stream == self._peer_credit_stream:
            self._credit(data, end)
        else:
            raise NetworkError(f"the peer opened a stream {stream}")

    def _stream_reset(self, stream: int, code: int) -> None:
        raise NetworkError("reset by the peer")

    def _stop_sending(self, stream: int, code: int) -> None:
        raise NetworkError("reset by the peer")

    def _credit(self, data: bytes, end: bool) -> None:
        self.confirmed = True
        data = self._partial_credit + data
        whole = len(data) - len(data) % _CREDIT_SIZE
        for start in range(0, whole, _CREDIT_SIZE):
            self._credited(int.from_bytes(data[start : start + _CREDIT_SIZE], "big"))
        self._partial_credit = data[whole:]
        if end:
            if not self.finished:
                raise NetworkError("the peer has the end of a stream that has none")
            self.delivered = True

    def _end(self, failure: WarpgateError) -> None:
        super()._end(failure)
        self._account()

    # -- the byte stream -----------------------------------------------------------------------------------------

    @property
    def _open(self) -> bool:
        return self.state is State.OPEN

    @property
    def _waiting(self) -> int:
        return self._queued(USER)

    def _carry(self, data: bytes | memoryview, *, end: bool = False) -> None:
        self._put_users(USER, data, end=end)

    def _say_granted(self, total: int) -> None:
        self._put(self._credit_stream, total.to_bytes(_CREDIT_SIZE, "big"))

    def _say_delivered(self) -> None:
        self._put(self._credit_stream, b"", end=True)
