"""The outbox alone: what is sent when, and what stops it."""

from __future__ import annotations

import asyncio

from pipe_kit import virtually

from warpgate.core.search.outbox import TURNS, Outbox
from warpgate.errors import ServiceError
from warpgate.proto.signals import PluginMessage

OFFSETS = (0.6, 1.5, 3.0)


class Sent:
    """What was posted, and when."""

    def __init__(self) -> None:
        self.posts: list[tuple[float, int, tuple[str, ...]]] = []
        self.failures: list[str] = []
        self.error: ServiceError | None = None
        self.box = Outbox(self._post, lambda: OFFSETS, self.failures.append)

    def _post(self, sequence: int, messages: tuple[PluginMessage, ...]) -> None:
        if self.error is not None:
            raise self.error
        at = round(asyncio.get_running_loop().time(), 6)
        self.posts.append((at, sequence, tuple(message.name for message in messages)))


def message(name: str) -> PluginMessage:
    return PluginMessage(name, b"")


def test_all_messages_of_one_tick_travel_together() -> None:
    async def main() -> None:
        sent = Sent()
        sent.box.add(message("a"))
        sent.box.add(message("b"))
        sent.box.schedule()
        assert sent.posts == []
        for _ in range(TURNS):
            await asyncio.sleep(0)
        sent.box.add(message("c"))  # of a task that a strategy's task began
        await asyncio.sleep(0)
        assert sent.posts == [(0.0, 1, ("a", "b", "c"))]
        sent.box.add(message("d"))
        await asyncio.sleep(0.1)
        assert sent.posts[1:] == [(0.0, 2, ("d",))]
        sent.box.close()

    virtually(main)


def test_a_correction_waits_and_goes_along_with_what_is_said_before() -> None:
    async def main() -> None:
        sent = Sent()
        sent.box.schedule(0.1)
        sent.box.schedule(0.2)  # the first one stands
        await asyncio.sleep(0.15)
        assert sent.posts == [(0.1, 1, ())]
        sent.box.schedule(0.1)
        sent.box.add(message("a"))
        await asyncio.sleep(0.3)
        assert sent.posts[1:] == [(0.15, 2, ("a",))]
        sent.box.schedule(0.1)
        sent.box.schedule()
        await asyncio.sleep(0.05)
        assert sent.posts[2:] == [(0.45, 3, ())]
        sent.box.schedule(0.1)
        sent.box.close()
        await asyncio.sleep(5.0)
        assert len(sent.posts) == 3, "a link was nominated: nothing to correct any more"

    virtually(main)


def test_it_is_repeated_until_it_is_acknowledged() -> None:
    async def main() -> None:
        sent = Sent()
        sent.box.add(message("a"))
        await asyncio.sleep(1.0)
        sent.box.add(message("b"))
        await asyncio.sleep(0.6)
        assert sent.posts == [
            (0.0, 1, ("a",)),
            (0.6, 1, ("a",)),
            (1.0, 2, ("b",)),
            (1.5, 1, ("a",)),
            (1.6, 2, ("b",)),
        ]
        sent.box.acknowledged(1)
        await asyncio.sleep(10.0)
        assert sent.posts[5:] == [(2.5, 2, ("b",)), (4.0, 2, ("b",))]

    virtually(main)


def test_acknowledgements_count_for_all_before_them() -> None:
    async def main() -> None:
        sent = Sent()
        for name in "abc":
            sent.box.add(message(name))
            await asyncio.sleep(0.01)
        sent.box.acknowledged(2)
        await asyncio.sleep(10.0)
        assert {sequence for _, sequence, _ in sent.posts[3:]} == {3}
        sent.box.acknowledged(99)  # of what was never sent: a peer may say anything

    virtually(main)


def test_an_acknowledgement_follows_when_nothing_else_is_said() -> None:
    async def main() -> None:
        sent = Sent()
        sent.box.acknowledge(0.25)
        sent.box.acknowledge(0.25)
        await asyncio.sleep(5.0)
        assert sent.posts == [(0.25, 0, ())]  # neither repeated nor numbered
        sent.box.acknowledge(0.25)
        sent.box.add(message("a"))  # says it as well
        await asyncio.sleep(0.5)
        assert sent.posts[1:] == [(5.0, 1, ("a",))]
        sent.box.close()

    virtually(main)


def test_what_was_repeated_is_known() -> None:
    async def main() -> None:
        sent = Sent()
        sent.box.add(message("a"))
        await asyncio.sleep(0.1)
        assert (sent.box.sent_at(1), sent.box.repeated(1)) == (0.0, False)
        await asyncio.sleep(0.6)
        assert (sent.box.sent_at(1), sent.box.repeated(1)) == (0.0, True)
        assert sent.box.sent_at(2) is None
        sent.box.close()

    virtually(main)


def test_nothing_is_sent_after_close() -> None:
    async def main() -> None:
        sent = Sent()
        sent.box.add(message("a"))
        await asyncio.sleep(0.1)
        sent.box.add(message("b"))
        sent.box.acknowledge(0.1)
        sent.box.close()
        sent.box.close()
        sent.box.add(message("c"))
        sent.box.schedule()
        sent.box.acknowledge(0.0)
        await asyncio.sleep(20.0)
        assert sent.posts == [(0.0, 1, ("a",))]

    virtually(main)


def test_what_cannot_be_sent_is_told_and_tried_again() -> None:
    async def main() -> None:
        sent = Sent()
        sent.error = ServiceError("no broker")
        sent.box.add(message("a"))
        await asyncio.sleep(0.1)
        assert sent.failures == ["no broker"]
        sent.error = None
        await asyncio.sleep(0.6)
        assert sent.posts == [(0.6, 1, ("a",))]
        sent.box.close()

    virtually(main)
