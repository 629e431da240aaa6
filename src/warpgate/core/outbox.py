"""One session's messages to the peer: coalesced in a tick, sealed, repeated until acknowledged.

The initiator repeats what is not acknowledged; the responder sends its last answer again when an offer is repeated,
so it needs no timer of its own and a lost answer costs nothing extra. Whatever shows that the peer heard us (an
authenticated check or HELLO) counts as an acknowledgement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from warpgate.errors import WarpgateError
from warpgate.proto.signals import PluginMessage

Post = Callable[[int, tuple[PluginMessage, ...]], None]


class Outbox:
    """`post(sequence, messages)` seals and publishes; it is called in the tick in which something was added."""

    def __init__(
        self, post: Post, repeat_offsets: Sequence[float], on_failure: Callable[[str], None]
    ) -> None:
        """`repeat_offsets`: seconds after a message at which it is sent again; () for a responder."""
        self._post = post
        self._repeat_offsets = tuple(repeat_offsets)
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._queued: list[PluginMessage] = []
        self._flush: asyncio.Handle | None = None
        self._unacknowledged: dict[int, tuple[PluginMessage, ...]] = {}
        self._repeats: dict[int, list[asyncio.TimerHandle]] = {}
        self._last: tuple[int, tuple[PluginMessage, ...]] | None = None
        self.sequence = 0
        self.sent_at: dict[int, float] = {}

    def add(self, message: PluginMessage) -> None:
        """Goes out at the end of this tick, together with everything else added in it."""
        self._queued.append(message)
        self.schedule()

    def schedule(self) -> None:
        """Send an envelope at the end of this tick, even an empty one."""
        if self._flush is None:
            self._flush = self._loop.call_soon(self._send_queued)

    def _send_queued(self) -> None:
        self._flush = None
        messages, self._queued = tuple(self._queued), []
        self.sequence += 1
        sequence = self.sequence
        self.sent_at[sequence] = self._loop.time()
        self._last = (sequence, messages)
        if self._repeat_offsets:
            self._unacknowledged[sequence] = messages
            self._repeats[sequence] = [
                self._loop.call_later(offset, self._repeat, sequence) for offset in self._repeat_offsets
            ]
        self._deliver(sequence, messages)

    def _repeat(self, sequence: int) -> None:
        if sequence in self._unacknowledged:
            self._deliver(sequence, self._unacknowledged[sequence])

    def repeat_last(self) -> None:
        """The peer repeated itself, so it has not heard our last answer."""
        if self._last is not None and self._flush is None:
            self._deliver(*self._last)

    def _deliver(self, sequence: int, messages: tuple[PluginMessage, ...]) -> None:
        try:
            self._post(sequence, messages)
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
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self.acknowledged(self.sequence)
        self._queued.clear()
