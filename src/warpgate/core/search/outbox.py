"""One session's messages to the peer: coalesced in a tick, sealed, repeated until acknowledged.

What says something is numbered from 1 and repeated; every envelope acknowledges what has come so far. A bare
acknowledgement (number 0) follows after a while when nothing else was said, and is itself neither acknowledged nor
repeated: whoever misses it repeats its message and gets another one. Whatever else shows that the peer heard us
(an authenticated check or HELLO) acknowledges the first message.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from warpgate.errors import WarpgateError
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.gate import SENDER_BURST, SENDER_RATE
from warpgate.proto.signals import MAX_BODY, PluginMessage

# Turns of the loop until what was added leaves: strategies that start in one tick begin tasks of their own, and what
# those say first belongs into the same envelope (a broker's Nagle algorithm holds the next one back for a round trip).
# By then they have sent their first packets, too.
TURNS = 3

# Of the rate at which a peer listens. The rest is for what a broker delivers more densely than it was said.
PACE = 0.8
# How many of these are kept for sessions that have said no more than a few envelopes: after a move what connects again
# must not stand behind all that older searches still have to say.
KEPT, FEW = 8.0, 4
# So many messages wait for their turn in one envelope; what else it carries has room beside them.
TOGETHER = 4

Post = Callable[[int, tuple[PluginMessage, ...]], None]


class Pace:
    """What all sessions say to one peer, no faster than it listens: of what is too fast it would hear the first part
    alone, and repetitions of that would keep it from the rest. The session that has said least is next.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(PACE * SENDER_RATE, PACE * SENDER_BURST, self._loop.time())
        self._waiting: dict[tuple[Outbox, int], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.heard_at = -math.inf  # by any session

    def say(self, outbox: Outbox, sequence: int) -> None:
        """Now, or in its turn, if it has not become needless by then."""
        self._waiting.setdefault((outbox, sequence))
        self._advance()

    def _advance(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            outbox, sequence = turn = min(self._waiting, key=_said)
            if outbox.needs(sequence):
                now = self._loop.time()
                if wait := self._bucket.wait(now, 0.0 if outbox.said < FEW else KEPT):
                    self._timer = self._loop.call_later(wait, self._advance)
                    return
                self._bucket.take(now)
                del self._waiting[turn]
                outbox.deliver(sequence)
            else:
                del self._waiting[turn]


def _fit(messages: tuple[PluginMessage, ...]) -> bool:
    """Whether they may share an envelope, whatever else is in it."""
    return len(messages) <= TOGETHER and sum(len(message.body) for message in messages) <= MAX_BODY


def _said(turn: tuple[Outbox, int]) -> int:
    return turn[0].said


class Outbox:
    """`post(sequence, messages)` seals and publishes; it is called in the tick in which something was added, unless too
    much is said to this peer.
    """

    def __init__(
        self,
        post: Post,
        repeat_offsets: Callable[[], Sequence[float]],
        on_failure: Callable[[str], None],
        pace: Pace,
    ) -> None:
        """`repeat_offsets`: seconds after a message that leaves now at which it is sent again."""
        self._post = post
        self._repeat_offsets = repeat_offsets
        self._on_failure = on_failure
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._queued: list[PluginMessage] = []
        self._flush: asyncio.Handle | None = None
        self._acknowledgement: asyncio.TimerHandle | None = None
        self._correction: asyncio.TimerHandle | None = None
        self._unacknowledged: dict[int, tuple[PluginMessage, ...]] = {}
        self._repeats: dict[int, list[asyncio.TimerHandle]] = {}
        self._sent: dict[int, float] = {}
        self._repeated: set[int] = set()
        self._owes = False  # a bare acknowledgement
        self._open = True
        self.sequence = 0
        self.said = 0  # envelopes, with repetitions and acknowledgements

    def add(self, message: PluginMessage) -> None:
        """Goes out at the end of this tick, together with everything else added in it."""
        self._queued.append(message)
        self.schedule()

    def schedule(self, within: float = 0.0) -> None:
        """Send a numbered envelope, even one without messages, as our address has changed: at the end of this tick, or
        in `within` seconds unless one was sent by then.
        """
        if self._flush is not None or not self._open:
            return
        if within <= 0:
            self._flush = self._loop.call_soon(self._turn, TURNS)
        elif self._correction is None:
            self._correction = self._loop.call_later(within, self._correct)

    def _correct(self) -> None:
        self._correction = None
        self.schedule()

    def acknowledge(self, within: float) -> None:
        """Let the peer know what has come, in `within` seconds at the latest."""
        if self._flush is None and self._acknowledgement is None and self._open:
            self._acknowledgement = self._loop.call_later(within, self._send_acknowledgement)

    def sent_at(self, sequence: int) -> float | None:
        """When a message left for the first time."""
        return self._sent.get(sequence)

    def repeated(self, sequence: int) -> bool:
        """Whether it was sent again, so that its acknowledgement may be of a repetition (Karn, RFC 6298)."""
        return sequence in self._repeated

    def _turn(self, left: int) -> None:
        if left:
            self._flush = self._loop.call_soon(self._turn, left - 1)
        else:
            self._send_queued()

    def _send_queued(self) -> None:
        self._flush = None
        self._drop_acknowledgement()
        self._drop_correction()
        queued, self._queued = tuple(self._queued), []
        waiting = None if self.sequence in self._sent else self._unacknowledged.get(self.sequence)
        if waiting is not None and _fit(together := waiting + queued):
            self._unacknowledged[self.sequence] = together  # its turn has not come yet: one envelope is enough
            return
        self.sequence += 1
        self._unacknowledged[self.sequence] = queued
        self._pace.say(self, self.sequence)

    def repeat_all(self) -> None:
        """Send once more what is not acknowledged yet."""
        for sequence in tuple(self._unacknowledged):
            self._pace.say(self, sequence)

    def _send_acknowledgement(self) -> None:
        self._acknowledgement, self._owes = None, True
        self._pace.say(self, 0)

    def _drop_acknowledgement(self) -> None:
        if self._acknowledgement is not None:
            self._acknowledgement.cancel()
            self._acknowledgement = None

    def _drop_correction(self) -> None:
        if self._correction is not None:
            self._correction.cancel()
            self._correction = None

    def needs(self, sequence: int) -> bool:
        """Whether it is still to be said."""
        return sequence in self._unacknowledged if sequence else self._owes and self._open

    def deliver(self, sequence: int) -> None:
        """Its turn has come."""
        self.said += 1
        self._owes = False  # every envelope acknowledges
        if sequence in self._sent:
            self._repeated.add(sequence)
        elif sequence:
            self._sent[sequence] = self._loop.time()
            self._repeats[sequence] = [
                self._loop.call_later(offset, self._pace.say, self, sequence) for offset in self._repeat_offsets()
            ]
        try:
            self._post(sequence, self._unacknowledged.get(sequence, ()))
        except WarpgateError as error:
            self._on_failure(str(error))

    def acknowledged(self, sequence: int) -> None:
        """The peer has everything up to and including `sequence`."""
        for number in [number for number in self._unacknowledged if number <= sequence]:
            del self._unacknowledged[number]
            for timer in self._repeats.pop(number, ()):
                timer.cancel()

    def close(self) -> None:
        """Idempotent; nothing is sent afterwards."""
        self._open = False
        self._drop_acknowledgement()
        self._drop_correction()
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self.acknowledged(self.sequence)
        self._queued.clear()
