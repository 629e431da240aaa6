"""Pipes that nobody has accepted yet, and those that handlers have: few places, and many keys of one stranger."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from warpgate.core import serving
from warpgate.core.serving import ACCEPT_QUEUE, AcceptQueue, Reception, Services
from warpgate.core.tasks import Tasks
from warpgate.model.endpoint import Endpoint


class Waiting:
    """As much of a pipe as matters here."""

    def __init__(self, peer: str, ip: str, service: str = "") -> None:
        self.peer, self.remote, self.service = peer, Endpoint.of(ip, 4000), service
        self.aborted = False
        self.over = asyncio.Event()

    def abort(self, _reason: str = "") -> None:
        self.aborted = True
        self.over.set()

    async def close(self) -> None:
        return


def pipe(peer: str, ip: str, service: str = "") -> Any:
    return Waiting(peer, ip, service)


def test_a_stranger_with_many_keys_does_not_fill_the_queue() -> None:
    async def main() -> None:
        queue = AcceptQueue()
        strangers = [pipe(f"key {number}", "198.51.100.66") for number in range(2 * ACCEPT_QUEUE)]
        for one in strangers:
            queue.put(one)
        assert [one.aborted for one in strangers] == [number >= ACCEPT_QUEUE for number in range(2 * ACCEPT_QUEUE)]
        honest = pipe("honest", "203.0.113.7")
        queue.put(honest)
        assert not honest.aborted
        assert strangers[ACCEPT_QUEUE - 1].aborted
        came = [await queue.get() for _ in range(ACCEPT_QUEUE)]
        assert came == [*strangers[: ACCEPT_QUEUE - 1], honest]
        queue.put(strangers[-1])  # there is room again
        assert await queue.get() is strangers[-1]

    asyncio.run(main())


def test_one_key_from_many_places_does_not_fill_it_either() -> None:
    async def main() -> None:
        queue = AcceptQueue()
        for number in range(ACCEPT_QUEUE):
            queue.put(pipe("mallory", f"198.51.100.{number}"))
        honest = pipe("honest", "203.0.113.7")
        queue.put(honest)
        assert not honest.aborted

    asyncio.run(main())


def test_a_reader_that_is_cancelled_when_woken_takes_no_pipe_along() -> None:
    async def main() -> None:
        queue = AcceptQueue()
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        one = pipe("a", "203.0.113.7")
        queue.put(one)
        first.cancel()
        assert await second is one
        last = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.close()
        assert await last is None
        assert await queue.get() is None

    asyncio.run(main())


def test_handlers_are_shared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SERVED_AT_ONCE", 8)

    async def main() -> None:
        served: list[str] = []
        services = Services()

        async def handler(one: Any) -> None:
            served.append(one.peer)
            await one.over.wait()

        services.serve("web", handler)
        tasks = Tasks(lambda name, error: pytest.fail(f"{name}: {error}"))
        reception = Reception(services, tasks)
        strangers = [pipe(f"key {number}", "198.51.100.66", "web") for number in range(9)]
        for one in strangers:
            reception.take(one)
        honest = pipe("honest", "203.0.113.7", "web")
        reception.take(honest)
        await asyncio.sleep(0)
        assert strangers[8].aborted
        assert strangers[7].aborted
        assert not honest.aborted
        assert "honest" in served
        for one in (honest, *strangers):
            one.over.set()
        await tasks.close()

    asyncio.run(main())
