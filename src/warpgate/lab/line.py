"""Time and distance: the one timer of the lab, and lines that delay, lose, duplicate and wear packets out."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import time
from collections.abc import Callable
from typing import Final

from warpgate.errors import ConfigError
from warpgate.lab.answers import Complaint, complain
from warpgate.lab.linux import TimerFd
from warpgate.lab.packet import Packet, spend_hops
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress

Deliver = Callable[[Packet], None]
# A line with a bandwidth drops what would wait longer than this: a router buffer of a quarter of a second.
QUEUE_LIMIT: Final = 0.25
# The scheduler's correction for late waking: how many wake-ups it averages over, and how long it may spin.
WAKING_MEMORY: Final = 16
LONGEST_SPIN: Final = 0.0003


@dataclass(frozen=True, slots=True)
class Quality:
    """One direction of a line. Seconds, probabilities, bit/s; `hops` routers spend one TTL each.

    `jitter` adds up to that much, evenly spread, and so reorders. IP packets of more octets than `mtu` vanish without a
    word, as where ICMP is filtered. Raises ConfigError for what cannot be.
    """

    delay: float = 0.010
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    bandwidth: float | None = None
    hops: int = 3
    mtu: int | None = None

    def __post_init__(self) -> None:
        if self.delay < 0 or self.jitter < 0 or self.hops < 0:
            raise ConfigError("delay, jitter and hops of a line cannot be negative")
        if not (0 <= self.loss <= 1 and 0 <= self.duplicate <= 1):
            raise ConfigError("loss and duplication are probabilities, 0 to 1")
        if self.bandwidth is not None and self.bandwidth <= 0:
            raise ConfigError("a line needs a bandwidth above 0, or None")


@dataclass(slots=True)
class LineCounters:
    """Packets of one direction of a line."""

    packets: int = 0
    octets: int = 0
    lost: int = 0
    duplicated: int = 0
    overflowed: int = 0
    expired: int = 0
    too_large: int = 0


class Scheduler:
    """Delivers packets at instants of `time.monotonic()` (asyncio's clock) through one kernel timer.

    A sleeping machine wakes late (measured: 170 us on an idle virtual one), which adds up over the lines of a path. So
    the timer is set early by what waking took lately, and what is left of the time is spun away.
    """

    now = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Deliver, Packet]] = []
        self._order = itertools.count()
        self._timer = TimerFd()
        self._armed = math.inf
        self._waking = 0.0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer.fd, self._fire)

    def at(self, when: float, deliver: Deliver, packet: Packet) -> None:
        heapq.heappush(self._queue, (when, next(self._order), deliver, packet))
        if when < self._armed:
            self._arm(when)

    def _fire(self) -> None:
        self._timer.clear()
        queue, now = self._queue, time.monotonic
        late = min(max(now() - (self._armed - self._waking), 0.0), LONGEST_SPIN)
        self._waking += (late - self._waking) / WAKING_MEMORY
        self._armed = -math.inf  # nothing arms the timer while the queue is being looked at
        try:
            while queue and queue[0][0] - now() < self._waking:
                when, _, deliver, packet = heapq.heappop(queue)
                while now() < when:
                    pass
                deliver(packet)
        finally:
            self._armed = math.inf
            if queue:
                self._arm(queue[0][0])

    def _arm(self, when: float) -> None:
        self._armed = when
        self._timer.set(when - self._waking)

    def close(self) -> None:
        self._loop.remove_reader(self._timer.fd)
        self._timer.close()
        self._queue.clear()


class Line:
    """One direction of a line. `quality` may be replaced at any time: it holds for what is sent afterwards.

    A packet whose TTL ends on the way is complained about through `bounce`, by a router with one of
    `routers`' addresses.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        quality: Quality,
        rng: random.Random,
        *,
        deliver: Deliver,
        bounce: Deliver,
        routers: tuple[IPAddress, ...],
    ) -> None:
        self.quality = quality
        self.counters = LineCounters()
        self._scheduler = scheduler
        self._rng = rng
        self.deliver = deliver
        self.bounce = bounce
        self._routers = routers
        self._busy_until = 0.0

    def send(self, packet: Packet) -> None:
        quality, counters, random_number = self.quality, self.counters, self._rng.random
        counters.packets += 1
        counters.octets += len(packet.data)
        if quality.mtu is not None and len(packet.data) > quality.mtu:
            counters.too_large += 1
            return
        now = departure = self._scheduler.now()
        if quality.bandwidth is not None:
            departure = max(now, self._busy_until)
            if departure - now > QUEUE_LIMIT:
                counters.overflowed += 1
                return
            departure += len(packet.data) * 8 / quality.bandwidth
            self._busy_until = departure
        if quality.loss and random_number() < quality.loss:
            counters.lost += 1
            return
        if not spend_hops(packet, quality.hops):
            self._expire(packet, departure + quality.delay)
            return
        if quality.duplicate and random_number() < quality.duplicate:
            counters.duplicated += 1
            self._launch(packet.copy(), departure)
        self._launch(packet, departure)

    def _launch(self, packet: Packet, departure: float) -> None:
        quality = self.quality
        delay = quality.delay + (quality.jitter * self._rng.random() if quality.jitter else 0.0)
        self._scheduler.at(departure + delay, self.deliver, packet)

    def _expire(self, packet: Packet, when: float) -> None:
        self.counters.expired += 1
        for ip in self._routers:
            if ip.version == packet.version:
                error = complain(packet, Complaint.TIME_EXCEEDED, ip)
                if error is not None:
                    self._scheduler.at(when, self.bounce, error)
