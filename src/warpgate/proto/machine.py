"""What every state machine below the line looks like from outside: five verbs and a clock argument.

One driver (`net/driver.py`) drains machines: after each `receive` or `handle_timeout` it takes
`poll_transmit` and `poll_event` until they return None, then sleeps until `poll_timeout`. Instants are
seconds on one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, Protocol, TypeVar

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint

EventT_co = TypeVar("EventT_co", covariant=True)
TransmitT_co = TypeVar("TransmitT_co", covariant=True)
EventT = TypeVar("EventT")
TransmitT = TypeVar("TransmitT")


@dataclass(frozen=True, slots=True)
class Transmit:
    """A datagram to send from the socket bound to `base`; `ttl` None leaves the system's default."""

    data: bytes
    base: Endpoint
    remote: Endpoint
    ttl: int | None = None


class Machine(Protocol[EventT_co, TransmitT_co]):
    """Bytes and instants in; datagrams, events and a deadline out. Never raises on what peers send."""

    def receive(self, *arguments: Any, **named: Any) -> None:
        """One datagram (or piece of stream), what this machine wants to know about it, and `now`."""

    def handle_timeout(self, now: float) -> None:
        """Do whatever is due; harmless when nothing is."""

    def poll_transmit(self) -> TransmitT_co | None:
        """The next thing to send, or None."""

    def poll_event(self) -> EventT_co | None:
        """The next thing that happened, or None."""

    def poll_timeout(self) -> float | None:
        """When to call `handle_timeout` next; None: not before something is received."""


class Outputs(Generic[EventT, TransmitT]):
    """What most machines have to say, in the order in which they found it."""

    def __init__(self) -> None:
        self._outbox: deque[TransmitT] = deque()
        self._events: deque[EventT] = deque()

    def poll_transmit(self) -> TransmitT | None:
        return self._outbox.popleft() if self._outbox else None

    def poll_event(self) -> EventT | None:
        return self._events.popleft() if self._events else None
