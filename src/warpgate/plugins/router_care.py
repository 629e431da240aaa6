"""How a search goes easy on the router before it, whose state shows only in what becomes of fresh sockets."""

from __future__ import annotations

import asyncio
import math
import random

from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import Endpoint
from warpgate.plugins.base import Attempt, RandomPunch

# How often a fresh socket is tried during a search, and how long our router is left alone when it gets no mapping
# (at least; twice as long each time, 8 s at most). Seconds.
CARE_INTERVAL = 1.0
BACK_OFF = Backoff(1.0, 8.0)
# A server's answer that is so much later than the fastest one came to a repeated question (the first repetition leaves
# after 0.25 s): the router dropped the first. Seconds.
LATE = 0.2


class RouterCare:
    """What a punch does to our router, as far as that shows: whether a fresh socket gets a mapping, and how soon.

    Its table may be full, or it makes no more mappings a second: of ours, or of those of another node behind it, of
    which nothing else is seen from here. Where there is no mapping, nothing is sent for a while; where the first packet
    was lost, half as many a second, and an eighth more after each answer in time, so that two nodes share what there
    is. How long is drawn, so that two that have filled a table together do not go on together.
    """

    def __init__(self, attempt: Attempt, punch: RandomPunch, near: Endpoint) -> None:
        self._attempt = attempt
        self._punch = punch
        self._near = near
        self._rng = random.Random(attempt.session)
        self._fastest = math.inf
        self._failures = 0
        self.lost = False  # something that was sent, at any time

    async def ask(self) -> bool:
        """Whether there is a mapping for a fresh socket."""
        took = await self._punch.maps_anew(self._near)
        if took is None:
            self._failures += 1
        elif took > self._fastest + LATE:
            self._punch.go_on()
            self._slow_down()
            self._attempt.note(f"our router lost what a fresh socket sent first: {self._punch.rate:g} probes a second")
        else:
            self._failures = 0
            self._punch.go_on()
            self._punch.speed_up()
            self._fastest = min(self._fastest, took)
        return took is not None

    async def rest(self) -> None:
        """After a failure."""
        self._punch.hold_back()
        self._slow_down()
        pause = BACK_OFF.after(self._failures)
        self._attempt.note(f"our router has no mapping for a fresh socket: leaving it alone for {pause:g} s or more")
        await asyncio.sleep(pause * self._rng.uniform(1.0, 2.0))

    async def room(self, waits: int) -> bool:
        """Wait until there is a mapping, so many times at most; whether it was necessary."""
        for tried in range(waits):
            if await self.ask():
                return tried > 0
            await self.rest()
        return True

    def _slow_down(self) -> None:
        self.lost = True
        self._punch.slow_down()


async def look_after_router(attempt: Attempt, near: Endpoint, punch: RandomPunch) -> None:
    """Hold the punch back while our router has no mapping for a fresh socket."""
    care = RouterCare(attempt, punch, near)
    while True:
        await asyncio.sleep(CARE_INTERVAL)
        while not await care.ask():
            await care.rest()
