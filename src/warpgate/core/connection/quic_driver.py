"""Drives a QUIC engine on the running loop; where its datagrams go subclasses say.

Datagrams that arrive in one turn of the loop are handed over together, and what is written in one turn is sent
together: the library is much quicker so. Whoever waits is woken after every step and looks again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from warpgate.core.connection.quic_engine import CLOSED, QuicEngine, State
from warpgate.errors import NetworkError


class QuicDriver(ABC):
    """Lives until `close`."""

    def __init__(self, engine: QuicEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._arrived: list[bytes] = []
        self._step: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._waiters: list[asyncio.Future[None]] = []
        engine.watch.on_excess = self.soon
        self.on_change: Callable[[], None] = lambda: None
        self._over = False

    @property
    def acknowledged(self) -> int:
        return self._engine.acknowledged

    @property
    def in_flight(self) -> int:
        return self._engine.in_flight

    # -- waiting -------------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        """Until both ends are proved. NetworkError, AuthenticationError when that fails."""
        while self._engine.state is State.OPENING and not self._over:
            await self.changed()
        if self._engine.state is not State.OPEN:
            raise self._engine.failure or NetworkError("the QUIC handshake was given up")

    async def changed(self) -> None:
        """Until anything may have happened; at once when it is over."""
        if self._over:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- driving -------------------------------------------------------------------------------------------------

    def deliver(self, datagrams: Sequence[bytes]) -> None:
        """Of the peer's, in order of arrival."""
        self._arrived += datagrams
        self.soon()

    def soon(self) -> None:
        """After a verb of the engine's: step at the end of this turn."""
        if self._step is None and not self._over:
            self._step = self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        self._step = None
        if self._over:
            return
        if self._arrived or self._engine.watch.excess is not None:
            arrived, self._arrived = self._arrived, []
            self._take_arrived(arrived)
        self._send()
        self._wake()
        self._set_timer()
        self.on_change()

    def _take_arrived(self, datagrams: list[bytes]) -> None:
        self._engine.receive(datagrams, self._loop.time())

    @abstractmethod
    def _send(self) -> None:
        """Everything that the engine has to say now."""

    def _set_timer(self) -> None:
        deadline = self._engine.deadline
        if deadline == self._deadline and self._timer is not None:
            return
        self._drop_timer()
        self._deadline = deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._expired, deadline)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self, deadline: float) -> None:
        self._timer = None
        # Loops fire up to one clock resolution early: the library must see that its deadline has come.
        self._engine.handle_timeout(max(self._loop.time(), deadline))
        self._advance()

    # -- ending --------------------------------------------------------------------------------------------------

    def close(self, code: int = CLOSED, reason: str = "closed") -> None:
        """Tell the peer by one datagram and let go of what carries it; synchronous and idempotent."""
        if self._over:
            return
        self._engine.close(code, reason)
        self._send()
        self._over = True
        if self._step is not None:
            self._step.cancel()
        self._drop_timer()
        self._release()
        self._wake()
        self.on_change = lambda: None
        self._engine.let_go()

    @abstractmethod
    def _release(self) -> None:
        """Nothing is sent or received any more."""
