"""The books of random punches: a few peers at a time, so many mappings a peer, so many probes a second."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from warpgate.config import Budgets
from warpgate.core.search.budget import (
    FEWER,
    MOST_SOCKETS,
    PEERS_AT_ONCE,
    PEERS_REMEMBERED,
    TURN,
    RandomPunch,
    RandomPunches,
)
from warpgate.errors import AttemptFailed
from warpgate.model.endpoint import Endpoint
from warpgate_testing.clock import run_virtual

BASE, TARGET = Endpoint.parse("192.0.2.1:4000"), Endpoint.parse("198.51.100.1:5000")
NUMBERS = itertools.count(10_000)


class Checks:
    def __init__(self) -> None:
        self.sent: list[tuple[Endpoint, tuple[float, ...] | None, int | None]] = []

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        plugin: str,
        offsets: tuple[float, ...] | None,
        ttl: int | None,
    ) -> None:
        self.sent.append((remote, offsets, ttl))


class Ports:
    def __init__(self) -> None:
        self.bases: list[Endpoint] = []

    def open(self, near: Endpoint) -> Endpoint:
        self.bases.append(Endpoint(near.ip, next(NUMBERS)))
        return self.bases[-1]

    def give(self, base: Endpoint, heir: Ports) -> None:
        self.bases.remove(base)
        heir.bases.append(base)


class Searching:
    """As much of a session as a punch touches."""

    def __init__(self, peer: bytes = b"peer", *, invited: bool = False, seeker: bytes = b"") -> None:
        self.peer_key, self.invited, self.seeker = peer, invited, seeker
        self.context = SimpleNamespace(now=lambda: asyncio.get_running_loop().time())
        self.checks = Checks()
        self.ports = Ports()
        self.heard: set[Endpoint] = set()

    def knows(self, base: Endpoint, _remote: Endpoint) -> bool:
        return base in self.heard


def session(peer: bytes = b"peer", *, invited: bool = False, seeker: bytes = b"") -> Any:
    return Searching(peer, invited=invited, seeker=seeker)


def virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(main(), limit=3600.0)


def alive(punch: RandomPunch) -> bool:
    try:
        return punch.open_towards(BASE, TARGET, ((0.0, 2),))
    except AttemptFailed:
        return False


def test_all_of_our_users_go_on_at_once_and_those_of_one_peer() -> None:
    async def main() -> None:
        for invited in (True, False):
            books = RandomPunches(Budgets())
            peers = [b"one", b"one", b"two", b"three", b"four", b"one"]
            punches = [await books.begin(session(peer, invited=invited), "x") for peer in peers]
            assert all(map(alive, punches))

    virtual(main)


def test_a_fifth_peer_waits_until_one_is_done_or_has_had_its_turn() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets())
        first = [await books.begin(session(b"%d" % n), "x") for n in range(PEERS_AT_ONCE)]
        await asyncio.sleep(1.0)
        waiting = asyncio.ensure_future(books.begin(session(b"fifth"), "x"))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        assert alive(await books.begin(session(b"0"), "x"))  # another one of the same peer's has its place
        first[1].close()
        first[1].close()
        assert alive(await waiting)
        began = asyncio.get_running_loop().time()
        assert alive(await books.begin(session(b"sixth"), "x"))
        assert asyncio.get_running_loop().time() - began == pytest.approx(TURN - 2.0)
        assert sorted(map(alive, first)) == [False, False, True, True]

    virtual(main)


def test_what_our_user_asks_for_goes_before_what_peers_ask_for() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets())
        asked = await books.begin(session(), "x")
        own = await books.begin(session(b"friend", invited=True), "x")
        assert not alive(asked)
        asked.close()
        began = asyncio.get_running_loop().time()
        with pytest.raises(AttemptFailed, match="only a few may"):
            await books.begin(session(), "x")
        assert asyncio.get_running_loop().time() - began == pytest.approx(TURN)
        assert alive(own)  # it takes as long as it takes
        waiting = asyncio.ensure_future(books.begin(session(), "x"))
        await asyncio.sleep(TURN / 2)
        own.close()
        assert alive(await waiting)

    virtual(main)


def test_a_search_of_a_seeker_ends_its_earlier_one() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets())
        earlier = await books.begin(session(seeker=b"one"), "x")
        others = [await books.begin(session(seeker=b"two"), "x"), await books.begin(session(b"x", seeker=b"one"), "x")]
        assert alive(await books.begin(session(seeker=b"one"), "x"))
        assert not alive(earlier)
        assert all(map(alive, others))

    virtual(main)


def test_those_that_take_all_ports_go_on_one_after_the_other() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets())
        for invited in (True, False):
            sessions = [session(invited=invited) for _ in range(3)]
            punches = [asyncio.ensure_future(books.begin(each, "x", alone=True)) for each in sessions]
            beside = await books.begin(session(invited=invited), "x")
            for n in range(3):
                await asyncio.sleep(2 * TURN)  # none of one peer's waits for its own in vain
                assert [punch.done() for punch in punches] == [True] * (n + 1) + [False] * (2 - n)
                punches[n].result().close()
            beside.close()

    virtual(main)


def test_searches_that_go_to_one_endpoint_share_their_sockets() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets())
        sessions = [session(invited=True) for _ in range(6)]
        punches = [await books.begin(each, "x") for each in sessions]
        counts = [await punch.plan(BASE, TARGET, 256) for punch in punches[:4]]
        assert counts == [256, 64, 64, 64]
        for punch, count in zip(punches, counts, strict=False):
            for _ in range(count):
                punch.open_towards(BASE, TARGET, ((0.0, 2),))
        # The third is found by a socket of the first's: it takes that along, and the others go on with what it had.
        [lucky] = sessions[0].ports.bases[7:8]
        books.take(lucky, sessions[2])
        sessions[2].heard.add(lucky)
        punches[2].close()
        assert sessions[2].ports.bases == [lucky]
        # So is the first by one of its own.
        kept = sessions[0].ports.bases[9]
        sessions[0].heard.add(kept)
        punches[0].close()
        assert sessions[0].ports.bases == [kept]
        assert punches[1].sockets + punches[3].sockets == sum(counts) - 2
        # To another endpoint go those of its own: no more sockets than the system has.
        assert await punches[4].plan(BASE, Endpoint.parse("198.51.100.1:6000"), 256) == 256
        assert await punches[5].plan(BASE, Endpoint.parse("198.51.100.1:7000"), 256) == 128

    virtual(main)


def test_where_all_sockets_are_taken_others_wait_for_some() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets(new_mappings_per_peer=10_000))
        punches = [await books.begin(session(invited=True), "x") for _ in range(8)]
        plans = [
            asyncio.ensure_future(punch.plan(BASE, Endpoint.parse(f"198.51.100.1:{6000 + n}"), 256))
            for n, punch in enumerate(punches)
        ]
        await asyncio.sleep(1.0)
        counts = [plan.result() for plan in plans if plan.done()]
        assert sum(counts) <= MOST_SOCKETS
        assert min(counts) == FEWER
        assert len(counts) < len(plans)
        punches[0].close()
        await asyncio.sleep(0.1)
        assert all(plan.done() for plan in plans[: len(counts) + 2])

    virtual(main)


def test_peers_share_the_rate_whatever_each_asks_for() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets(random_probes_per_second=100.0))
        sessions = [session(b"many") for _ in range(7)] + [session(b"one")]
        punches = [await books.begin(each, "x") for each in sessions]

        async def probe(punch: RandomPunch) -> None:
            while True:
                await punch.probe(BASE, TARGET)

        tasks = [asyncio.ensure_future(probe(punch)) for punch in punches]
        await asyncio.sleep(2.0)
        for task in tasks:
            task.cancel()
        sent = [len(each.checks.sent) for each in sessions]
        assert sum(sent) == pytest.approx(200, abs=3)
        assert sent[-1] == pytest.approx(100, abs=3)

    virtual(main)


def test_a_peer_gets_so_many_mappings_in_a_window_whatever_they_are_for() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets(new_mappings_per_peer=5, new_mappings_window=600.0))
        one = session()
        punch = await books.begin(one, "x")
        for _ in range(3):
            punch.open_towards(BASE, TARGET, ((0.0, 2), (1.0, None)))
        assert one.checks.sent == [(TARGET, (0.0,), 2), (TARGET, (1.0,), None)] * 3
        punch.close()
        await asyncio.sleep(500.0)
        punch, beside = await books.begin(session(), "x"), await books.begin(session(), "x")
        assert punch.mappings_left == 2
        await punch.probe(BASE, TARGET)
        await beside.probe(BASE, TARGET)
        with pytest.raises(AttemptFailed, match="used up"):
            await punch.probe(BASE, TARGET)
        punch.close()
        await asyncio.sleep(99.0)
        with pytest.raises(AttemptFailed, match="cost 5 new mappings within 600 s"):
            await books.begin(session(), "x")
        (await books.begin(session(b"another"), "x")).close()
        # The first three are forgotten, the two of 500 s are not.
        await asyncio.sleep(2.0)
        assert (await books.begin(session(), "x")).mappings_left == 3

    virtual(main)


def test_probes_of_all_punches_together_keep_to_the_rate() -> None:
    books = RandomPunches(Budgets(random_probes_per_second=100.0))
    slots = [books.next_slot(1.0) for _ in range(5)]
    assert slots == pytest.approx([1.0, 1.01, 1.02, 1.03, 1.04])
    assert books.next_slot(7.0) == 7.0  # what was not used is lost: no burst
    assert books.next_slot(7.0) == pytest.approx(7.01)
    late = 0.0
    for _ in range(100):  # every timer is 1 ms late
        late = books.next_slot(max(7.0, late + 0.001))
    assert late == pytest.approx(8.01)


def test_the_books_stay_small() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets())
        for number in range(PEERS_REMEMBERED + 10):
            (await books.begin(session(number.to_bytes(4, "big")), "x")).close()
        assert len(books._accounts) == PEERS_REMEMBERED

    virtual(main)
