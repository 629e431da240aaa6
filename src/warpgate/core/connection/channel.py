"""One pipe of a connection: its stream, and what is known of its end.

Who opens it says first what it is for, who takes it whether it does (`proto.channel_wire`). The users' bytes are on the
stream; of a pipe of datagrams the stream says only that it is there, and when it is over.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Protocol

from warpgate.core.connection.byte_stream import ByteStream
from warpgate.core.connection.pool import FLOOR, Pool
from warpgate.core.connection.quic_engine import ABORTED, CLOSED, State
from warpgate.errors import NetworkError
from warpgate.proto.channel_wire import ALL, TAKEN, PipeHeadReader, ReplyReader, encode_refusal

UNASKED = FLOOR
# Datagrams: received and not read, unless the node says otherwise.
QUEUE = 1024
# Bytes that wait to be sent on one pipe, where there are few; and what one takes beside its bytes, in either direction.
UNSENT = 64 * 1024
EACH = 64

_WHY = {CLOSED: "closed by the peer", ABORTED: "reset by the peer"}


class Carrier(Protocol):
    """The connection, to its channels."""

    unread: Pool
    unsent: Pool
    unconfirmed_room: int  # what may be written now, by all channels, for want of the peer's answer

    @property
    def state(self) -> State: ...

    @property
    def send_limit(self) -> int: ...

    def carry(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> None: ...

    def waiting(self, stream: int) -> int: ...

    def say_credit(self, stream: int, total: int) -> None: ...

    def stop(self, stream: int, code: int) -> None: ...

    def cut(self, stream: int, code: int) -> None: ...

    def reset(self, stream: int) -> None: ...

    def forget(self, channel: Channel) -> None: ...

    def has_datagrams(self, channel: DatagramChannel) -> None: ...


class Channel(ByteStream):
    """One pipe's stream. `failure` says why it ended before its time."""

    def __init__(self, engine: Carrier, stream: int, service: str | None) -> None:
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
        # What was written while the peer has not said that it knows of the pipe: it may have to be said again.
        self.unheard: bytearray | None = None if service is None else bytearray()

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
        sent = self.refused is not None or (self.finished and (self.delivered or self._left))
        return self.failure is not None or (sent and self.peer_finished)

    @property
    def room(self) -> int:
        if self.refused is not None or self.failure is not None:
            return 0
        return min(super().room, self._engine.unconfirmed_room)

    def write(self, data: bytes | memoryview) -> None:
        if self.unheard is not None:
            self.unheard += data
        self._engine.unconfirmed_room -= len(data)
        super().write(data)

    def leave(self) -> None:
        """Nobody reads any more: what comes is dropped, and the peer is told."""
        if not self._left and not self.over:
            self._left = True
            self.unheard = None
            self._unread.clear()
            self._share.release()
            if not self.peer_finished:
                self._engine.stop(self.stream, CLOSED)
            elif self.over:
                self._engine.forget(self)

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
        waiting = self._head.service is None
        if waiting or not self._reply.taken:
            data = self._reply.feed(self._head.feed(data))
        self.unheard = None
        if self._left:
            self._received += len(data)
        else:
            self._take(data)
        if end and self.service is None:
            raise NetworkError("the peer opened a pipe and said nothing")
        if self._reply.taken is False and (end or self._reply.full):
            self.reset()
            self.failure = f"refused: {self._reply.reason}"
        elif end:
            self._ended_by_peer()
        return waiting and self.service is not None

    def cut(self, code: int) -> None:
        """The peer sends nothing more. Where it closed the pipe, that is all; else what it sent is lost."""
        self.unheard = None
        if code == CLOSED or self._left:
            self.peer_finished = True
            self.refuse(code)
        else:
            self.reset()
            self.failure = _WHY.get(code, "reset by the peer")

    def refuse(self, code: int) -> None:
        """The peer takes nothing more: our end goes with it."""
        self.unheard = None
        if self.refused is None:
            self.refused = _WHY.get(code, "reset by the peer")
            if not self.finished:
                self._engine.cut(self.stream, code)

    def credited(self, total: int) -> None:
        """NetworkError: it cannot be true."""
        self.unheard = None
        if total == ALL and not self.finished:
            raise NetworkError("the peer has the end of a stream that has none")
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


class DatagramChannel(Channel):
    """A pipe of datagrams. Its stream has no credit, so that nothing of users' is on it."""

    def __init__(self, engine: Carrier, stream: int, service: str | None) -> None:
        super().__init__(engine, stream, service)
        self._allowed = self._granted = 0
        self.limit = QUEUE  # datagrams
        self.queue: deque[bytes] = deque()  # received and not read
        self.dropped = 0
        self._queued = 0
        self._outgoing: deque[bytes] = deque()
        self._to_send = 0
        self._unsent = engine.unsent.share()
        weakref.finalize(self, self._unsent.release)

    # -- the user ------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        return 0

    @property
    def sending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def offer(self, data: bytes, *, displace: bool) -> bool:
        """Whether it is to be sent. When too much waits already it is not, or, with `displace`, takes an older one's
        place.
        """
        cost, most = len(data) + EACH, min(UNSENT, self._unsent.limit)
        while self._to_send + cost > most and displace:
            self.next()
        if self._to_send + cost > most:
            return False
        self._outgoing.append(data)
        self._to_send += cost
        self._account()
        self._engine.has_datagrams(self)
        return True

    def took(self, data: bytes) -> None:
        """One of `queue` has been read."""
        self._queued -= len(data) + EACH
        self._account()

    def leave(self) -> None:
        super().leave()
        self._empty(self.queue)

    def _empty(self, queue: deque[bytes]) -> None:
        queue.clear()
        self._queued = 0 if queue is self.queue else self._queued
        self._to_send = 0 if queue is self._outgoing else self._to_send
        self._account()

    def fail(self, reason: str) -> None:
        super().fail(reason)
        self._empty(self._outgoing)

    # -- for the engine ------------------------------------------------------------------------------------------

    @property
    def first(self) -> bytes:
        """The next to be sent, while `sending`."""
        return self._outgoing[0]

    def next(self) -> bytes:
        data = self._outgoing.popleft()
        self._to_send -= len(data) + EACH
        self._account()
        return data

    def receive(self, data: bytes) -> None:
        """Nobody is told when it is lost, as with UDP."""
        cost = len(data) + EACH
        if self._left or self.peer_finished or self.failure is not None:
            return
        if len(self.queue) >= self.limit or self._queued + cost > self._share.limit:
            self.dropped += 1
            return
        self.queue.append(data)
        self._queued += cost
        self._account()

    def _account(self) -> None:
        self._share.set(self._queued)
        self._unsent.set(self._to_send)
