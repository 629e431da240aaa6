"""`warpgate listen` serves 400 pipes: one stranger, whatever the number of its keys, does not have them all."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from cli_fakes import FakePipe

from warpgate.cli import listen
from warpgate.cli.listen import Serving
from warpgate.model.endpoint import Endpoint, Mode

FEW = 6


def visitor(peer: str, ip: str) -> Any:
    near, _ = FakePipe.pair(Mode.STREAM, peer)
    near.remote = Endpoint.of(ip, 4000)
    return near


def test_a_stranger_with_many_keys_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "PIPES_AT_ONCE", FEW)

    async def main() -> None:
        said: list[Any] = []
        output = SimpleNamespace(warn=said.append, show=lambda _record: None)
        serving = Serving(SimpleNamespace(output=output), once=False)  # type: ignore[arg-type]
        served: set[str] = set()

        async def handler(pipe: Any) -> None:
            served.add(pipe.peer)
            await pipe.recv()

        strangers = [visitor(f"{number}" * 26, "198.51.100.66") for number in range(FEW + 2)]
        honest = visitor("h" * 26, "203.0.113.7")
        tasks = [asyncio.create_task(serving.take(handler, pipe)) for pipe in (*strangers, honest)]
        await asyncio.sleep(0.01)
        assert honest.peer in served
        assert not honest.aborted
        assert sum(pipe.aborted for pipe in strangers) == 3
        assert {record.peer for record in said} == {pipe.peer for pipe in strangers if pipe.aborted}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    asyncio.run(main())
