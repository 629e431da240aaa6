"""One QUIC connection, sans-I/O: datagrams and instants in, datagrams out. What its streams are subclasses say.

The client checks that the server's certificate is of the expected node key, the server that the head on stream 0
(`proto.quic_proof`) is signed by the key of the session it names; before that no byte of a user's is sent or given out.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Self

from warpgate.core.connection.pieces import Pieces
from warpgate.core.connection.quic_bounds import Holdings, Watch
from warpgate.core.connection.quic_library import (
    ANYWHERE,
    SecretLog,
    closing,
    hand_over,
    has_prepared_nothing,
    has_sent_all,
    in_flight,
    let_go,
    losses,
    make_client,
    make_server,
    on_their_way,
    opener,
    take_out,
    tell_gone,
    to_send,
    wake,
    window_room,
)
from warpgate.errors import AuthenticationError, NetworkError, WarpgateError
from warpgate.model.identity import Identity, check_shown_key
from warpgate.model.text import printable
from warpgate.proto.quic_proof import HEAD_SIZE, check_head, make_head, session_of
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE, FIRST_PACKET_SIZE, is_protected

if TYPE_CHECKING:
    from qh3.quic.connection import QuicConnection
    from qh3.quic.events import QuicEvent

# What a client may send before its proof has been answered by credit: more than leaves in the first round trip.
FIRST_CREDIT = 32 * 1024

# A client's packets that may have overtaken the end of its handshake: its head, its address and its first pipes.
OVERTAKING = 4

# Bytes of one pipe that are sent before those of the next, where several wait.
SLICE = 8192
# Events wait so long at most until what was prepared before them has left (`QuicEngine._take_out`).
HOLD = 1.0

HEAD = 0  # the stream that begins with the client's head
CLOSED, REFUSED, ABORTED, BROKEN = range(4)  # application error codes
# RFC 9001 section 4.8: 0x100 and the TLS alert.
_TLS_ALERTS = range(0x100, 0x200)

# The key of the peer whose session this is; AuthenticationError when there is no such session.
FindKey = Callable[[bytes], bytes]


def _nothing() -> None: ...


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
    id_size: int  # bytes of our connection ids
    takes_datagrams = False  # DATAGRAM frames, of the peer's

    def __init__(self, quic: QuicConnection, secrets: SecretLog, holdings: Holdings, *, client: bool) -> None:
        from qh3.quic import connection, events  # noqa: PLC0415 - loaded by now

        self._kinds, self._quic_error = events, connection.QuicConnectionError
        self._quic = quic
        self._secrets = secrets
        self.is_client = client
        self._delivered: dict[int, int] = {}  # bytes that have come out in order, of the streams the peer may send on
        self.watch = Watch(holdings, self._may_send, self._how_far)
        self.acknowledged = 0  # bytes of packets, at least
        self._unsent = holdings.unsent.share()  # of what waits to be sent, or to be acknowledged
        self._handshaken = False
        self._certain: Callable[[], None] = _nothing  # tries to turn OPENING into OPEN
        self.state = State.OPENING
        self.failure: WarpgateError | None = None  # why it ended, when it ended
        self.closed_with: int | None = None  # the error code by which the peer, or an error, ended it
        self.session = b""
        self._head = bytearray()  # server: what came before the head was whole and checked
        # Server: packets under keys that are known when the handshake is over.
        self._overtook: list[bytes] = []
        # What users have written is given to the library as the congestion window has room: what it has prepared then
        # leaves, and it need not be sent when its stream is reset.
        self._turns: list[tuple[int, int]] = []  # a heap of pipes that wait, or did: how much each has sent, its stream
        self._in_turn: set[int] = set()  # their streams
        self._level = 0  # how much those had sent that were next
        self._unfed: dict[int, Pieces] = {}  # by stream
        self._unfed_bytes = 0
        self._finishing: set[int] = set()  # streams that end with it
        # Streams whose end waits alone, until no packet up to this number is on its way: None, to be found out. And how
        # many were lost before.
        self._ends: dict[int, tuple[int | None, int]] = {}
        self._said_again = 0  # of how many losses all that was lost has been sent again
        self._ended: set[int] = set()  # streams whose end we have sent, until the library forgets them
        self._repeated: set[int] = set()  # streams of which something may be prepared when they are over
        self._resets: dict[int, int] = {}  # streams to be reset, by code
        self._given = 0  # bytes of datagrams that the library may not have sent yet
        self._hold: float | None = None  # events wait; until then at most
        self._polled: list[bytes] = []  # to be sent
        tell_gone(quic, self._is_gone)

    @classmethod
    def client(cls, identity: Identity, peer_key: bytes, session: bytes, now: float, holdings: Holdings) -> Self:
        """Its first flight is ready to be sent. `session`: 16 bytes; `holdings` are the node's."""
        secrets = SecretLog()
        quic = make_client(secrets, cls.alpn, cls.id_size, datagrams=cls.takes_datagrams)
        engine = cls(quic, secrets, holdings, client=True)
        engine._start_client(identity, peer_key, session, now)
        return engine

    @classmethod
    def server(
        cls, identity: Identity, certificate: bytes, first_id: bytes, find_key: FindKey, holdings: Holdings
    ) -> Self:
        """For a first packet with the destination `first_id`; `certificate` is PEM, of `identity`. `find_key` judges
        the session that the client's head names.
        """
        secrets = SecretLog()
        frames = cls.takes_datagrams
        quic = make_server(secrets, certificate, identity, first_id, cls.alpn, cls.id_size, datagrams=frames)
        engine = cls(quic, secrets, holdings, client=False)
        engine._await_client(find_key)
        return engine

    def _start_client(self, identity: Identity, peer_key: bytes, session: bytes, now: float) -> None:
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

    def _await_client(self, find_key: FindKey) -> None:
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
    def in_flight(self) -> int:
        """Bytes of packets that were sent and are neither acknowledged nor lost."""
        return in_flight(self._quic)

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
        if self.state is not State.OPEN:
            self._guard(lambda: self._quic.receive_many_datagrams(datagrams, ANYWHERE, now))
            return 0
        counts: list[int] = []
        flying, lost = self.in_flight, losses(self._quic)
        self._guard(lambda: counts.append(hand_over(self._quic, datagrams, now)))
        if losses(self._quic) == lost:  # else nobody says how much of it was acknowledged
            self.acknowledged += max(0, flying - self.in_flight)
        self._take_out(now)
        return sum(counts)

    def _take_out(self, now: float) -> None:
        """The library's events.

        With the event that a stream is over in both directions the library (qh3 2.1) forgets it. If one of its frames
        is prepared then (a repetition that waits for the congestion window, of something that has arrived meanwhile)
        the packet with that frame is lost permanently, and so is every stream whose frames are prepared. So the events
        wait until those have left, and what users write waits as well, to make room.
        """
        if self._repeated and (self._hold is None or now < self._hold):
            self._polled += self._poll(now)
            if not has_prepared_nothing(self._quic):
                self._hold = self._hold or now + HOLD
                return
            if in_flight(self._quic) == 0:
                self._repeated.clear()
        self._hold = None
        self._guard(lambda: take_out(self._quic))

    def handle_timeout(self, now: float) -> None:
        probes: list[bool] = []
        self._guard(lambda: probes.append(wake(self._quic, now)))
        if any(probes):
            self._repeated |= self._ended
        self._take_out(now)
        self._take_events()

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now."""
        sent, self._polled = self._polled, []
        if self._ends and self._said_again != losses(self._quic):
            sent += self._send(now)  # before anything new takes the room
        more = True
        self._say_ends()
        while more:
            self._feed()
            news = self._send(now)
            sent += news
            more = self._reset_streams() or self._say_ends() or bool(news and self._turns and self._hold is None)
        self._unsent.set(self._held_to_send)
        return sent

    def _send(self, now: float) -> list[bytes]:
        news = self._poll(now)
        if self._given:
            self._given = 0 if has_sent_all(self._quic) else max(0, self._given - sum(map(len, news)))
        return news

    def _say_ends(self) -> bool:
        """Whether any was: an end that has no bytes with it goes when all before it is acknowledged.

        Before that the library (qh3 2.1) fails to note that such an end is lost, or that it has arrived: it would never
        be said again, or its stream never be over, and count for ever among the 100 that may be.
        """
        if not self._ends or self._hold is not None or self._resets:
            return False
        lost, said = losses(self._quic), False
        oldest, newest = on_their_way(self._quic)
        for stream, (known, before) in list(self._ends.items()):
            last = known
            if last is None or before != lost:  # what was lost is in a later packet, when all has been sent again
                last = newest if self._said_again == lost else None
                self._ends[stream] = last, lost
            if last is not None and oldest > last:
                del self._ends[stream]
                self._ended.add(stream)
                with suppress(self._quic_error, ValueError):
                    self._quic.send_stream_data(stream, b"", True)
                    said = True
        return said

    def _feed(self) -> None:
        """To the library what it can send now: the pipe that has sent least is next, so little goes before much.

        One that begins to wait is level with those that wait (start-time fair queueing).
        """
        room = window_room(self._quic)
        if self._hold is not None or self._resets or room < FIRST_PACKET_SIZE:
            return
        room = room * 15 // 16 - self._quic.get_send_buffer_size() - self._given  # headers
        held_up = []
        while room > 0 and self._turns:
            self._level, stream = self._turns[0]
            if not self._has(stream):
                heappop(self._turns)
                self._in_turn.discard(stream)
                continue
            fed = self._feed_from(stream, min(room, SLICE) if len(self._turns) > 1 else room)
            if fed is None:
                break
            if fed:
                heapreplace(self._turns, (self._level + fed, stream))
            else:
                held_up.append(heappop(self._turns))
            room -= fed
        for turn in held_up:
            heappush(self._turns, turn)

    def _wait(self, stream: int) -> None:
        """Something is to be sent on it."""
        if stream not in self._in_turn:
            self._in_turn.add(stream)
            heappush(self._turns, (self._level, stream))

    def _has(self, stream: int) -> bool:
        """Whether something of users' waits on it."""
        return stream in self._unfed

    def _feed_from(self, stream: int, room: int) -> int | None:
        """How many bytes it was; None when what is next needs more room than there is."""
        waiting = self._unfed[stream]
        data = waiting.take(room)
        self._unfed_bytes -= len(data)
        end = False
        if not waiting:
            del self._unfed[stream]
            if end := stream in self._finishing:
                self._finishing.discard(stream)
                if not data and not self._quic.get_send_buffer_size(stream):
                    self._ends[stream] = None, 0
                    return 0
                self._ended.add(stream)
        # It may be over: a reset whose event has not been taken yet.
        with suppress(self._quic_error, ValueError):
            self._quic.send_stream_data(stream, data, end)
        return len(data)

    def _reset(self, stream: int, code: int) -> None:
        """Send nothing more on it, and what waits neither; nothing happens when all has been sent."""
        self._drop_unfed(stream)
        self._resets[stream] = code

    def _reset_streams(self) -> bool:
        """Whether any was: as soon as nothing is prepared. A frame of it that leaves behind the reset could be beyond
        the end that the reset names, which ends the connection (RFC 9000 section 4.5).
        """
        if not self._resets or not has_prepared_nothing(self._quic):
            return False
        for stream, code in self._resets.items():
            with suppress(self._quic_error, ValueError):
                self._quic.reset_stream(stream, code)
                self._repeated.add(stream)
        self._resets.clear()
        return True

    def _poll(self, now: float) -> list[bytes]:
        try:
            sent = to_send(self._quic, now)
            if has_sent_all(self._quic):
                self._said_again = losses(self._quic)
            return sent
        except ValueError as error:
            self.failure = NetworkError(f"the QUIC library cannot go on: {error}")
            self.close(BROKEN, str(self.failure))
            return to_send(self._quic, now)  # no stream is asked any more

    def _is_gone(self, stream: int) -> None:
        self._ended.discard(stream)
        self._repeated.discard(stream)
        self._drop_unfed(stream)

    @property
    def deadline(self) -> float | None:
        timer = self._quic.get_timer()
        if self._hold is None:
            return timer
        held = 0.0 if has_prepared_nothing(self._quic) else self._hold
        return held if timer is None else min(held, timer)

    def close(self, code: int, reason: str) -> None:
        """End at once; the peer is told by the next datagram. Idempotent."""
        self._guard(lambda: self._quic.close(error_code=code, reason_phrase=reason))
        self._end(NetworkError(reason))

    def let_go(self) -> None:
        """After the last datagram: whoever drove it, and the library, are freed at once, not by Python's collector."""
        self._certain = _nothing
        if self.failure is not None:
            self.failure.__traceback__ = None  # it leads here
        self.watch.let_go()
        let_go(self._quic)

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
            self._repeated.add(event.stream_id)  # the library has reset it
            self._drop_unfed(event.stream_id)
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
        if self.state is State.ENDED:
            return 0
        return self._quic.get_send_buffer_size(stream) + len(self._unfed.get(stream, ()))

    @property
    def _waits_to_leave(self) -> int:
        """The same of all streams."""
        return 0 if self.state is State.ENDED else self._quic.get_send_buffer_size() + self._unfed_bytes

    @property
    def _held_to_send(self) -> int:
        """Bytes that were written and that the peer is not known to have. It decides how fast the library's congestion
        window grows, and what it gives credit for: honest ones leave less than our limit.
        """
        return 0 if self.state is State.ENDED else self._waits_to_leave + in_flight(self._quic)

    @property
    def _send_limit(self) -> int:
        return self._unsent.limit - self._held_to_send

    def _put(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> None:
        """What we say ourselves."""
        self._guard(lambda: self._quic.send_stream_data(stream, data, end))
        self._unsent.set(self._held_to_send)

    def _put_users(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> None:
        """What users have written."""
        if self.state is State.ENDED:
            return
        self._unfed.setdefault(stream, Pieces()).add(bytes(data))
        self._unfed_bytes += len(data)
        self._wait(stream)
        if end:
            self._finishing.add(stream)
        self._unsent.set(self._held_to_send)  # now: many may be written to before anything is sent

    def _drop_unfed(self, stream: int) -> None:
        self._unfed_bytes -= len(self._unfed.pop(stream, ()))
        self._finishing.discard(stream)
        self._ends.pop(stream, None)

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
            self._turns.clear()
            self._in_turn.clear()
            self._unfed.clear()
            self._unfed_bytes = 0
            self._resets.clear()
            self._ends.clear()
            self._hold = None
