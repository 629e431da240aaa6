"""What is remembered of names: virtual time, and a resolver that is told how to fail."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TypeVar

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.remembered import PATIENCE, RememberedNames
from warpgate_testing.clock import run_virtual

T = TypeVar("T")
OLD, NEW = ip_address("203.0.113.1"), ip_address("203.0.113.2")


class Resolver:
    """Answers after `delay` seconds; NetworkError without an answer."""

    def __init__(self, answer: IPAddress | None, delay: float = 0.0) -> None:
        self.answer = answer
        self.delay = delay
        self.asked = 0
        self.heard: list[tuple[str, tuple[IPAddress, ...]]] = []
        self.names = RememberedNames(
            self.resolve,
            lambda host: (OLD,) if host == "known.example" else (),
            lambda host, ips: self.heard.append((host, ips)),
        )

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        self.asked += 1
        await asyncio.sleep(self.delay)
        if self.answer is None:
            raise NetworkError(f"resolve {host!r}: no name server")
        return (Endpoint(self.answer, port),)

    async def ask(self, host: str = "known.example") -> tuple[float, list[IPAddress]]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await self.names.resolve(host, 443)
        assert all(endpoint.port == 443 for endpoint in found)
        return round(loop.time() - began, 6), [endpoint.ip for endpoint in found]


def test_a_resolver_that_answers_is_believed() -> None:
    resolver = Resolver(NEW, PATIENCE / 2)
    assert run_virtual(resolver.ask()) == (PATIENCE / 2, [NEW])
    assert resolver.heard == [("known.example", (NEW,))]


def test_one_that_fails_costs_nothing() -> None:
    resolver = Resolver(None)
    assert run_virtual(resolver.ask()) == (0.0, [OLD])
    assert resolver.heard == [("known.example", (OLD,))]


def test_one_that_is_silent_costs_a_moment() -> None:
    async def story() -> None:
        resolver = Resolver(None, 3600.0)
        assert await resolver.ask() == (PATIENCE, [OLD])
        resolver.names.close()
        await asyncio.sleep(0.01)
        assert not resolver.names._asking

    run_virtual(story())


def test_one_that_is_always_late_is_heard_the_next_time() -> None:
    """What is remembered may be stale by then."""

    async def story() -> None:
        resolver = Resolver(NEW, 2.0)
        assert await resolver.ask() == (PATIENCE, [OLD])
        await asyncio.sleep(5.0)
        assert await resolver.ask() == (PATIENCE, [NEW, OLD])
        resolver.delay = 0.1
        assert await resolver.ask() == (0.1, [NEW])

    run_virtual(story())


def test_who_waits_may_give_up() -> None:
    async def story() -> None:
        resolver = Resolver(NEW, 2.0)
        asking = asyncio.ensure_future(resolver.ask())
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.sleep(5.0)
        assert not resolver.names._asking

    run_virtual(story())


def test_a_name_nobody_knows_has_the_resolvers_own_error() -> None:
    async def story() -> str:
        try:
            await Resolver(None, 7.0).ask("other.example")
        except NetworkError as error:
            return str(error)
        return ""

    assert "no name server" in run_virtual(story())
