"""Tasks end with their owner, whoever that is."""

from __future__ import annotations

import asyncio

from pipe_kit import virtually

from warpgate.core.tasks import Tasks
from warpgate.errors import NetworkError, WarpgateError


async def for_ever(ended: list[str], name: str = "x") -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.sleep(0.1)
        ended.append(name)


def nobody(name: str, error: WarpgateError) -> None:
    raise AssertionError(f"{name}: {error}")


def test_close_cancels_and_waits() -> None:
    async def main() -> None:
        ended: list[str] = []
        tasks = Tasks(nobody)
        tasks.spawn("a", for_ever(ended))
        await asyncio.sleep(0)
        await tasks.close()
        assert ended == ["x"]
        assert tasks.spawn("late", for_ever(ended)) is None

    virtually(main)


def test_cancel_does_not_wait() -> None:
    async def main() -> None:
        ended: list[str] = []
        tasks = Tasks(nobody)
        tasks.spawn("a", for_ever(ended))
        await asyncio.sleep(0)
        tasks.cancel()
        assert ended == []
        assert tasks.spawn("late", for_ever(ended)) is None
        await asyncio.sleep(0.2)
        assert ended == ["x"]

    virtually(main)


def test_an_owner_within_another_ends_with_it_and_is_waited_for() -> None:
    async def main() -> None:
        ended: list[str] = []
        node = Tasks(nobody)
        session = Tasks(nobody, within=node)
        session.spawn("plugin", for_ever(ended))
        await asyncio.sleep(0)
        session.cancel()  # the session has ended in this very tick, and the node is closed
        await node.close()
        assert ended == ["x"]
        assert session.spawn("late", for_ever(ended)) is None
        assert Tasks(nobody, within=node).spawn("late", for_ever(ended)) is None

    virtually(main)


def test_one_of_them_may_end_the_others() -> None:
    async def main() -> None:
        ended: list[str] = []
        tasks = Tasks(nobody)

        async def last() -> None:
            tasks.cancel()
            await asyncio.sleep(0.3)
            ended.append("last")

        tasks.spawn("a", for_ever(ended, "a"))
        await asyncio.sleep(0)
        tasks.spawn("last", last())
        await asyncio.sleep(1)
        assert ended == ["a", "last"]

    virtually(main)


def test_errors_of_ours_are_told_and_others_reach_the_loop() -> None:
    async def main() -> None:
        told: list[tuple[str, str]] = []
        complaints: list[str] = []
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        tasks = Tasks(lambda name, error: told.append((name, str(error))), within=Tasks(nobody))

        async def fails(error: Exception) -> None:
            raise error

        tasks.spawn("ours", fails(NetworkError("no route")))
        tasks.spawn("a bug", fails(ZeroDivisionError()))
        await asyncio.sleep(0.1)
        loop.set_exception_handler(before)
        assert told == [("ours", "no route")]
        assert complaints == ["warpgate task 'a bug' crashed"]

    virtually(main)
