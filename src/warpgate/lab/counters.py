"""A stream of counters over a pipe whose peer echoes: what was lost, doubled, reordered, and how long nothing came."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol

from warpgate.errors import PipeClosed
from warpgate.lazy_dataclass import dataclass

SIZE: Final = 64
EACH: Final = 0.010
FELT: Final = 0.060  # several counters in a row did not come when they should have


class Stream(Protocol):
    """As much of a pipe as is needed."""

    async def send(self, data: bytes) -> None: ...

    async def recv_n(self, size: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Gap:
    """Between two counters in a row: when the second one came, on the loop's clock, and how long after the first."""

    ended: float
    seconds: float


class Counters:
    """`SIZE` bytes each so many seconds, from when it is made until `stop`; `fault` says what was wrong, "" nothing."""

    def __init__(self, pipe: Stream, each: float = EACH) -> None:
        self.sent = self.received = 0
        self.fault = ""
        self.gaps: list[Gap] = []
        self._pipe = pipe
        self._each = each
        self._loop = asyncio.get_running_loop()
        self._last: float | None = None  # when the latest one came
        self._sending = asyncio.ensure_future(self._send())
        self._receiving = asyncio.ensure_future(self._receive())

    async def _send(self) -> None:
        with contextlib.suppress(PipeClosed):  # the receiver says so
            while True:
                self.sent += 1
                await self._pipe.send(counter(self.sent))
                await asyncio.sleep(self._each)

    async def _receive(self) -> None:
        try:
            while not self.fault:
                data, expected = await self._pipe.recv_n(SIZE), counter(self.received + 1)
                now = self._loop.time()
                if self._last is not None:
                    self.gaps.append(Gap(now, now - self._last))
                self._last = now
                if data == expected:
                    self.received += 1
                else:
                    self.fault = f"counter {self.received + 1} came as {data.hex()}"
        except PipeClosed as error:
            self.fault = f"after {self.received} counters: {error}"

    def worst(self, since: float = 0.0) -> float:
        """The longest interruption that ended after this instant, or has not ended, seconds."""
        ended = [gap.seconds for gap in self.gaps if gap.ended > since]
        return max([*ended, self._loop.time() - self._last] if self._last is not None else [0.0])

    def felt(self, since: float = 0.0) -> list[Gap]:
        """The interruptions that ended after this instant."""
        return [gap for gap in self.gaps if gap.ended > since and gap.seconds > FELT]

    async def stop(self, patience: float = 10.0) -> None:
        """Send no more, and wait for the rest: what does not come in time is a `fault`."""
        self._sending.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.received < self.sent and not self.fault:  # noqa: ASYNC110 - both move with the stream
                    await asyncio.sleep(EACH)
        if self.received < self.sent and not self.fault:
            self.fault = f"{self.sent - self.received} of {self.sent} counters did not come back"
        self._receiving.cancel()
        await asyncio.wait((self._sending, self._receiving))


def counter(number: int) -> bytes:
    """`SIZE` bytes that no other number has."""
    return number.to_bytes(8, "big") * (SIZE // 8)
