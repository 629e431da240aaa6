"""One QUIC connection that carries one reliable stream, sans-I/O: datagrams and instants in, datagrams and bytes out.

    stream 0         both ways: the client's head (`proto.quic_proof`), then the users' bytes; FIN is end of stream
    streams 2 and 3  the client's and the server's *credit*: 8-byte big-endian totals of user bytes that the other
                     side may have sent. Before the first a client may send FIRST_CREDIT, a server WINDOW. FIN: "all
                     that you sent has arrived"

Why credit of our own: the library opens QUIC's windows when bytes arrive, whether or not the user reads them, so that a
slow reader would hold everything its peer can send. With it neither side holds more than WINDOW to be read plus
SEND_BUFFER to be sent, and `delivered` tells a closing side that nothing it sent is lost.

The client checks that the server's certificate is of the expected node key, the server that the head is signed by the
key of the session it names; before that no byte of the user's is sent or given out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

from warpgate.core.connection.quic_bounds import Holdings, Watch
from warpgate.core.connection.quic_library import (
    ANYWHERE,
    SecretLog,
    closing,
    make_client,
    make_server,
    opener,
)
from warpgate.errors import AuthenticationError, NetworkError, WarpgateError
from warpgate.model.identity import Identity, check_certificate
from warpgate.model.text import printable
from warpgate.proto.quic_proof import ALPN, HEAD_SIZE, check_head, make_head, session_of

if TYPE_CHECKING:
    from qh3.quic.connection import QuicConnection
    from qh3.quic.events import QuicEvent

# At 40 ms round trip 800 Mbit/s, more than the library encrypts; both sides' buffers stay within a few MiB.
WINDOW = 4 * 1024 * 1024
# New credit is said when a quarter of the window has been read: four small packets a window.
CREDIT_STEP = WINDOW // 4
# What a client may send before its proof has been answered by credit: more than leaves in the first round trip.
FIRST_CREDIT = 32 * 1024
# Accepted from the user but not sent once yet. What is in flight is bounded by WINDOW.
SEND_BUFFER = 1024 * 1024
# One `read`: as for TCP pipes.
CHUNK = 256 * 1024

USER = 0
CLIENT_CREDIT, SERVER_CREDIT = 2, 3
_CREDIT_SIZE = 8

CLOSED, REFUSED, ABORTED, BROKEN = range(4)  # application error codes
# RFC 9001 section 4.8: 0x100 and the TLS alert.
_TLS_ALERTS = range(0x100, 0x200)

# The key of the peer whose session this is; AuthenticationError when there is no such session.
FindKey = Callable[[bytes], bytes]


class State(enum.Enum):
    """Where the connection stands."""

    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"


class QuicStream:
    """Call `receive`, `handle_timeout` and the user's verbs; after each, send `datagrams` and wake at `deadline`."""

    def __init__(self, quic: QuicConnection, secrets: SecretLog, holdings: Holdings, *, client: bool) -> None:
        from qh3.quic import connection, events  # noqa: PLC0415 - loaded by now

        self._kinds, self._quic_error = events, connection.QuicConnectionError
        self._quic = quic
        self._secrets = secrets
        self._credit_stream = CLIENT_CREDIT if client else SERVER_CREDIT
        self._peer_credit_stream = SERVER_CREDIT if client else CLIENT_CREDIT
        self._delivered = {USER: 0, self._peer_credit_stream: 0}  # bytes that have come out in order
        self.watch = Watch(holdings, self._delivered, self._delivered.__getitem__)
        self._handshaken = False
        self._certain: Callable[[], None] = lambda: None  # tries to turn OPENING into OPEN
        self.state = State.OPENING
        self.failure: WarpgateError | None = None  # why it ended, when it ended
        self.session = b""
        self._head = bytearray()  # server: what came before the head was whole and checked
        # sending
        self._written = 0
        self._allowed = FIRST_CREDIT if client else WINDOW
        self._partial_credit = b""
        self.finished = False
        self.delivered = False
        # receiving
        self._unread = bytearray()
        self._received = 0
        self._read = 0
        self._granted = WINDOW if client else FIRST_CREDIT
        self.peer_finished = False

    @classmethod
    def client(
        cls, identity: Identity, peer_key: bytes, session: bytes, now: float, holdings: Holdings
    ) -> QuicStream:
        """Its first flight is ready to be sent. `holdings` are the node's."""
        secrets = SecretLog()
        stream = cls(make_client(secrets), secrets, holdings, client=True)
        stream.session = session

        def certain() -> None:
            certificate = stream._quic.get_peercert()
            if certificate is None or secrets.client_secret is None or secrets.server_secret is None:
                raise AuthenticationError("the QUIC server shows no certificate")
            check_certificate(certificate.public_bytes(), peer_key)
            stream.state = State.OPEN
            stream.watch.prove(opener(stream._quic, secrets.server_secret))
            stream._put(USER, make_head(identity, session, secrets.client_secret))

        stream._certain = certain
        stream._quic.connect(ANYWHERE, now)
        return stream

    @classmethod
    def server(
        cls, identity: Identity, certificate: bytes, first_id: bytes, find_key: FindKey, holdings: Holdings
    ) -> QuicStream:
        """For a first packet with the destination `first_id`; `certificate` is PEM, of `identity`."""
        secrets = SecretLog()
        stream = cls(make_server(secrets, certificate, identity, first_id), secrets, holdings, client=False)

        def certain() -> None:
            head = bytes(stream._head[:HEAD_SIZE])
            if len(head) < HEAD_SIZE:
                return
            if secrets.client_secret is None:
                raise AuthenticationError("the QUIC handshake made no secret")
            stream.session = session_of(head)
            check_head(find_key(stream.session), secrets.client_secret, head)
            stream.state = State.OPEN
            stream.watch.prove(opener(stream._quic, secrets.client_secret))
            stream._grant(WINDOW)
            rest = bytes(stream._head[HEAD_SIZE:])
            stream._head.clear()
            stream._take(rest)

        stream._certain = certain
        return stream

    # -- the wire ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> bytes:
        """The connection id that the peer's packets carry."""
        return self._quic.host_cid

    def receive(self, datagrams: list[bytes], now: float) -> None:
        """Datagrams of this connection, in order of arrival; forged and damaged ones change nothing."""
        self._guard(lambda: self._quic.receive_many_datagrams(datagrams, ANYWHERE, now))
        self._take_events()
        if self.state is not State.ENDED:
            try:
                self.watch.arrived(datagrams, now)
            except WarpgateError as error:
                self.failure = error
                self.close(BROKEN, str(error))

    def handle_timeout(self, now: float) -> None:
        self._guard(lambda: self._quic.handle_timer(now))
        self._take_events()

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now."""
        try:
            return [data for data, _ in self._quic.datagrams_to_send(now)]
        except self._quic_error:
            # qh3 raises so when the anti-amplification limit leaves less room than a packet needs: nothing can be
            # sent before the client has been heard again (RFC 9000 section 8.1).
            return []

    @property
    def deadline(self) -> float | None:
        return self._quic.get_timer()

    # -- the user ------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many bytes `write` takes now."""
        if self.state is not State.OPEN or self.finished:
            return 0
        return min(SEND_BUFFER - self._quic.get_send_buffer_size(USER), self._allowed - self._written)

    @property
    def progress(self) -> tuple[int, int]:
        """Changes whenever something of what was written has gone out or been read by the peer."""
        return self._allowed, 0 if self.state is State.ENDED else self._quic.get_send_buffer_size(USER)

    def write(self, data: bytes | memoryview) -> None:
        """At most `room` bytes; they are copied."""
        self._written += len(data)
        self._put(USER, data)

    def finish(self) -> None:
        """Nothing more will be written; idempotent."""
        if self.state is State.OPEN and not self.finished:
            self.finished = True
            self._put(USER, b"", end=True)

    @property
    def readable(self) -> bool:
        return bool(self._unread)

    def read(self) -> bytes:
        """The oldest bytes received, CHUNK at most; b"" when there are none. What is read is new credit."""
        data = bytes(self._unread[:CHUNK])
        del self._unread[:CHUNK]
        self._read += len(data)
        if self._read + WINDOW - self._granted >= CREDIT_STEP and not self.peer_finished:
            self._grant(self._read + WINDOW)
        return data

    def close(self, code: int, reason: str) -> None:
        """End at once; the peer is told by the next datagram. Idempotent."""
        self._guard(lambda: self._quic.close(error_code=code, reason_phrase=reason))
        self._end(NetworkError(reason))

    # -- events --------------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        while self.state is not State.ENDED and (event := self._quic.next_event()) is not None:
            try:
                self._take_event(event)
            except WarpgateError as error:
                self.failure = error
                self.close(REFUSED if isinstance(error, AuthenticationError) else BROKEN, str(error))
        if self.state is not State.ENDED and (end := closing(self._quic)) is not None:
            code, reason = end
            reason = printable(reason) or f"QUIC error {code:#x}"
            if self.state is State.OPENING and code in _TLS_ALERTS:
                self._end(AuthenticationError(f"the QUIC handshake proved no key: {reason}"))
            else:
                self._end(NetworkError(f"the QUIC connection ended: {reason}"))

    def _take_event(self, event: QuicEvent) -> None:
        kinds = self._kinds
        if isinstance(event, kinds.StreamDataReceived):
            if event.stream_id in self._delivered:
                self._delivered[event.stream_id] += len(event.data)
            if event.stream_id == USER:
                self._user_data(event.data, event.end_stream)
            elif event.stream_id == self._peer_credit_stream:
                self._credit(event.data, event.end_stream)
            else:
                raise NetworkError(f"the peer opened a stream {event.stream_id}")
        elif isinstance(event, kinds.HandshakeCompleted):
            if event.alpn_protocol != ALPN:
                raise AuthenticationError(f"the peer speaks {event.alpn_protocol!r}, not {ALPN}")
            self._handshaken = True
            self._certain()
        elif isinstance(event, kinds.StreamReset | kinds.StopSendingReceived):
            raise NetworkError("reset by the peer")

    def _user_data(self, data: bytes, end: bool) -> None:
        if self.state is State.OPEN:
            self._take(data)
        else:
            self._head += data
            if len(self._head) > HEAD_SIZE + FIRST_CREDIT:
                raise NetworkError("the peer sent more than it may")
            if self._handshaken:
                self._certain()
        if end:
            if self.state is not State.OPEN:
                raise AuthenticationError("the QUIC stream ended before its client proved a key")
            self.peer_finished = True
            self._put(self._credit_stream, b"", end=True)

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._granted:
            raise NetworkError("the peer sent more than it may")
        self._unread += data

    def _grant(self, total: int) -> None:
        self._granted = total
        self._put(self._credit_stream, total.to_bytes(_CREDIT_SIZE, "big"))

    def _credit(self, data: bytes, end: bool) -> None:
        data = self._partial_credit + data
        whole = len(data) - len(data) % _CREDIT_SIZE
        for start in range(0, whole, _CREDIT_SIZE):
            self._allowed = max(self._allowed, int.from_bytes(data[start : start + _CREDIT_SIZE], "big"))
        self._partial_credit = data[whole:]
        if end:
            self.delivered = True

    # -- small parts ---------------------------------------------------------------------------------------------

    def _put(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> None:
        self._guard(lambda: self._quic.send_stream_data(stream, data, end))

    def _guard(self, call: Callable[[], None]) -> None:
        """The library's complaint about a connection that is over ends ours."""
        try:
            call()
        except (self._quic_error, ValueError) as error:
            self._end(NetworkError(f"the QUIC connection broke: {error}"))

    def _end(self, failure: WarpgateError) -> None:
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self.failure = self.failure or failure
            self.watch.end()
