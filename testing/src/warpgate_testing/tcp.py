"""TCP reduced to what shows: a pure state machine, segments and instants in, segments and a deadline out.

It does what RFC 9293 and Linux do where a program could notice: the handshake and its crossed form
(simultaneous open, section 3.5), retransmission of everything until acknowledged, reset rules (section
3.10.7, RFC 5961), half-close, a bounded window, keepalive. It leaves out congestion control, reassembly and
delayed ACKs: lost data is sent again from the hole on. Sequence numbers start at 0 on both sides, so SYN is 0
and the first byte is 1.
"""

from __future__ import annotations

import enum
import errno
from collections import deque
from typing import Final

from warpgate.lab.flow import ACK, FIN, RST, SYN
from warpgate_testing.segment import RECEIVE_BUFFER, TcpSegment

SEGMENT_SIZE: Final = 16 * 1024
SEND_BUFFER: Final = 64 * 1024

# RFC 6298 section 2.1: "the sender SHOULD set RTO <- 1 second"; doubled each time, so SYNs leave after 0, 1,
# 3, 7 s.
FIRST_TIMEOUT: Final = 1.0
# Linux adds at least TCP_RTO_MIN (200 ms) to the smoothed round trip.
TIMEOUT_MARGIN: Final = 0.2
LONGEST_TIMEOUT: Final = 120.0  # Linux TCP_RTO_MAX
SYN_PATIENCE: Final = 127.0  # net.ipv4.tcp_syn_retries = 6
SYN_ACK_PATIENCE: Final = 63.0  # net.ipv4.tcp_synack_retries = 5
ORPHAN_PATIENCE: Final = 60.0  # net.ipv4.tcp_fin_timeout: how long the kernel waits for the peer's FIN

# net.ipv4.tcp_retries2 = 15: "a hypothetical timeout of 924.6 seconds"
RETRANSMISSION_PATIENCE: Final = 924.6

# The options that net/tcp.py sets on real sockets.
KEEPALIVE_IDLE: Final = 15.0
KEEPALIVE_INTERVAL: Final = 5.0
KEEPALIVE_PROBES: Final = 3


class State(enum.Enum):
    SYN_SENT = "syn sent"
    SYN_RECEIVED = "syn received"
    ESTABLISHED = "established"  # and everything after it: see `eof` and `finished`
    CLOSED = "closed"


class News(enum.Enum):
    """The only event: look at the connection again."""

    CHANGED = "changed"


class Connection:
    """One end. `failure` is the errno it ended with, None while it lives or after an orderly end.

    `readable`, `room` and `eof` are for the program; `detached` says that the program has closed it and only
    the kernel goes on.
    """

    def __init__(self, now: float, *, active: bool) -> None:
        """An active one sends its SYN, a passive one waits to be given the SYN it was made for."""
        self.state = State.SYN_SENT if active else State.SYN_RECEIVED
        self.failure: int | None = None
        self.eof = False
        self.detached = False
        self._active = active
        self._queue: deque[TcpSegment] = deque()
        self._incoming = bytearray()
        self._outgoing = bytearray()  # not acknowledged yet
        self._end_of_data = 1  # the number after the last byte written, which a FIN gets
        self._una = 0  # the oldest number not acknowledged
        self._nxt = 0  # the next to be sent
        self._max = 0  # the next never sent
        self._expected = 0  # the peer's next
        self._peer_window = 0
        self._advertised = RECEIVE_BUFFER
        self.finishing = False
        self._repaired = -1  # the hole that a duplicate ACK has already made us fill
        self._owes_ack = False
        self._news = False
        self._opened = now
        self._round_trip: float | None = None
        self._timeout = FIRST_TIMEOUT
        self._retransmit_at: float | None = None
        self._progress = now  # when the peer last acknowledged something new, or had nothing to
        self._heard = now
        self._probes = 0
        self._orphan_until: float | None = None
        if active:
            self._open(now)

    # -- the program's side ----------------------------------------------------------------------------------

    @property
    def established(self) -> bool:
        return self.state is State.ESTABLISHED

    @property
    def readable(self) -> int:
        return len(self._incoming)

    @property
    def room(self) -> int:
        """Bytes that `write` would take."""
        return SEND_BUFFER - len(self._outgoing)

    @property
    def unacknowledged(self) -> int:
        return len(self._outgoing) if self.established else 0

    @property
    def finished(self) -> bool:
        """Both directions have ended and everything of ours is acknowledged."""
        return self.eof and self.finishing and self._una > self._end_of_data

    def stalled(self, now: float) -> float:
        """Seconds since the peer last acknowledged something, while data is in flight; else 0.0."""
        return now - self._progress if self.established and self._una < self._max else 0.0

    def read(self, limit: int) -> bytes:
        data = bytes(self._incoming[:limit])
        del self._incoming[:limit]
        if self._window - self._advertised >= RECEIVE_BUFFER // 2 and not self.eof:
            # A window update, late enough not to answer every read (RFC 9293 section 3.8.6.2.2).
            self._owes_ack = True
        return data

    def write(self, data: bytes | memoryview, now: float) -> int:
        """How many bytes the send buffer took."""
        taken = min(len(data), self.room)
        self._outgoing += data[:taken]
        self._end_of_data += taken
        self._send_more(now)
        return taken

    def finish(self, now: float) -> None:
        """FIN after what was written."""
        self.finishing = True
        self._send_more(now)

    def close(self, now: float) -> None:
        """The program is done with it: FIN, or RST where received bytes are lost by that (RFC 1122,
        4.2.2.13).
        """
        self.detached = True
        if self._incoming or self.state is not State.ESTABLISHED:
            self.abort()
        else:
            self._orphan_until = now + ORPHAN_PATIENCE
            self.finish(now)

    def abort(self) -> None:
        """RST, unless there is nobody to tell (a SYN_SENT connection goes silently)."""
        self.detached = True
        if self.state is State.CLOSED:
            return
        if self.state in (State.ESTABLISHED, State.SYN_RECEIVED) and not self.finished:
            self._queue.append(TcpSegment(RST | ACK, self._max, self._expected))
        self._end(None)

    def vanish(self) -> None:
        """The host has crashed: nobody is told, least of all the peer."""
        self._queue.clear()
        self._end(errno.ENETDOWN)

    # -- the network's side ----------------------------------------------------------------------------------

    def receive(self, segment: TcpSegment, now: float) -> None:
        if self.state is State.CLOSED:
            return
        self._news = True
        self._heard, self._probes = now, 0
        if segment.flags & RST:
            self._receive_reset(segment)
        elif self.state is State.SYN_SENT:
            self._receive_answer(segment, now)
        elif segment.flags & SYN:
            self._receive_syn(segment, now)
        else:
            self._receive_established(segment, now)
        if self.state is State.ESTABLISHED:
            self._send_more(now)

    def handle_timeout(self, now: float) -> None:
        due = self.poll_timeout()
        if due is None or due > now:
            return
        self._news = True
        if self.state is not State.ESTABLISHED and now >= self._opening_deadline:
            self._end(errno.ETIMEDOUT)
        elif self._orphan_until is not None and self._orphan_until <= now:
            self._end(None)
        elif self._retransmit_at is not None and self._retransmit_at <= now:
            self._retransmit(now)
        elif self._probes >= KEEPALIVE_PROBES:
            self._end(errno.ETIMEDOUT)
        elif self.state is State.ESTABLISHED:
            self._probes += 1
            self._queue.append(TcpSegment(ACK, self._una - 1, self._expected, self._window))

    def poll_transmit(self) -> TcpSegment | None:
        if self._owes_ack and self.state is not State.CLOSED:
            self._queue.append(TcpSegment(ACK, self._max, self._expected, self._window))
        self._owes_ack = False
        if not self._queue:
            return None
        segment = self._queue.popleft()
        if segment.flags & ACK:
            self._advertised = segment.window
        return segment

    def poll_event(self) -> News | None:
        news, self._news = self._news, False
        return News.CHANGED if news else None

    def poll_timeout(self) -> float | None:
        if self.state is State.CLOSED or self.finished:
            return None
        first = self._retransmit_at
        if self.state is not State.ESTABLISHED:
            return self._opening_deadline if first is None else min(first, self._opening_deadline)
        if first is None:
            first = self._heard + KEEPALIVE_IDLE + self._probes * KEEPALIVE_INTERVAL
        return first if self._orphan_until is None else min(first, self._orphan_until)

    @property
    def _opening_deadline(self) -> float:
        return self._opened + (SYN_PATIENCE if self.state is State.SYN_SENT else SYN_ACK_PATIENCE)

    # -- opening ---------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        """SYN or SYN+ACK, for the first time or again."""
        crossed = self.state is State.SYN_RECEIVED
        flags = SYN | ACK if crossed else SYN
        self._queue.append(TcpSegment(flags, 0, self._expected, self._window))
        self._nxt = self._max = 1
        self._retransmit_at = now + self._timeout

    def _receive_answer(self, segment: TcpSegment, now: float) -> None:
        """In SYN_SENT (RFC 9293 section 3.10.7.3)."""
        if segment.flags & ACK and segment.ack != 1:
            self._queue.append(TcpSegment(RST, segment.ack))
        elif segment.flags & SYN:
            self._expected = 1
            self._peer_window = segment.window
            if segment.flags & ACK:
                self._establish(now)
                self._owes_ack = True
            else:
                self.state = State.SYN_RECEIVED  # simultaneous open
                self._open(now)

    def _receive_syn(self, segment: TcpSegment, now: float) -> None:
        if self.state is State.ESTABLISHED:
            self._owes_ack = True  # our ACK was lost, or RFC 5961 section 4: challenge
        elif segment.flags & ACK:
            if segment.ack == 1:
                self._establish(now)
                self._owes_ack = True
        else:
            self._expected = 1
            self._peer_window = segment.window
            self._open(now)

    def _establish(self, now: float) -> None:
        self.state = State.ESTABLISHED
        self._una = self._nxt = self._max = 1
        self._progress = now
        self._retransmit_at = None
        if self._timeout == FIRST_TIMEOUT:  # nothing was sent twice (Karn's algorithm)
            self._round_trip = now - self._opened
        self._timeout = self._base_timeout

    @property
    def _base_timeout(self) -> float:
        return FIRST_TIMEOUT if self._round_trip is None else self._round_trip + TIMEOUT_MARGIN

    def _receive_reset(self, segment: TcpSegment) -> None:
        if self.state is State.SYN_SENT:
            if segment.flags & ACK and segment.ack == 1:
                self._end(errno.ECONNREFUSED)
        elif segment.seq == self._expected:
            refused = self.state is State.SYN_RECEIVED and self._active
            self._end(errno.ECONNREFUSED if refused else errno.ECONNRESET)
        elif self._expected < segment.seq <= self._expected + self._window:
            self._owes_ack = True  # RFC 5961 section 3.2: challenge

    # -- established -----------------------------------------------------------------------------------------

    def _receive_established(self, segment: TcpSegment, now: float) -> None:
        if self.state is State.SYN_RECEIVED:
            if segment.ack < 1:
                return
            self._establish(now)
        self._receive_ack(segment, now)
        fresh = self._take_data(segment)
        if fresh and self.detached:
            self.abort()  # nobody will ever read it
            return
        if segment.flags & FIN and segment.end == self._expected + 1 and not self.eof:
            self._expected += 1
            self.eof = True
        if segment.data or segment.flags & FIN or segment.seq < self._expected:
            self._owes_ack = True

    def _receive_ack(self, segment: TcpSegment, now: float) -> None:
        same_window = segment.window == self._peer_window
        self._peer_window = segment.window
        if self._una < segment.ack <= self._max:
            acknowledged = min(segment.ack, self._end_of_data) - self._una
            del self._outgoing[:acknowledged]
            self._una = segment.ack
            self._nxt = max(self._nxt, self._una)
            self._progress = now
            self._timeout = self._base_timeout
            self._retransmit_at = now + self._timeout if self._una < self._max else None
        elif self._repaired < self._una == segment.ack < self._max and same_window and segment.end == segment.seq:
            # A duplicate ACK (RFC 5681 section 2). Paths keep the order of a connection's segments, so one is
            # proof of a loss.
            self._repaired = self._max
            self._nxt = self._una

    def _take_data(self, segment: TcpSegment) -> bool:
        if not segment.seq <= self._expected < segment.seq + len(segment.data) or self.eof:
            return False
        fresh = segment.data[self._expected - segment.seq :][: self._window]
        self._incoming += fresh
        self._expected += len(fresh)
        return bool(fresh)

    @property
    def _window(self) -> int:
        return RECEIVE_BUFFER - len(self._incoming)

    def _send_more(self, now: float) -> None:
        if self.state is not State.ESTABLISHED:
            return
        end = self._end_of_data
        while self._nxt < min(end, self._una + self._peer_window):
            offset = self._nxt - self._una
            size = min(SEGMENT_SIZE, end - self._nxt, self._una + self._peer_window - self._nxt)
            self._put(ACK, bytes(self._outgoing[offset : offset + size]), now)
        if self.finishing and self._nxt == end and self._una <= end:
            self._put(ACK | FIN, b"", now)
        if self._nxt < end and self._retransmit_at is None:  # the window is closed: ask again after a while
            self._retransmit_at = now + self._timeout

    def _put(self, flags: int, data: bytes, now: float) -> None:
        segment = TcpSegment(flags, self._nxt, self._expected, self._window, data)
        self._queue.append(segment)
        self._owes_ack = False
        if self._una == self._max:
            self._progress = now
        self._nxt = segment.end
        self._max = max(self._max, self._nxt)
        if self._retransmit_at is None:
            self._retransmit_at = now + self._timeout

    def _retransmit(self, now: float) -> None:
        self._timeout = min(2 * self._timeout, LONGEST_TIMEOUT)
        if self.state is not State.ESTABLISHED:
            self._open(now)
            return
        # With a closed window nothing is in flight, and the answers to our questions are the sign of life.
        limit = RETRANSMISSION_PATIENCE + (self._progress if self._una < self._max else self._heard)
        if now >= limit:
            self._end(errno.ETIMEDOUT)
            return
        self._retransmit_at = min(now + self._timeout, limit)
        if self._peer_window == 0:
            self._queue.append(TcpSegment(ACK, self._una - 1, self._expected, self._window))
        self._nxt = self._una
        self._send_more(now)

    def _end(self, failure: int | None) -> None:
        self.state = State.CLOSED
        self.failure = failure
        self._retransmit_at = None
