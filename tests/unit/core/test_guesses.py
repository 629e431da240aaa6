"""The books of random punches: one at a time, so many mappings a peer, so many probes a second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from warpgate.config import Budgets
from warpgate.core.search.budget import PEERS_REMEMBERED, TURN, RandomPunches
from warpgate.errors import AttemptFailed
from warpgate.model.endpoint import Endpoint
from warpgate_testing.clock import run_virtual

BASE, TARGET = Endpoint.parse("192.0.2.1:4000"), Endpoint.parse("198.51.100.1:5000")


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


def session(peer: bytes = b"peer", *, invited: bool = False, seeker: bytes = b"", now: float = 0.0) -> Any:
    """As much of a session as a punch touches."""
    context = SimpleNamespace(now=lambda: now)
    return SimpleNamespace(
        peer_key=peer,
        invited=invited,
        seeker=seeker,
        context=context,
        checks=Checks(),
        ports=SimpleNamespace(open=lambda near: near),
    )


def test_one_at_a_time() -> None:
    books = RandomPunches(Budgets())
    first = books.begin(session(), "x", 0.0)
    with pytest.raises(AttemptFailed, match="one at a time"):
        books.begin(session(b"another"), "x", 0.0)
    first.close()
    first.close()
    second = books.begin(session(b"another"), "x", 0.0)
    first.close()  # once more: it must not free what is another's
    with pytest.raises(AttemptFailed, match="one at a time"):
        books.begin(session(), "x", 0.0)
    second.close()


def test_what_our_user_asks_for_goes_before_what_peers_ask_for() -> None:
    books = RandomPunches(Budgets())
    asked = books.begin(session(), "x", 0.0)
    own = books.begin(session(b"friend", invited=True), "x", 0.0)
    with pytest.raises(AttemptFailed, match="is over"):
        asked.open_towards(BASE, TARGET, ((0.0, 2),))
    asked.close()
    own.open_towards(BASE, TARGET, ((0.0, 2),))
    for invited in (True, False):
        with pytest.raises(AttemptFailed, match="one at a time"):
            books.begin(session(invited=invited), "x", 0.0)


def test_who_has_had_a_turn_gives_way_to_another_peer() -> None:
    books = RandomPunches(Budgets())
    first = books.begin(session(seeker=b"one"), "x", 0.0)
    for other in (session(b"another"), session(), session(seeker=b"two"), session(b"another", seeker=b"one")):
        with pytest.raises(AttemptFailed, match="one at a time"):
            books.begin(other, "x", TURN - 0.1)
    # The peer's process begins anew: no longer turn for that.
    earlier, first = first, books.begin(session(seeker=b"one"), "x", TURN - 0.1)
    with pytest.raises(AttemptFailed, match="is over"):
        earlier.open_towards(BASE, TARGET, ((0.0, 2),))
    second = books.begin(session(b"another"), "x", TURN)
    with pytest.raises(AttemptFailed, match="is over"):
        first.open_towards(BASE, TARGET, ((0.0, 2),))
    second.open_towards(BASE, TARGET, ((0.0, 2),))
    second.close()
    own = books.begin(session(invited=True), "x", 10.0)
    with pytest.raises(AttemptFailed, match="one at a time"):
        books.begin(session(b"another"), "x", 10.0 + 3 * TURN)  # our user's takes as long as it takes
    own.close()


def test_a_peer_gets_so_many_mappings_in_a_window_whatever_they_are_for() -> None:
    async def main() -> None:
        books = RandomPunches(Budgets(new_mappings_per_peer=5, new_mappings_window=600.0))
        one = session()
        punch = books.begin(one, "x", 0.0)
        for _ in range(3):
            punch.open_towards(BASE, TARGET, ((0.0, 2), (1.0, None)))
        assert one.checks.sent == [(TARGET, (0.0,), 2), (TARGET, (1.0,), None)] * 3
        punch.close()
        later = session(now=500.0)
        punch = books.begin(later, "x", 500.0)
        assert punch.mappings_left == 2
        await punch.probe(BASE, TARGET)
        await punch.probe(BASE, TARGET)
        with pytest.raises(AttemptFailed, match="used up"):
            await punch.probe(BASE, TARGET)
        punch.close()
        with pytest.raises(AttemptFailed, match="cost 5 new mappings within 600 s"):
            books.begin(session(), "x", 599.0)
        books.begin(session(b"another"), "x", 599.0).close()
        # The first three are forgotten, the two of 500 s are not.
        assert books.begin(session(), "x", 601.0).mappings_left == 3

    run_virtual(main(), limit=60.0)


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
    books = RandomPunches(Budgets())
    for number in range(PEERS_REMEMBERED + 10):
        books.begin(session(number.to_bytes(4, "big")), "x", 0.0).close()
    assert len(books._spent) == PEERS_REMEMBERED
