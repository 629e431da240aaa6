"""The outbox alone: what is sent when, and what stops it."""

from __future__ import annotations

import asyncio

from pipe_kit import virtually

from warpgate.core.search.outbox import TURNS, Outbox, Pace
from warpgate.errors import ServiceError
from warpgate.proto.gate import SENDER_BURST, SENDER_RATE
from warpgate.proto.signals import MAX_BODY, PluginMessage

OFFSETS = (0.6, 1.5, 3.0)


class Sent:
    """What was posted, and when."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.posts: list[tuple[float, int, tuple[str, ...]]] = []
        self.failures: list[str] = []
        self.error: ServiceError | None = None
        self.box = Outbox(self._post, lambda: OFFSETS, self.failures.append, pace or Pace())

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


def test_one_peer_is_told_no_more_than_it_listens_to_by_all_sessions_together() -> None:
    async def main() -> None:
        pace = Pace()
        boxes = [Sent(pace) for _ in range(100)]
        for sent in boxes:
            sent.box.add(message("offer"))
        await asyncio.sleep(60.0)
        times = sorted(at for sent in boxes for at, _, _ in sent.posts)
        firsts = [sent.posts[0][0] for sent in boxes]
        assert firsts == sorted(firsts)  # none has to wait for the repetitions of many others
        assert firsts[-1] < 100 / SENDER_RATE * 2
        for begin in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
            assert len([at for at in times if at <= begin]) <= SENDER_BURST + begin * SENDER_RATE
        assert all(len(sent.posts) >= 2 for sent in boxes)  # repetitions wait, too, and one may be for several
        for sent in boxes:
            sent.box.close()

    virtually(main)


def test_who_has_said_little_does_not_wait_for_who_has_said_much() -> None:
    """After a move: the searches that the moves before it began are still at work, and have as much to say as there is
    room for.
    """

    async def main() -> None:
        pace = Pace()
        talkers = [Sent(pace) for _ in range(20)]
        for _ in range(10):
            for sent in talkers:
                sent.box.add(message("volley"))
            await asyncio.sleep(1.0)
        late = [Sent(pace) for _ in range(4)]
        for text in ("offer", "relayed"):
            for sent in late:
                sent.box.add(message(text))
            await asyncio.sleep(0.01)
        assert [len(sent.posts) for sent in late] == [2] * 4
        for sent in (*talkers, *late):
            sent.box.close()

    virtually(main)


def test_what_waits_for_its_turn_takes_along_what_is_said_meanwhile() -> None:
    async def main() -> None:
        pace = Pace()
        others, late = [Sent(pace) for _ in range(int(SENDER_BURST))], Sent(pace)
        for sent in (*others, late):
            sent.box.add(message("offer"))
        await asyncio.sleep(0.01)
        late.box.add(message("volley"))
        await asyncio.sleep(0.01)
        late.box.add(PluginMessage("long", bytes(MAX_BODY)))
        await asyncio.sleep(0.01)
        late.box.add(PluginMessage("longer", bytes(MAX_BODY)))  # might not fit beside it
        await asyncio.sleep(2.0)
        said = {sequence: names for _, sequence, names in late.posts}
        assert said == {1: ("offer", "volley", "long"), 2: ("longer",)}
        for sent in (*others, late):
            sent.box.close()

    virtually(main)


def test_what_becomes_needless_while_it_waits_is_not_said() -> None:
    async def main() -> None:
        pace = Pace()
        others, late, closed = [Sent(pace) for _ in range(int(SENDER_BURST))], Sent(pace), Sent(pace)
        for sent in (*others, late, closed):
            sent.box.add(message("offer"))
            sent.box.acknowledge(0.0)
        await asyncio.sleep(0.01)
        assert (late.posts, closed.posts) == ([], [])
        late.box.acknowledged(1)  # a check showed that the peer needs no offer any more
        closed.box.close()
        await asyncio.sleep(0.5)
        assert (late.posts, closed.posts) == ([], [])

    virtually(main)
