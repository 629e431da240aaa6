"""One QUIC connection that carries many pipes, sans-I/O (`proto.channel_wire` has what is on its streams).

What all channels together may make us hold is bounded by what they share (`pool`): TOTAL_WINDOW, and for each
UNASKED, which the other side may send before any credit, or FLOOR of datagrams that nobody reads.

Datagrams wait for the congestion window here, as the users' bytes do: the library (qh3 2.1) keeps what it cannot send
of them without a bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from warpgate.core.connection.byte_stream import WINDOW
from warpgate.core.connection.channel import EACH, Channel, DatagramChannel
from warpgate.core.connection.pool import Pool
from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_engine import ABORTED, CLOSED, FIRST_CREDIT, QuicEngine, State
from warpgate.core.connection.quic_library import (
    SecretLog,
    confirm,
    largest_frame,
)
from warpgate.errors import NetworkError, WarpgateError
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.channel_wire import (
    ALPN,
    CLIENT_CREDIT,
    CONTROL,
    LARGEST_DATAGRAM,
    SEEN,
    SERVER_CREDIT,
    CreditReader,
    NewsReader,
    begins_datagrams,
    decode_datagram,
    encode_credit,
    encode_datagram,
    encode_pipe_head,
    is_pipe,
    largest_datagram,
    nth_pipe,
    opened_by_client,
)
from warpgate.proto.datagram_frames import encode_frame
from warpgate.proto.quic_wire import DURABLE_ID_SIZE

if TYPE_CHECKING:
    from qh3.quic.connection import QuicConnection
    from qh3.quic.events import QuicEvent

# Of one connection: less than all of a node's, so that others have something left; WINDOW for one pipe alone.
TOTAL_WINDOW = WINDOW + WINDOW // 8
# News of addresses; a node's changes a few times when it moves. What comes faster is a flood.
NEWS_AT_ONCE = 32
NEWS_RATE = 1.0  # a second
# Pipes of one connection, however many more the peer would take, and never end: one holds 2 KB when it is closed.
CHANNELS = 1024
# Pipes whose credit comes before they do; the library lets the peer open 100 at once.
AHEAD = 128
# Datagrams of pipes that are still to come: their first bytes were lost, or overtaken.
HELD = 8


def _ignore(_address: bytes) -> None:
    return


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

    alpn, id_size, takes_datagrams = ALPN, DURABLE_ID_SIZE, True

    def __init__(self, quic: QuicConnection, secrets: SecretLog, holdings: Holdings, *, client: bool) -> None:
        super().__init__(quic, secrets, holdings, client=client)
        self._credit_stream = CLIENT_CREDIT if client else SERVER_CREDIT
        self._peer_credit_stream = SERVER_CREDIT if client else CLIENT_CREDIT
        self._delivered |= {CONTROL: 0, self._peer_credit_stream: 0}
        self._credits, self._news = CreditReader(), NewsReader()
        self.unread = Pool(TOTAL_WINDOW, TOTAL_WINDOW / WINDOW, holdings.unread)
        self.unsent = holdings.unsent
        self._news_left = TokenBucket(NEWS_RATE, NEWS_AT_ONCE, 0.0)
        self._now = 0.0
        self._channels: dict[int, Channel] = {}
        self._finished = {True: Finished(4), False: Finished(1)}  # by whether the client opened them
        self._ahead: dict[int, int] = {}  # credit by stream, which has overtaken it
        self._early: list[tuple[int, bytes, bool]] = []  # server: of other streams, before the proof
        self._early_bytes = 0
        # Until the peer is known to have our proof, what we send costs it: more than this at once is cut off.
        self.unconfirmed_room = FIRST_CREDIT if client else 1 << 62
        self.confirmed = False  # the peer knows this connection as ours: a client's proof may still be on its way
        self.wrote = False  # something was written since the owner last looked
        self.pipes_seen = 0  # how many the peer has opened
        self._held: deque[tuple[int, bytes]] = deque(maxlen=HELD)  # datagrams that have overtaken their pipe
        self._stopping: dict[int, int] = {}  # streams to be stopped when what waits on them has left, by code
        self._pings = 0
        self.answered = 0  # the number of the last ping that came back
        self.on_channel: Callable[[Channel], None] = Channel.reset
        self.on_news: Callable[[bytes], None] = _ignore

    def close(self, code: int, reason: str) -> None:
        """An orderly end tells the peer which of its pipes have come to be known here."""
        in_order = code == CLOSED and self.state is State.OPEN
        super().close(SEEN + self.pipes_seen if in_order else code, reason)

    def unseen(self, stream: int) -> bool:
        """Whether the peer has ended it all without ever knowing of this pipe of ours."""
        code = self.closed_with
        return code is not None and code >= SEEN and nth_pipe(stream) > code - SEEN

    def _end(self, failure: WarpgateError) -> None:
        super()._end(failure)
        self._stopping.clear()
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
        """Whether the peer takes one more channel now; its limit counts those that are over (RFC 9000 section 4.6)."""
        so_far = self._quic.get_next_available_stream_id() // 4
        few = len(self._channels) < CHANNELS
        return few and self.state is State.OPEN and so_far < self._quic.max_concurrent_bidi_streams

    @property
    def largest_datagram(self) -> int:
        """Bytes; negative when the peer takes none."""
        return min(LARGEST_DATAGRAM, largest_datagram(largest_frame(self._quic)))

    def open(self, service: str, *, datagrams: bool = False) -> Channel:
        """While it `may_open`."""
        channel = self._add(self._quic.get_next_available_stream_id(), service, datagrams)
        # At once: the library counts the streams that have something.
        self._put(channel.stream, encode_pipe_head(service, datagrams=datagrams))
        self.wrote = True
        return channel

    def _add(self, stream: int, service: str | None, datagrams: bool) -> Channel:
        kind = DatagramChannel if datagrams else Channel
        channel = self._channels[stream] = kind(self, stream, service)
        if (total := self._ahead.pop(stream, None)) is not None:
            channel.credited(total)
        self._delivered[stream] = 0
        if isinstance(channel, DatagramChannel):
            held, self._held = self._held, deque(maxlen=HELD)
            for of, data in held:
                self._take_datagram(of, data)
        else:
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
        self.carry(CONTROL, encode_frame(address))

    # -- what channels ask for -----------------------------------------------------------------------------------

    def carry(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> None:
        self.wrote = True
        if is_pipe(stream):
            self._put_users(stream, data, end=end)
        else:
            self._put(stream, data, end=end)

    def waiting(self, stream: int) -> int:
        return self._queued(stream)

    def say_credit(self, stream: int, total: int) -> None:
        if self.state is State.OPEN:
            self.carry(self._credit_stream, encode_credit(stream, total))

    def stop(self, stream: int, code: int) -> None:
        """Take nothing more; nothing happens when all has come."""
        self.wrote = True
        if self._queued(stream):
            self._stopping[stream] = code
        else:
            self._stop_now(stream, code)

    def _stop_now(self, stream: int, code: int) -> None:
        """The library (qh3 2.1) sends nothing but this on the stream until a probe timeout: nothing may wait on it."""
        self._stopping.pop(stream, None)
        with suppress(self._quic_error, ValueError):
            self._quic.stop_stream(stream, code)
            self._repeated.add(stream)

    def cut(self, stream: int, code: int) -> None:
        """Send nothing more; nothing happens when all has been sent."""
        self.wrote = True
        self._reset(stream, code)

    def reset(self, stream: int) -> None:
        self.wrote = True
        self._stop_now(stream, ABORTED)
        self.cut(stream, ABORTED)

    # -- datagrams -----------------------------------------------------------------------------------------------

    def has_datagrams(self, channel: DatagramChannel) -> None:
        if self.state is State.OPEN:
            self._wait(channel.stream)

    def datagrams(self, now: float) -> list[bytes]:
        sent = super().datagrams(now)
        if ready := [stream for stream in self._stopping if not self._queued(stream)]:
            for stream in ready:
                self._stop_now(stream, self._stopping[stream])
            sent += super().datagrams(now)
        return sent

    def _has(self, stream: int) -> bool:
        return stream in self._unfed or self._sends_datagrams(stream) is not None

    def _sends_datagrams(self, stream: int) -> DatagramChannel | None:
        channel = self._channels.get(stream)
        return channel if isinstance(channel, DatagramChannel) and channel.sending else None

    def _feed_from(self, stream: int, room: int) -> int | None:
        channel = self._sends_datagrams(stream)
        if channel is None:
            return super()._feed_from(stream, room)
        # Its head goes first: the peer keeps few datagrams of a pipe that it does not know.
        if self._quic.get_send_buffer_size(stream):
            return 0
        fed = 0
        while channel.sending and fed + (cost := len(channel.first) + EACH) <= room:
            if cost > self.unconfirmed_room:
                return fed
            self._guard(partial(self._quic.send_datagram_frame, encode_datagram(stream, channel.next())))
            self.wrote = True
            self.unconfirmed_room -= cost
            self._given += cost
            fed += cost
        return fed or None

    def _take_datagram(self, stream: int, data: bytes) -> None:
        channel = self._channels.get(stream)
        if isinstance(channel, DatagramChannel):
            channel.receive(data)
        elif channel is not None:
            raise NetworkError("the peer sent a datagram on a stream of bytes")
        elif self._may_be_opened(stream):
            self._held.append((stream, data))

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
            self._quic.should_wait_for_ack(now) or self._waits_to_leave > 0 or any(map(self._has, self._in_turn))
        )

    # -- the engine ----------------------------------------------------------------------------------------------

    def receive(self, datagrams: list[bytes], now: float) -> int:
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
        self.unconfirmed_room = 1 << 62
        if is_pipe(stream):
            self._pipe_data(stream, data, end)
        elif stream == CONTROL:
            for address in self._news.feed(data):
                self._heard_news(address)
        elif stream == self._peer_credit_stream:
            for credited, total in self._credits.feed(data):
                self._credit(credited, total)
        else:
            raise NetworkError(f"the peer opened a stream {stream}")

    def let_go(self) -> None:
        super().let_go()
        self.on_channel, self.on_news = Channel.reset, _ignore

    def _heard_news(self, address: bytes) -> None:
        if not self._news_left.take(self._now):
            raise NetworkError("the peer moves too often to be true")
        self.on_news(address)

    def _credit(self, stream: int, total: int) -> None:
        channel = self._channels.get(stream)
        if channel is not None:
            channel.credited(total)
            self._drop_if_over(channel)
        elif self._may_be_opened(stream) and len(self._ahead) < AHEAD:
            # Of a pipe whose first bytes are still to come.
            self._ahead[stream] = max(total, self._ahead.get(stream, 0))

    def _may_be_opened(self, stream: int) -> bool:
        """Whether a pipe with this id may still come from the peer."""
        return is_pipe(stream) and opened_by_client(stream) != self.is_client and not self._is_finished(stream)

    def _pipe_data(self, stream: int, data: bytes, end: bool) -> None:
        channel = self._channels.get(stream)
        if channel is None:
            if not self._may_be_opened(stream):
                return  # of one that was reset here
            channel = self._add(stream, None, begins_datagrams(data))
            self.pipes_seen = max(self.pipes_seen, nth_pipe(stream))
            self._delivered[stream] = len(data)
        if channel.arrived(data, end):
            self.on_channel(channel)
        if end:
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
            if self.is_client:
                confirm(self._quic)
        elif isinstance(event, self._kinds.DatagramFrameReceived):
            self._take_datagram(*decode_datagram(event.data))
