"""Several addresses of one host: in which order, and when."""

from __future__ import annotations

import asyncio

from warpgate.model.endpoint import Endpoint
from warpgate.net.reach import ADDRESSES_TRIED, ATTEMPT_DELAY, in_order, in_turn
from warpgate_testing.clock import run_virtual


def test_families_take_turns_and_few_are_tried() -> None:
    four = tuple(Endpoint.of(f"192.0.2.{i}", 1) for i in range(3))
    six = (Endpoint.of("2001:db8::1", 1),)
    assert in_order((*six, *four)) == (six[0], *four)
    assert in_order((*four, *six)) == (four[0], six[0], *four[1:])
    assert in_order(()) == ()
    assert len(in_order(four * 10)) == ADDRESSES_TRIED


def test_each_has_its_turn() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def attempt() -> float:
            return loop.time()

        assert await asyncio.gather(*(in_turn(place, attempt) for place in range(3))) == [
            0.0,
            ATTEMPT_DELAY,
            2 * ATTEMPT_DELAY,
        ]

    run_virtual(main())
