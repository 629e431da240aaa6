"""One QUIC connection that carries many pipes, sans-I/O (`proto.channel_wire` has what is on its streams).

What all channels together may make us hold is bounded by what they share (`pool`): TOTAL_WINDOW, and for each
UNASKED, which the other side may send before any credit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from warpgate.core.connection.byte_stream import WINDOW, ByteStream
from warpgate.core.connection.pool import FLOOR, Pool
from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_engine import ABORTED, CLOSED, FIRST_CREDIT, FindKey, QuicEngine, State
from warpgate.core.connection.quic_library import SecretLog, make_client, make_server
from warpgate.errors import NetworkError, WarpgateError
from warpgate.model.identity import Identity
from warpgate.proto.channel_wire import (
    ALL,
    ALPN,
    CLIENT_CREDIT,
    CONTROL,
    SERVER_CREDIT,
    TAKEN,
    CreditReader,
    NewsReader,
    PipeHeadReader,
    ReplyReader,
    encode_credit,
    encode_news,
    encode_pipe_head,
    encode_refusal,
    is_pipe,
    opened_by_client,
)
from warpgate.proto.quic_wire import DURABLE_ID_SIZE

if TYPE_CHECKING:
    from qh3.quic.connection import QuicConnection
    from qh3.quic.events import QuicEvent

UNASKED = FLOOR
TOTAL_WINDOW = 2 * WINDOW
# News of addresses; a node's changes a few times when it moves. What comes faster is a flood.
NEWS_AT_ONCE = 32
NEWS_RATE = 1.0  # a second
# Pipes whose credit comes before they do; the library lets the peer open 100 at once.
AHEAD = 128

_WHY = {CLOSED: "closed by the peer", ABORTED: "reset by the peer"}


def _ignore(_address: bytes) -> None:
    return


class Channel(ByteStream):
    """One pipe's stream. `failure` says why it ended before its time."""

    def __init__(self, engine: QuicChannels, stream: int, service: str | None) -> None:
        """`service` None: the peer has opened it, and says."""
        super().__init__(UNASKED, UNASKED, engine.unread.share())
        self._engine = engine
        self.stream = stream
        self._head = PipeHeadReader()
        self._head.service = service
        self._reply = ReplyReader()
        self._reply.taken = True if service is None else None  # the one who opens it waits for a word
        self.failure: str | None = None
        self.refused: str | None = None  # the peer takes no more, but what it sent is to be had
        self._left = False  # nobody here reads it any more

    @property
    def service(self) -> str | None:
        return self._head.service

    @property
    def taken(self) -> bool:
        """Whether the peer has said that it takes the pipe."""
        return self._reply.taken is True

    def failure_of(self, peer: str) -> str | None:
        """`failure` as the user is told: with the node id of whose word it is, where it is one."""
        if self.failure is None or self._reply.taken is not False:
            return self.failure
        return f"{self.failure}, says node {peer}"

    def take_pipe(self) -> None:
        """Tell who opened it that it has found whom it wants."""
        self._carry(TAKEN)

    def turn_away(self, reason: str) -> None:
        """Tell who opened it why not, and that is all."""
        self._carry(encode_refusal(reason), end=True)
        self.finished = True
        self.leave()

    @property
    def over(self) -> bool:
        """Nothing comes or goes any more."""
        sent = self.refused is not None or (self.finished and self.delivered)
        return self.failure is not None or (sent and self.peer_finished)

    @property
    def room(self) -> int:
        if self.refused is not None or self.failure is not None:
            return 0
        return min(super().room, self._engine.unconfirmed_room)

    def write(self, data: bytes | memoryview) -> None:
        self._engine.unconfirmed_room -= len(data)
        super().write(data)

    def leave(self) -> None:
        """Nobody reads any more: what comes is dropped, and the peer is told."""
        if not self._left and not self.over:
            self._left = True
            self._unread.clear()
            self._share.release()
            if not self.peer_finished:
                self._engine.stop(self.stream, CLOSED)

    def reset(self) -> None:
        """Nothing more is sent or taken; what is on its way may be lost."""
        if not self.over:
            self._engine.reset(self.stream)
            self.fail("reset on this side")

    def fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            self._engine.forget(self)
            self._account()

    def account(self) -> None:
        """After the end of the connection."""
        self._account()

    # -- for the engine ------------------------------------------------------------------------------------------

    def arrived(self, data: bytes, end: bool) -> bool:
        """Whether it may be shown to somebody for the first time: the head is whole now."""
        waiting = self.service is None
        rest = self._reply.feed(self._head.feed(data))
        if self._left:
            self._received += len(rest)
        else:
            self._take(rest)
        if end and self.service is None:
            raise NetworkError("the peer opened a pipe and said nothing")
        if end and self._reply.taken is False:
            self.reset()
            self.failure = f"refused: {self._reply.reason}"
        elif end:
            self._ended_by_peer()
        return waiting and self.service is not None

    def cut(self, code: int) -> None:
        """The peer sends nothing more. Where it closed the pipe, that is all; else what it sent is lost."""
        if code == CLOSED or self._left:
            self.peer_finished = True
            self.refuse(code)
        else:
            self.reset()
            self.failure = _WHY.get(code, "reset by the peer")

    def refuse(self, code: int) -> None:
        """The peer takes nothing more: our end goes with it."""
        if self.refused is None:
            self.refused = _WHY.get(code, "reset by the peer")
            if not self.finished:
                self._engine.cut(self.stream, code)

    def credited(self, total: int) -> None:
        if total == ALL:
            self.delivered = True
        else:
            self._credited(total)

    # -- the byte stream -----------------------------------------------------------------------------------------

    @property
    def _open(self) -> bool:
        return self._engine.state is State.OPEN and self.failure is None and self.refused is None

    @property
    def _waiting(self) -> int:
        return self._engine.waiting(self.stream)

    @property
    def _send_limit(self) -> int:
        return self._engine.send_limit

    def _carry(self, data: bytes | memoryview, *, end: bool = False) -> None:
        self._engine.carry(self.stream, data, end=end)

    def _say_granted(self, total: int) -> None:
        self._engine.say_credit(self.stream, total)

    def _say_delivered(self) -> None:
        self._engine.say_credit(self.stream, ALL)


class Finished:
    """The ids of streams that are over, of one opener: below a mark all but a few are. Those are open, or skipped by
    their opener; the library allows 100.
    """

    def __init__(self, first: int) -> None:
        self._next = first
        self._not_yet: set[int] = set()

    def add(self, stream: int) -> None:
        if stream >= self._next:
            self._not_yet.update(range(self._next, stream, 4))
            self._next = stream + 4
        else:
            self._not_yet.discard(stream)

    def __contains__(self, stream: int) -> bool:
        return stream < self._next and stream not in self._not_yet


class QuicChannels(QuicEngine):
    """The channels of two nodes. `on_channel` gets those that the peer opens, `on_news` its encoded addresses."""

    alpn = ALPN

    def __init__(self, quic: QuicConnection, secrets: SecretLog, holdings: Holdings, *, client: bool) -> None:
        super().__init__(quic, secrets, holdings, client=client)
        self._credit_stream = CLIENT_CREDIT if client else SERVER_CREDIT
        self._peer_credit_stream = SERVER_CREDIT if client else CLIENT_CREDIT
        self._delivered |= {CONTROL: 0, self._peer_credit_stream: 0}
        self._credits, self._news = CreditReader(), NewsReader()
        self.unread = Pool(TOTAL_WINDOW, 2, holdings.unread)
        self._news_left = float(NEWS_AT_ONCE)
        self._now = 0.0
        self._channels: dict[int, Channel] = {}
        self._finished = {True: Finished(4), False: Finished(1)}  # by whether the client opened them
        self._ahead: dict[int, int] = {}  # credit by stream, which has overtaken it
        self._early: list[tuple[int, bytes, bool]] = []  # server: of other streams, before the proof
        self._early_bytes = 0
        # Until the peer is known to have our proof, what we send costs it: more than this at once is cut off.
        self.unconfirmed_room = FIRST_CREDIT if client else 1 << 62
        self.confirmed = (
            False  # the peer knows this connection as ours: a client's proof may still be on its way
        )
        self.wrote = False  # something was written since the owner last looked
        self._pings = 0
        self.answered = 0  # the number of the last ping that came back
        self.on_channel: Callable[[Channel], None] = lambda channel: channel.reset()
        self.on_news: Callable[[bytes], None] = _ignore

    @classmethod
    def client(
        cls, identity: Identity, peer_key: bytes, session: bytes, now: float, holdings: Holdings
    ) -> QuicChannels:
        """Its first flight is ready to be sent. `session`: 16 bytes that name the connection from now on."""
        secrets = SecretLog()
        quic = make_client(secrets, cls.alpn, DURABLE_ID_SIZE, any_path=True)
        engine = cls(quic, secrets, holdings, client=True)
        engine.start_client(identity, peer_key, session, now)
        return engine

    @classmethod
    def server(
        cls, identity: Identity, certificate: bytes, first_id: bytes, find_key: FindKey, holdings: Holdings
    ) -> QuicChannels:
        """As `QuicStream.server`."""
        secrets = SecretLog()
        quic = make_server(secrets, certificate, identity, first_id, cls.alpn, DURABLE_ID_SIZE, any_path=True)
        engine = cls(quic, secrets, holdings, client=False)
        engine.await_client(find_key)
        return engine

    def _end(self, failure: WarpgateError) -> None:
        super()._end(failure)
        for channel in self._channels.values():
            channel.account()

    # -- channels ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def channels(self) -> Iterable[Channel]:
        return tuple(self._channels.values())

    @property
    def send_limit(self) -> int:
        """How much may be written now, on all channels together."""
        return self._send_limit

    @property
    def may_open(self) -> bool:
        """Whether the peer takes one more channel now."""
        quic = self._quic
        return self.state is State.OPEN and quic.open_outbound_streams < quic.max_concurrent_bidi_streams

    def open(self, service: str) -> Channel:
        """While it `may_open`."""
        channel = self._add(self._quic.get_next_available_stream_id(), service)
        self.carry(channel.stream, encode_pipe_head(service))
        return channel

    def _add(self, stream: int, service: str | None) -> Channel:
        channel = self._channels[stream] = Channel(self, stream, service)
        channel.credited(self._ahead.pop(stream, 0))
        self._delivered[stream] = 0
        channel._grant(channel._window)
        return channel

    def forget(self, channel: Channel) -> None:
        if self._channels.pop(channel.stream, None) is not None:
            del self._delivered[channel.stream]
            self._finish(channel.stream)

    def _finish(self, stream: int) -> None:
        self._finished[opened_by_client(stream)].add(stream)
        self._ahead.pop(stream, None)

    def _is_finished(self, stream: int) -> bool:
        return stream in self._finished[opened_by_client(stream)]

    def say_news(self, address: bytes) -> None:
        """Our encoded address, which has changed."""
        self.carry(CONTROL, encode_news(address))

    # -- what channels ask for -----------------------------------------------------------------------------------

    def carry(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> None:
        self.wrote = True
        self._put(stream, data, end=end)

    def waiting(self, stream: int) -> int:
        return self._queued(stream)

    def say_credit(self, stream: int, total: int) -> None:
        if self.state is State.OPEN:
            self.carry(self._credit_stream, encode_credit(stream, total))

    def stop(self, stream: int, code: int) -> None:
        """Take nothing more; nothing happens when all has come."""
        self.wrote = True
        with suppress(self._quic_error, ValueError):
            self._quic.stop_stream(stream, code)

    def cut(self, stream: int, code: int) -> None:
        """Send nothing more; nothing happens when all has been sent."""
        self.wrote = True
        with suppress(self._quic_error, ValueError):
            self._quic.reset_stream(stream, code)

    def reset(self, stream: int) -> None:
        self.stop(stream, ABORTED)
        self.cut(stream, ABORTED)

    # -- whether the peer answers --------------------------------------------------------------------------------

    def ping(self) -> int:
        """Ask for an answer together with what is to be sent; `answered` becomes the number when it comes."""
        self._pings += 1
        number = self._pings
        self._guard(lambda: self._quic.send_ping(number))
        return number

    def waits_for_answer(self, now: float) -> bool:
        """Whether something is on its way, or waits to be sent."""
        return self.state is State.OPEN and (
            self._quic.should_wait_for_ack(now) or self._quic.get_send_buffer_size() > 0
        )

    # -- the engine ----------------------------------------------------------------------------------------------

    def receive(self, datagrams: list[bytes], now: float) -> int:
        self._news_left = min(float(NEWS_AT_ONCE), self._news_left + NEWS_RATE * (now - self._now))
        self._now = now
        return super().receive(datagrams, now)

    def _may_send(self, stream: int) -> bool:
        return stream in self._delivered or is_pipe(stream)

    def _how_far(self, stream: int) -> int:
        if is_pipe(stream) and self._is_finished(stream):
            return 1 << 62  # repetitions of what is over
        return self._delivered.get(stream, 0)

    def _proved(self) -> None:
        self.confirmed = not self.is_client
        early, self._early = self._early, []
        for stream, data, end in early:
            self._stream_data(stream, data, end)

    def _take_first(self, data: bytes) -> None:
        self._stream_data(CONTROL, data, end=False)

    def _stream_data(self, stream: int, data: bytes, end: bool) -> None:
        if self.state is State.OPENING:
            self._early_bytes += len(data) + 64
            if self._early_bytes > 2 * FIRST_CREDIT:
                raise NetworkError("the peer sent more than it may")
            self._early.append((stream, data, end))
            return
        self.confirmed = True  # a server says nothing before it has its client's proof
        if stream == CONTROL:
            for address in self._news.feed(data):
                self._heard_news(address)
        elif stream == self._peer_credit_stream:
            self.unconfirmed_room = 1 << 62
            for credited, total in self._credits.feed(data):
                self._credit(credited, total)
        elif is_pipe(stream):
            self._pipe_data(stream, data, end)
        else:
            raise NetworkError(f"the peer opened a stream {stream}")

    def _heard_news(self, address: bytes) -> None:
        self._news_left -= 1.0
        if self._news_left < 0:
            raise NetworkError("the peer moves too often to be true")
        self.on_news(address)

    def _credit(self, stream: int, total: int) -> None:
        channel = self._channels.get(stream)
        if channel is not None:
            channel.credited(total)
            self._drop_if_over(channel)
        elif self._may_be_opened(stream) and len(self._ahead) < AHEAD:
            self._ahead[stream] = max(
                total, self._ahead.get(stream, 0)
            )  # of a pipe whose first bytes are still to come

    def _may_be_opened(self, stream: int) -> bool:
        """Whether a pipe with this id may still come from the peer."""
        return (
            is_pipe(stream) and opened_by_client(stream) != self.is_client and not self._is_finished(stream)
        )

    def _pipe_data(self, stream: int, data: bytes, end: bool) -> None:
        channel = self._channels.get(stream)
        if channel is None:
            if not self._may_be_opened(stream):
                return  # of one that was reset here
            channel = self._add(stream, None)
            self._delivered[stream] = len(data)
        if channel.arrived(data, end):
            self.on_channel(channel)
        self._drop_if_over(channel)

    def _drop_if_over(self, channel: Channel) -> None:
        if channel.over:
            self.forget(channel)

    def _stream_reset(self, stream: int, code: int) -> None:
        if stream in (CONTROL, self._peer_credit_stream):
            raise NetworkError("the peer reset the connection's own streams")
        if (channel := self._channels.get(stream)) is not None:
            channel.cut(code)
            self._drop_if_over(channel)
        elif self._may_be_opened(stream):  # and was reset before it said anything
            self._finish(stream)

    def _stop_sending(self, stream: int, code: int) -> None:
        if (channel := self._channels.get(stream)) is not None:
            channel.refuse(code)
            self._drop_if_over(channel)

    def _other_event(self, event: QuicEvent) -> None:
        if isinstance(event, self._kinds.PingAcknowledged):
            self.answered = max(self.answered, event.uid)
