"""Keeps the link to one broker: connects, reconnects with back-off, holds messages while it does.

What a keeper is for (its role) is the signal channel's decision; whether to try again follows from it.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import deque
from collections.abc import Callable
from functools import partial

from warpgate.errors import WarpgateError
from warpgate.model.backoff import Backoff
from warpgate.model.broker import BrokerRef
from warpgate.services.broker import BrokerConnector, BrokerLink, Judge

# Reconnecting: a restarted broker is back in a second; one that is down for the day is asked once a minute.
BACKOFF = Backoff(0.5, 60.0)
# A link that lived this long was a good one: the next failure starts with a short delay again.
GOOD_LIFE = 10.0
# However urgent the messages: a broker that refuses is not dialled more often than this.
ATTEMPT_GAP = 1.0
# A guest link that nobody used for this long is closed: longer than any attempt and its answer.
IDLE = 60.0
# One used less than this ago is still waiting for its answer, and does not make room for another guest.
BUSY = 5.0
# Messages waiting for a link to come up: a few sessions' offers; the oldest makes room.
WAITING = 16


class Role(enum.Enum):
    """What the channel wants from a broker."""

    CANDIDATE = "candidate"  # one of ours, not chosen (yet)
    HOME = "home"  # in our address: kept up permanently
    GUEST = "guest"  # a peer's: up while used


class Keeper:
    """Life: `start`; up and down as the broker pleases; ends by `stop`, a guest also when it fails or idles.

    A guest that has ended starts again with the next message.
    """

    def __init__(
        self,
        url: str,
        role: Role,
        *,
        connector: BrokerConnector,
        topic: str,
        patience: float,
        rng: random.Random,
        on_message: Callable[[bytes], None],
        on_change: Callable[[Keeper], None],
        judge: Judge | None = None,
    ) -> None:
        """`judge`: of a broker that a peer named, see `BrokerConnector`.

        `on_change`: the link came up, or broke or could not be opened (then `reason` says why).
        """
        self.url = url
        self.role = role
        self.reason = ""
        self.failures = 0
        self._connector = connector
        self._topic = topic
        self._patience = patience
        self._rng = rng
        self._on_message = on_message
        self._on_change = on_change
        self._judge = judge
        self._loop = asyncio.get_running_loop()
        self._link: BrokerLink | None = None
        self._opening: BrokerLink | None = None  # takes messages, but the broker has not let us in yet
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=WAITING)
        self._nudge = asyncio.Event()
        self._redialling = False
        self._dialling: asyncio.Task[BrokerLink] | None = None
        self._used = self._attempted = self._loop.time()
        self._task: asyncio.Task[None] | None = None

    @property
    def live(self) -> bool:
        return self._link is not None

    @property
    def opening(self) -> bool:
        """Whether messages have left to the broker, which is yet to say that it takes them."""
        return self._opening is not None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def used(self) -> float:
        """When a message last went through, on the loop's clock."""
        return self._used

    @property
    def spare(self) -> bool:
        """Whether it could make room for another guest."""
        return not self.running or (self.live and self._loop.time() - self._used >= BUSY)

    @property
    def ref(self) -> BrokerRef:
        return BrokerRef(self.url, None if self._link is None else self._link.rtt)

    def start(self) -> None:
        self._task = self._loop.create_task(self._keep(), name=f"broker {self.url}")

    def publish(self, topic: str, data: bytes) -> bool:
        """True when it went out by a link that is up; else it waits for one, which is opened without delay."""
        self._used = self._loop.time()
        link = self._opening if self._link is None else self._link
        if link is not None:
            link.publish(topic, data)
        if self._link is None:
            self._waiting.append((topic, data))  # the broker may refuse us, and take us when asked in another manner
            self._nudge.set()
            if not self.running:
                self.start()
        return self._link is not None

    def become(self, role: Role) -> None:
        """Go on in another role, from the start if need be.

        A home that becomes a guest stays up for a while: somebody may hold an address that names it.
        """
        self.role = role
        self._used = self._loop.time()
        self._nudge.set()
        if not self.running:
            self.start()

    def hurry(self) -> None:
        """Somebody needs it now: the back-off is over, though not for a broker that refuses."""
        if self._link is None:
            self._nudge.set()

    def redial(self, young: float = 0.0) -> None:
        """The network has changed: a link of before is dead, even if nobody has noticed.

        One that was begun less than `young` seconds ago is of after.
        """
        under_way = self._link is not None or self._dialling is not None
        if under_way and self._loop.time() - self._attempted < young:
            return
        self.failures = 0
        self._redialling = True
        self._nudge.set()
        if self._dialling is not None:
            self._dialling.cancel()

    def stop(self) -> asyncio.Task[None] | None:
        """The task that is ending now, to be awaited by whoever wants to see the end."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def _keep(self) -> None:
        while await self._attempt():
            await self._pause()

    async def _attempt(self) -> bool:
        """One link from opening to end; whether to go on with another."""
        self._attempted = self._loop.time()
        self._redialling = False
        dialling = self._loop.create_task(self._dial(), name=f"dialling broker {self.url}")
        self._dialling = dialling
        try:
            link = await dialling
        except asyncio.CancelledError:
            if dialling.done() and not dialling.cancelled() and dialling.exception() is None:
                await dialling.result().close()  # it came up in the tick in which it was let go
            own = asyncio.current_task()
            if not self._redialling or (own is not None and own.cancelling()):
                raise
            return True
        except (WarpgateError, TimeoutError) as error:
            self._failed(str(error) or f"no answer within {self._patience:g} s")
            return self.role is not Role.GUEST
        finally:
            self._dialling = None
            opened, self._opening = self._opening, None
        try:
            self._up(link, told=link is opened)
            reason = await self._watch(link)
        finally:
            self._link = None
            await link.close()
        if self._loop.time() - self._attempted >= GOOD_LIFE:
            self.failures = 0
        if reason is None:
            return self._redialling
        self._failed(reason)
        return self.role is not Role.GUEST

    async def _dial(self) -> BrokerLink:
        async with asyncio.timeout(self._patience) as limit:
            return await self._connector.connect(
                self.url, self._topic, self._received, self._judge, partial(self._wait_on, limit), self._opened
            )

    def _wait_on(self, limit: asyncio.Timeout) -> None:
        """The broker has answered, so it is there, however far away: the next answer may take as long again."""
        limit.reschedule(self._loop.time() + self._patience)

    def _opened(self, link: BrokerLink) -> None:
        self._opening = link
        self._tell(link)

    def _tell(self, link: BrokerLink) -> None:
        for topic, data in self._waiting:
            link.publish(topic, data)

    def _up(self, link: BrokerLink, *, told: bool) -> None:
        self._link = link
        self.reason = ""
        if not told:
            self._tell(link)
        self._waiting.clear()
        self._on_change(self)

    def _failed(self, reason: str) -> None:
        self.reason = reason
        self.failures += 1
        self._waiting.clear()  # what could not be sent by now is too old: senders repeat what matters
        self._on_change(self)

    async def _watch(self, link: BrokerLink) -> str | None:
        """Why the link died; None when it is no longer wanted."""
        closed = asyncio.ensure_future(link.closed())
        try:
            while True:
                spare = self._used + IDLE - self._loop.time() if self.role is Role.GUEST else None
                if self._redialling or (spare is not None and spare <= 0):
                    return None
                self._nudge.clear()
                nudge = asyncio.ensure_future(self._nudge.wait())
                try:
                    await asyncio.wait((closed, nudge), timeout=spare, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    nudge.cancel()
                if closed.done():
                    return closed.result()
        finally:
            closed.cancel()

    async def _pause(self) -> None:
        """Jittered back-off, cut short by a message that waits."""
        if self._redialling:
            return
        now = self._loop.time()
        until = now + BACKOFF.drawn(self.failures, self._rng.uniform)
        self._nudge.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._nudge.wait()
        except TimeoutError:
            return
        if not self._redialling:
            await asyncio.sleep(max(0.0, self._attempted + ATTEMPT_GAP - self._loop.time()))

    def _received(self, data: bytes) -> None:
        self._used = self._loop.time()
        self._on_message(data)
