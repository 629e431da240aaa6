"""How much the peers of all QUIC connections of a node can make the library hold; its only place.

The library bounds bytes and not pieces: a stream of one-byte frames with gaps between them costs it 98 bytes for each
(qh3 2.1), 400 MB within its windows. So packets are opened a second time, one of GAP chosen at random, and the pieces
in them counted that are still out of order: an estimate without bias, for 3 % of a core at 1 Gbit/s. Time without
progress or numbers of packets would not do: an honest peer whose path died and came back delivers thousands of small
writes in whatever order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from warpgate.core.connection.pool import Pool
from warpgate.errors import NetworkError, ProtocolError
from warpgate.proto.quic_frames import STREAM_FIRST, STREAM_LAST, PacketOpener, frames

# Connections of each kind whose client has not proved its key: 2 ms of handshake and 100 KB each, and an honest one is
# proved after a round trip. Beyond that whoever has most of them makes room.
UNPROVED = 64
# Those begun by an offer or a check whose client has no path yet, for as long as its search may last: they keep nobody
# out, and beyond that a client is answered when it has one.
AHEAD = 64
# Of datagrams until the peer has proved its key, and in handshake packets after that: a handshake is 4 KiB, and what a
# client may send with its proof FIRST_CREDIT. As one-byte pieces they make 1 MB.
UNPROVED_BYTES = 64 * 1024
# The same of all connections together; those that have brought less than UNPROVED_FAIR are not the cause.
UNPROVED_TOTAL = 1024 * 1024
UNPROVED_FAIR = 16 * 1024
# Packets between two that are opened, on average.
GAP = 128
# Pieces in one packet: qh3 sends 16 at most, so more are no accident.
PIECES_IN_PACKET = 64
# Pieces out of order. A whole window of credit in writes of 64 bytes is as many: 6.5 MB; the total is 26 MB.
PIECES = 65_536
PIECES_TOTAL = 262_144
# Frames that make the library keep or send something and that few are needed of (connection ids, challenges, stream
# ends, CRYPTO): so many at once, and a second.
CONTROL = 16_384
CONTROL_RATE = 4.0

# What streams may hold to be read, and to be sent or acknowledged: one alone 4 MiB, above what `pool` gives all; next
# to a connection that holds the most it may, another gets as much as it begins with. With 400 pipes, and what their
# programs have read and not written yet, a node keeps below 95 MB (bench/attacks).
UNREAD_TOTAL = 5376 * 1024
UNSENT_TOTAL = 5376 * 1024
PARTS = 1.3125

_LONG_HEADER = 0x80
# PING, ACK, MAX_DATA, MAX_STREAM_DATA, *_BLOCKED, CONNECTION_CLOSE, HANDSHAKE_DONE, DATAGRAM: cost nothing that lasts.
_FREE = frozenset((0x01, 0x02, 0x03, 0x10, 0x11, 0x14, 0x15, 0x16, 0x17, 0x1C, 0x1D, 0x1E, 0x30, 0x31))

Delivered = Callable[[int], int]


class Holdings:
    """What all connections of a node hold together; one for each node."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._unproved = 0
        self.unread = Pool(UNREAD_TOTAL, PARTS)
        self.unsent = Pool(UNSENT_TOTAL, PARTS)

    def add_unproved(self, watch: Watch, size: int) -> None:
        """NetworkError when it, or all together, have brought too much before a proof."""
        self._watches.add(watch)
        self._unproved += size
        watch.unproved += size
        crowded = self._unproved > UNPROVED_TOTAL and watch.unproved > UNPROVED_FAIR
        if watch.unproved > UNPROVED_BYTES or crowded:
            raise NetworkError("the peer sent too much without a proof of its key")

    def count(self, watch: Watch) -> None:
        """After `watch.pieces` has grown. Ends the connection that holds the most when all hold too much."""
        self._watches.add(watch)
        if sum(other.pieces for other in self._watches) > PIECES_TOTAL:
            max(self._watches, key=lambda other: other.pieces).exceed()

    def proved(self, watch: Watch) -> None:
        self._unproved -= watch.unproved
        watch.unproved = 0

    def forget(self, watch: Watch) -> None:
        self.proved(watch)
        self._watches.discard(watch)


class Watch:
    """Over one connection: `arrived` with everything that the library got."""

    def __init__(self, holdings: Holdings, may_send: Callable[[int], bool], delivered: Delivered) -> None:
        """`may_send`: whether the peer may, on a stream; `delivered`: how many bytes of it have come out in order."""
        self._holdings = holdings
        self._may_send = may_send
        self._delivered = delivered
        self._opener: PacketOpener | None = None
        self._out_of_order: list[tuple[int, int]] = []  # stream and end of sampled pieces
        self._until_next = 0
        self._late = 0
        self._control = 0.0
        self._at = 0.0
        self.unproved = 0
        self.excess: NetworkError | None = None  # the connection is to be ended for it
        self.on_excess: Callable[[], None] = lambda: None

    @property
    def pieces(self) -> int:
        """Held out of order, by estimate."""
        return len(self._out_of_order) * GAP

    def prove(self, opener: PacketOpener) -> None:
        """The peer is who it should be; `opener` is for its packets."""
        self._opener = opener
        self._until_next = _gap()
        self._holdings.proved(self)

    def check(self) -> None:
        """NetworkError: the connection is to be ended."""
        if self.excess is not None:
            raise self.excess

    def parts(self, datagrams: list[bytes]) -> Iterator[tuple[list[bytes], bool]]:
        """What the library may have, to be handed over part by part and each to `arrived` after that; those that are to
        be looked at are alone and marked, so that it is known whether the library took them.
        """
        if self._opener is not None:
            datagrams = [data for data in datagrams if not data[0] & _LONG_HEADER or self._may_come_late(data)]
        at = 0
        while self._opener is not None and (look := at + self._until_next) < len(datagrams):
            if look > at:
                yield datagrams[at:look], False
            yield datagrams[look : look + 1], True
            at, self._until_next = look + 1, _gap()
        self._until_next -= len(datagrams) - at
        if at < len(datagrams):
            yield datagrams[at:], False

    def _may_come_late(self, handshake: bytes) -> bool:
        """They may be repeated for a while. What they cost is bounded as before the proof; whoever is on the path can
        forge some, which must not end the connection.
        """
        self._late += len(handshake)
        return self._late <= UNPROVED_BYTES

    def arrived(self, datagrams: list[bytes], now: float, *, look: bool, new: bool) -> None:
        """One of `parts`; `new`: the library has taken something. NetworkError, ProtocolError: the connection is to be
        ended.
        """
        self.check()
        if self._opener is None:
            self._holdings.add_unproved(self, sum(map(len, datagrams)))
        elif look and new:
            self._look(datagrams[0], now)

    def exceed(self) -> None:
        self.excess = NetworkError("the peer sent too many pieces of streams out of order")
        self.on_excess()

    def end(self) -> None:
        self._out_of_order.clear()
        self._holdings.forget(self)

    def let_go(self) -> None:
        """Nothing arrives any more: of the functions that it was made with."""
        self.on_excess = lambda: None
        self._may_send, self._delivered = (lambda _: False), (lambda _: 0)

    def _look(self, datagram: bytes, now: float) -> None:
        assert self._opener is not None
        if datagram[0] & _LONG_HEADER:
            return
        payload = self._opener.open(datagram)
        if payload is None:
            raise ProtocolError("the peer has renewed its QUIC keys")  # ours do not; it would be out of sight
        self._control = max(0.0, self._control - CONTROL_RATE * (now - self._at))
        self._at = now
        self._out_of_order = [entry for entry in self._out_of_order if entry[1] > self._delivered(entry[0])]
        before = len(self._out_of_order)
        for frame in frames(payload):
            self._weigh(frame.kind, frame.stream, frame.end)
        if self.pieces > PIECES or len(self._out_of_order) - before > PIECES_IN_PACKET:
            self.exceed()
        else:
            self._holdings.count(self)
        if self.excess is not None:
            raise self.excess

    def _weigh(self, kind: int, stream: int, end: int) -> None:
        if STREAM_FIRST <= kind <= STREAM_LAST:
            if not self._may_send(stream):
                raise NetworkError(f"the peer opened a stream {stream}")
            if end > self._delivered(stream):
                self._out_of_order.append((stream, end))
        elif kind not in _FREE:
            self._control += GAP
            if self._control > CONTROL:
                raise NetworkError("the peer floods the connection with control frames")


def _gap() -> int:
    """Random, so that a peer cannot hide between."""
    return int(random.expovariate(1 / GAP))
