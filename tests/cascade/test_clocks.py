"""Clocks that are off keep nobody apart, and are told; what keeps recordings out is not the clock."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import ALL_WAYS, EPOCH, OVER_UDP, S, World, connected, exchange, virtual

from warpgate.core.connections import LINGERING
from warpgate.events import ClocksDiffer

MINUTE, HOUR = 60.0, 3600.0


@pytest.mark.parametrize("error", [-EPOCH, -2 * HOUR, -6 * MINUTE, 6 * MINUTE, 10 * MINUTE, 30 * 365 * 24 * HOUR])
@pytest.mark.parametrize("whose", ["a", "b"])
@pytest.mark.parametrize("options", ALL_WAYS)
def test_nodes_whose_clocks_are_far_apart_connect_and_are_told(
    error: float, whose: str, options: dict[str, object]
) -> None:
    async def main() -> None:
        async with World() as world:
            getattr(world, whose).clock_error = error
            one, other, seconds = await connected(world, **options)
            await exchange(one, other)
            ahead = error if whose == "b" else -error
            for seat, sign in ((world.a, 1), (world.b, -1)):
                told = seat.said(ClocksDiffer)
                assert told
                assert all(abs(event.ahead - sign * ahead) < 1.0 for event in told)
            await one.close()
            await other.close()
            await asyncio.sleep(LINGERING + 1 if one.durable else 0)
            await world.quiet()
            again, other, later = await connected(world, **options)  # by the peer's clock from the start
            assert later <= seconds - 2 * S + 0.001
            assert len(world.b.said(ClocksDiffer)) == len(told)
            await again.close()
            await other.close()
            await asyncio.sleep(LINGERING + 1 if again.durable else 0)
            await world.quiet()

    virtual(main)


def test_a_node_that_has_just_been_started_is_reached_by_one_whose_clock_is_a_minute_behind() -> None:
    """By its clock the offer is older than the process: that costs a question and its answer, no more."""

    async def main() -> None:
        async with World() as world:
            world.a.clock_error = -MINUTE
            await world.b.node.close()
            await world.b.node.start()
            await asyncio.sleep(8.0)
            one, other, _ = await connected(world, **OVER_UDP)
            await exchange(one, other)
            assert world.b.said(ClocksDiffer) == []  # a minute is nothing to speak of
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)
