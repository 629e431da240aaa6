"""One QUIC connection, sans-I/O: datagrams and instants in, datagrams out. What its streams are subclasses say.

The client checks that the server's certificate is of the expected node key, the server that the head on stream 0
(`proto.quic_proof`) is signed by the key of the session it names; before that no byte of a user's is sent or given out.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from warpgate.core.connection.quic_bounds import Holdings, Watch
from warpgate.core.connection.quic_library import (
    ANYWHERE,
    SecretLog,
    closing,
    hand_over,
    in_flight,
    opener,
    to_send,
)
from warpgate.errors import AuthenticationError, NetworkError, WarpgateError
from warpgate.model.identity import Identity, check_shown_key
from warpgate.model.text import printable
from warpgate.proto.quic_proof import HEAD_SIZE, check_head, make_head, session_of
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE, is_protected

if TYPE_CHECKING:
    from qh3.quic.connection import QuicConnection
    from qh3.quic.events import QuicEvent

# What a client may send before its proof has been answered by credit: more than leaves in the first round trip.
FIRST_CREDIT = 32 * 1024

# A client's packets that may have overtaken the end of its handshake: its head, its address and its first pipes.
OVERTAKING = 4

HEAD = 0  # the stream that begins with the client's head
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


class QuicEngine(ABC):
    """Call `receive` and `handle_timeout`; after each, and after the user's verbs, send `datagrams` and wake at
    `deadline`.
    """

    alpn: str  # a connection of another kind is refused

    def __init__(self, quic: QuicConnection, secrets: SecretLog, holdings: Holdings, *, client: bool) -> None:
        from qh3.quic import connection, events  # noqa: PLC0415 - loaded by now

        self._kinds, self._quic_error = events, connection.QuicConnectionError
        self._quic = quic
        self._secrets = secrets
        self.is_client = client
        self._delivered: dict[int, int] = {}  # bytes that have come out in order, of the streams the peer may send on
        self.watch = Watch(holdings, self._may_send, self._how_far)
        self._unsent = holdings.unsent.share()  # of what waits to be sent, or to be acknowledged
        self._handshaken = False
        self._certain: Callable[[], None] = lambda: None  # tries to turn OPENING into OPEN
        self.state = State.OPENING
        self.failure: WarpgateError | None = None  # why it ended, when it ended
        self.closed_with: int | None = None  # the error code by which the peer, or an error, ended it
        self.session = b""
        self._head = bytearray()  # server: what came before the head was whole and checked
        # Server: packets under keys that are known when the handshake is over.
        self._overtook: list[bytes] = []

    def start_client(self, identity: Identity, peer_key: bytes, session: bytes, now: float) -> None:
        """The first flight is ready to be sent afterwards."""
        self.session = session

        def certain() -> None:
            certificate, secrets = self._quic.get_peercert(), self._secrets
            if certificate is None or secrets.client_secret is None or secrets.server_secret is None:
                raise AuthenticationError("the QUIC server shows no certificate")
            # The point that the library has checked the handshake's signature with.
            check_shown_key(certificate.public_key(), peer_key)
            self.state = State.OPEN
            self.watch.prove(opener(self._quic, secrets.server_secret))
            self._put(HEAD, make_head(identity, session, secrets.client_secret))
            self._proved()

        self._certain = certain
        self._quic.connect(ANYWHERE, now)

    def await_client(self, find_key: FindKey) -> None:
        """`find_key` judges the session that the client's head names."""

        def certain() -> None:
            head = bytes(self._head[:HEAD_SIZE])
            if len(head) < HEAD_SIZE:
                return
            secret = self._secrets.client_secret
            if secret is None:
                raise AuthenticationError("the QUIC handshake made no secret")
            self.session = session_of(head)
            check_head(find_key(self.session), secret, head)
            self.state = State.OPEN
            self.watch.prove(opener(self._quic, secret))
            self._proved()
            rest = bytes(self._head[HEAD_SIZE:])
            self._head.clear()
            self._take_first(rest)

        self._certain = certain

    # -- what subclasses add -------------------------------------------------------------------------------------

    def _may_send(self, stream: int) -> bool:
        """Whether the peer may send on this stream."""
        return stream in self._delivered

    def _how_far(self, stream: int) -> int:
        """How many bytes of it have come out in order."""
        return self._delivered[stream]

    @abstractmethod
    def _proved(self) -> None:
        """Both ends are: OPEN from now on."""

    @abstractmethod
    def _take_first(self, data: bytes) -> None:
        """Bytes of stream HEAD after the head, in order."""

    @abstractmethod
    def _stream_data(self, stream: int, data: bytes, end: bool) -> None:
        """In order. NetworkError, AuthenticationError end the connection."""

    @abstractmethod
    def _stream_reset(self, stream: int, code: int) -> None:
        """The peer sends nothing more on this stream, and what it sent may be lost."""

    @abstractmethod
    def _stop_sending(self, stream: int, code: int) -> None:
        """The peer takes nothing more on this stream."""

    # -- the wire ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> bytes:
        """The connection id that the peer's packets carry, as `connection_id_of` tells it."""
        return self._quic.host_cid[:CONNECTION_ID_SIZE]

    def receive(self, datagrams: list[bytes], now: float) -> int:
        """Datagrams of this connection, in order of arrival; forged, damaged and repeated ones change nothing.

        How many were the peer's and new; 0 before both ends are proved.
        """
        new = 0
        try:
            self.watch.check()
            for part, look in self.watch.parts(datagrams):
                taken = self._hand_over(part, now)
                self._take_events()
                if self.state is State.ENDED:
                    break
                new += taken
                self.watch.arrived(part, now, look=look, new=taken > 0)
        except WarpgateError as error:
            self.failure = error
            self.close(BROKEN, str(error))
        return new + self._catch_up(datagrams, now)

    def _catch_up(self, datagrams: list[bytes], now: float) -> int:
        """The client's proof, and what it says with it, may arrive before the end of the handshake: it is kept until
        then (RFC 9001 section 5.7), since the library (qh3 2.1) does not. How many of these were new, as `receive`.
        """
        if self.is_client or self.state is State.ENDED:
            return 0
        if not self._handshaken:
            news = [data for data in datagrams if is_protected(data) and data not in self._overtook]
            self._overtook += news[: OVERTAKING - len(self._overtook)]
            return 0
        overtook, self._overtook = self._overtook, []
        return self.receive(overtook, now) if overtook else 0

    def _hand_over(self, datagrams: list[bytes], now: float) -> int:
        counts: list[int] = []
        if self.state is State.OPEN:
            self._guard(lambda: counts.append(hand_over(self._quic, datagrams, now)))
        else:
            self._guard(lambda: self._quic.receive_many_datagrams(datagrams, ANYWHERE, now))
        return sum(counts)

    def handle_timeout(self, now: float) -> None:
        self._guard(lambda: self._quic.handle_timer(now))
        self._take_events()

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now."""
        try:
            datagrams = to_send(self._quic, now)
        except ValueError as error:
            self.failure = NetworkError(f"the QUIC library cannot go on: {error}")
            self.close(BROKEN, str(self.failure))
            datagrams = to_send(self._quic, now)  # no stream is asked any more
        self._unsent.set(self._held_to_send)
        return datagrams

    @property
    def deadline(self) -> float | None:
        return self._quic.get_timer()

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
            self.closed_with = code = end[0]
            reason = end[1]
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
            if event.stream_id == HEAD and self.state is State.OPENING:
                self._first_bytes(event.data, event.end_stream)
            else:
                self._stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, kinds.HandshakeCompleted):
            if event.alpn_protocol != self.alpn:
                raise AuthenticationError(f"the peer speaks {event.alpn_protocol!r}, not {self.alpn}")
            self._handshaken = True
            self._certain()
        elif isinstance(event, kinds.StreamReset):
            self._stream_reset(event.stream_id, event.error_code)
        elif isinstance(event, kinds.StopSendingReceived):
            self._stop_sending(event.stream_id, event.error_code)
        else:
            self._other_event(event)

    def _other_event(self, event: QuicEvent) -> None:
        """Of no meaning here."""

    def _first_bytes(self, data: bytes, end: bool) -> None:
        """Of stream HEAD, before the proof is whole."""
        self._head += data
        if len(self._head) > HEAD_SIZE + FIRST_CREDIT:
            raise NetworkError("the peer sent more than it may")
        if self._handshaken:
            self._certain()
        if end:
            if self.state is not State.OPEN:
                raise AuthenticationError("the QUIC stream ended before its client proved a key")
            self._stream_data(HEAD, b"", True)

    # -- small parts ---------------------------------------------------------------------------------------------

    def _queued(self, stream: int) -> int:
        """Bytes of a stream that have not been sent once."""
        return 0 if self.state is State.ENDED else self._quic.get_send_buffer_size(stream)

    @property
    def _held_to_send(self) -> int:
        """Bytes that were written and that the peer is not known to have. It decides how fast the library's congestion
        window grows, and what it gives credit for: honest ones leave less than our limit.
        """
        return 0 if self.state is State.ENDED else self._quic.get_send_buffer_size() + in_flight(self._quic)

    @property
    def _send_limit(self) -> int:
        return self._unsent.limit - self._held_to_send

    def _put(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> None:
        self._guard(lambda: self._quic.send_stream_data(stream, data, end))
        self._unsent.set(self._held_to_send)  # now: many may be written to before anything is sent

    def _guard(self, call: Callable[[], None]) -> None:
        """The library's complaint about a connection that is over ends ours. When the peer has closed it, this is about
        our answer to what came before the close: `_take_events` takes all of that, then says why it ended.
        """
        try:
            call()
        except (self._quic_error, ValueError) as error:
            if closing(self._quic) is None:
                self._end(NetworkError(f"the QUIC connection broke: {error}"))

    def _end(self, failure: WarpgateError) -> None:
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self.failure = self.failure or failure
            self.watch.end()
            self._unsent.release()
