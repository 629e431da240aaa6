"""Round trips of a satellite (1.5 s with what is around it) and of two in a row (2.5 s): patience follows the path."""

from __future__ import annotations

import cascade_world
import pytest
from cascade_world import World, connected, exchange, virtual

from warpgate.model.endpoint import Mode, Transport

SETTLED = 60.0


@pytest.fixture(params=[1.5, 2.5])
def round_trip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(cascade_world, "HOP", request.param / 2)
    return float(request.param)


def test_a_broker_is_reached(round_trip: float) -> None:
    async def story() -> None:
        async with World("eim-apdf", "eim-apdf", settle=SETTLED) as world:
            assert [len(seat.node.address.brokers) for seat in (world.a, world.b)] == [1, 1]

    virtual(story)


@pytest.mark.parametrize(
    "kinds", [("eim-apdf", "eim-apdf"), ("public", "eim-apdf"), ("eim-apdf", "public")], ids="-".join
)
@pytest.mark.parametrize(
    "options",
    [{"mode": Mode.DATAGRAM}, {"mode": Mode.STREAM}, {"mode": Mode.STREAM, "transport": Transport.TCP}],
    ids=["datagram", "stream", "tcp"],
)
def test_a_pipe_comes(round_trip: float, kinds: tuple[str, str], options: dict) -> None:
    async def story() -> None:
        async with World(*kinds, settle=SETTLED) as world:
            one, other, seconds = await connected(world, **options)
            assert seconds <= 3 * round_trip
            await exchange(one, other)
            await one.close()
            await other.close()

    virtual(story)
