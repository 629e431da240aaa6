"""Mailboxes are bounded in both directions: by plugin, and by items a plugin."""

from __future__ import annotations

import asyncio

from pipe_kit import virtually

from warpgate.core.search.session import BACKLOG, Mailbox


def test_items_wait_for_their_plugin_in_order() -> None:
    async def main() -> None:
        discarded: list[int] = []
        box: Mailbox[int] = Mailbox(discarded.append)
        waiting = asyncio.ensure_future(box.queue("b").get())
        for number in range(3):
            box.put("a", number)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        box.put("b", 9)
        assert await waiting == 9
        assert [await box.queue("a").get() for _ in range(3)] == [0, 1, 2]
        assert discarded == []

    virtually(main)


def test_what_a_plugin_does_not_take_is_discarded() -> None:
    async def main() -> None:
        discarded: list[int] = []
        box: Mailbox[int] = Mailbox(discarded.append)
        for number in range(BACKLOG + 3):
            box.put("a", number)
        assert discarded == [BACKLOG, BACKLOG + 1, BACKLOG + 2]
        box.clear()
        assert sorted(discarded) == list(range(BACKLOG + 3))
        box.clear()
        assert len(discarded) == BACKLOG + 3

    virtually(main)


def test_names_are_bounded_too() -> None:
    """A hostile peer names as many plugins as it likes."""

    async def main() -> None:
        discarded: list[int] = []
        box: Mailbox[int] = Mailbox(discarded.append)
        for number in range(BACKLOG + 5):
            box.put(f"plugin {number}", number)
        assert discarded == list(range(BACKLOG, BACKLOG + 5))
        box.put("plugin 0", 99)  # those that are known still get theirs
        assert box.queue("plugin 0").qsize() == 2

    virtually(main)
