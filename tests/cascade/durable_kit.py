"""A stream of counters on a durable pipe, and what befalls the networks beneath it: in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from cascade_world import World

from warpgate.core.pipes.base import Pipe
from warpgate.errors import PipeClosed
from warpgate.lab.kinds import kind_of

SIZE = 64
EACH = 0.01

Fault = Callable[[World], object]


class Counters:
    """`SIZE` bytes each `EACH` seconds from one end, echoed by the other: nothing lost, doubled or reordered."""

    def __init__(self, one: Pipe, other: Pipe) -> None:
        self._one, self._other = one, other
        self._tasks = [asyncio.ensure_future(part()) for part in (self._echo, self._send, self._receive)]
        self._last = asyncio.get_running_loop().time()
        self.gaps: list[tuple[float, float]] = []  # when one ended, and how long it was
        self.sent = self.received = 0

    async def _echo(self) -> None:
        while data := await self._other.recv():
            await self._other.send(data)

    async def _send(self) -> None:
        while True:
            await self._one.send(_counter(self.sent))
            self.sent += 1
            await asyncio.sleep(EACH)

    async def _receive(self) -> None:
        while True:
            assert await self._one.recv_n(SIZE) == _counter(self.received)
            self.received += 1
            now = asyncio.get_running_loop().time()
            self.gaps.append((now, now - self._last))
            self._last = now

    def worst_since(self, began: float) -> float:
        """The longest interruption after `began`, seconds."""
        now = asyncio.get_running_loop().time()
        return max([gap for ended, gap in self.gaps if ended > began] + [now - self._last])

    async def stop(self) -> None:
        """Everything sent comes back, and none of the parts had failed."""
        self._tasks[1].cancel()
        async with asyncio.timeout(10):
            while self.received < self.sent:  # noqa: ASYNC110 - both move with the stream
                await asyncio.sleep(EACH)
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, PipeClosed):
                await task


def _counter(number: int) -> bytes:
    return number.to_bytes(8, "big") * (SIZE // 8)


# -- faults ------------------------------------------------------------------------------------------------------


def moved(name: str, number: int) -> Fault:
    """The node is in another network behind another router: new addresses everywhere."""

    def move(world: World) -> None:
        nat = kind_of("eim-apdf").layers[0].nat
        router = world.internet.router(f"{name}{number}", f"198.51.100.{number}", nat)
        world.internet.move(world.hosts[name], f"192.168.{number}.2", behind=router)

    return move


def both(one: Fault, other: Fault) -> Fault:
    return lambda world: (one(world), other(world))


def renumbered(name: str) -> Fault:
    """The router has another public address and no mappings, and nobody is told."""
    return lambda world: world.routers[name].renumber("198.51.100.99")


def forgotten(world: World) -> None:
    for router in world.routers.values():
        router.forget()


def darkness(seconds: float) -> Fault:
    """Nothing passes between the two sites for so long; servers are in reach."""

    def fall(world: World) -> None:
        one, other = world.routers["a"], world.routers["b"]
        world.internet.partition(one, other)
        asyncio.get_running_loop().call_later(seconds, world.internet.heal, one, other)

    return fall
