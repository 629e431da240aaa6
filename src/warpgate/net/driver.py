"""Drives a sans-I/O machine (`proto/machine.py`) on the running loop: the only place that drains one.

After every input, transmits go to one callback and events to another until the machine has none left, then
one timer is set for its deadline. Callbacks may call the machine's own verbs and then `drain`, `receive` or
`close`: what they cause is taken by the drain that is already going on, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from warpgate.proto.machine import Machine

EventT = TypeVar("EventT")
TransmitT = TypeVar("TransmitT")


def _to_nobody(_: object) -> None: ...


class MachineDriver(Generic[EventT, TransmitT]):
    """Drives from construction (a machine may have something to say at once: call `drain`) to `close`."""

    __slots__ = (
        "_deadline",
        "_draining",
        "_loop",
        "_machine",
        "_on_event",
        "_open",
        "_timer",
        "_transmit",
    )

    def __init__(
        self,
        machine: Machine[EventT, TransmitT],
        transmit: Callable[[TransmitT], object],
        on_event: Callable[[EventT], object],
    ) -> None:
        self._machine = machine
        self._transmit = transmit
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._draining = False
        self._open = True

    def now(self) -> float:
        """The clock the machine lives by: the loop's, in seconds."""
        return self._loop.time()

    def receive(self, data: bytes, *source: object) -> None:
        """Give the machine `receive(data, *source, now)`; what that raises comes through. Ignored once
        closed.
        """
        if not self._open:
            return
        try:
            self._machine.receive(data, *source, self.now())
        finally:
            self.drain()

    def drain(self) -> None:
        """To be called after every verb of the machine that did not go through this driver."""
        if self._draining:
            return
        self._draining = True
        try:
            self._take_all()
        except BaseException:
            # The callback's owner gets the error; what is left must not wait for the next input.
            self._loop.call_soon(self.drain)
            raise
        finally:
            self._draining = False
            self._set_timer()

    def _take_all(self) -> None:
        while self._open:
            transmit = self._machine.poll_transmit()
            if transmit is not None:
                self._transmit(transmit)
                continue
            event = self._machine.poll_event()
            if event is None:
                return
            self._on_event(event)

    def _set_timer(self) -> None:
        deadline = self._machine.poll_timeout() if self._open else None
        if deadline == self._deadline and (self._timer is not None or deadline is None):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._deadline = deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._expired, deadline)

    def _expired(self, deadline: float) -> None:
        self._timer = None
        # Loops fire up to one clock resolution early: the machine must see that its deadline has come.
        self._machine.handle_timeout(max(self.now(), deadline))
        self.drain()

    def close(self) -> None:
        """Idempotent. What the machine has to transmit is still sent (its goodbye, for one), events are not
        given."""
        if not self._open:
            return
        self._open = False
        self._set_timer()
        while (transmit := self._machine.poll_transmit()) is not None:
            self._transmit(transmit)
        self._transmit = self._on_event = _to_nobody  # whose they are may own this driver: a circle
