"""Strategies that do everything a strategy must not do, for tests of the core that has to live with them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import ClassVar

from warpgate.core.search.links import TcpLink
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.plugins.base import Attempt, Plugin
from warpgate.plugins.registry import REGISTRY, Registry

QUICK = ("direct", "reverse", "udp_punch", "tcp_punch")


class Rogue(Plugin):
    """Signals, so that its other half runs too; misbehaves after a time that the session's id decides."""

    transports: ClassVar[frozenset[Transport]] = frozenset(Transport)
    message_type: ClassVar[type | None] = dict

    async def initiate(self, attempt: Attempt) -> Link:
        attempt.signal({"hello": 1})
        await asyncio.sleep(attempt.session[0] / 2000)  # 0 to 128 ms
        return await self.misbehave(attempt)

    async def respond(self, attempt: Attempt) -> Link:
        await attempt.receive()
        await asyncio.sleep(attempt.session[1] / 2000)
        return await self.misbehave(attempt)

    async def misbehave(self, attempt: Attempt) -> Link:
        raise NotImplementedError


class Raises(Rogue):
    name: ClassVar[str] = "raises"

    async def misbehave(self, attempt: Attempt) -> Link:
        raise ZeroDivisionError("a plugin's bug")


class ReturnsNothing(Rogue):
    name: ClassVar[str] = "returns_nothing"

    async def misbehave(self, attempt: Attempt) -> Link:
        return None  # type: ignore[return-value]


class ReturnsAStranger(Rogue):
    name: ClassVar[str] = "returns_a_stranger"

    async def misbehave(self, attempt: Attempt) -> Link:
        class Strange:
            transport = Transport.TCP
            relayed = False
            local = remote = Endpoint.of("192.0.2.1", 9)

            def abort(self) -> None:
                pass

        return Strange()


class Hangs(Rogue):
    name: ClassVar[str] = "hangs"

    async def misbehave(self, attempt: Attempt) -> Link:
        await asyncio.get_running_loop().create_future()
        raise AssertionError


class LeavesLate(Rogue):
    """Takes its time to leave, but less than the race would give it."""

    name: ClassVar[str] = "leaves_late"

    async def misbehave(self, attempt: Attempt) -> Link:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.05)
        raise AssertionError


class Forgets(Rogue):
    """Dials whatever it can and forgets the links, in tasks that nobody owns."""

    name: ClassVar[str] = "forgets"

    async def misbehave(self, attempt: Attempt) -> Link:
        tasks = [asyncio.ensure_future(attempt.dial(pair.remote)) for pair in attempt.pairs(Transport.TCP) if pair.open]
        for task in tasks:
            attempt.stack.callback(task.cancel)
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await attempt.inbound()
        await attempt.open_udp(attempt.local.attachments[0].host_endpoint(Transport.UDP) or Endpoint.of("0.0.0.0", 0))
        await asyncio.sleep(0.1)
        raise RuntimeError("forgot everything")


class DialsAfterwards(Rogue):
    """Leaves a task behind that dials when the plugin has long failed."""

    name: ClassVar[str] = "dials_afterwards"

    async def initiate(self, attempt: Attempt) -> Link:
        async def dial() -> None:
            await asyncio.sleep(0.3)
            for pair in attempt.pairs(Transport.TCP):
                if pair.open:
                    await attempt.dial(pair.remote)

        task = asyncio.ensure_future(dial())
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        raise RuntimeError("failed, but not finished")


class ReturnsADeadLink(Rogue):
    """Dials, drops the link, returns it."""

    name: ClassVar[str] = "returns_a_dead_link"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})

    async def misbehave(self, attempt: Attempt) -> Link:
        for pair in attempt.pairs(Transport.TCP):
            if pair.open:
                link = await attempt.dial(pair.remote)
                assert isinstance(link, TcpLink)
                link.abort()
                return link
        raise RuntimeError("nobody to dial")


ROGUES = (Raises, ReturnsNothing, ReturnsAStranger, Hangs, LeavesLate, Forgets, ReturnsADeadLink)


def registry_with(*plugins: type[Plugin]) -> Registry:
    """The strategies that neither guess nor relay (those take long, by design), and these."""
    registry = Registry()
    for plugin in (*REGISTRY.select(QUICK), *plugins):
        registry.add(plugin)
    return registry
