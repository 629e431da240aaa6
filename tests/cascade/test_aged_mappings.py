"""NATs that forget each mapping after 60 s, whatever is sent: durable pipes move before, once they have learnt it."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import HOP, LASTING, R, World, connected, virtual

from warpgate.events import PathChosen, PathLost

AGE = 60.0
LEARNT = 3.5 * AGE  # the first mapping is older than its pipe, so its death is like no other
WATCHED = 6.0 * AGE


@pytest.mark.parametrize("pace", [1.0, 20.0], ids=["busy", "idle"])
@pytest.mark.parametrize(
    "kinds",
    [
        ("eim-apdf-random+aged", "eim-apdf"),
        ("eim-apdf-random", "eim-apdf-random+aged"),
        ("edm-seq+aged", "eim-apdf"),
    ],
    ids="-".join,
)
def test_after_two_deaths_at_a_like_age_nothing_is_late_any_more(kinds: tuple[str, str], pace: float) -> None:
    async def story() -> None:
        async with World(*kinds, settle=20.0) as world:
            one, other, _ = await connected(world, **LASTING)
            began = world.now

            async def echo() -> None:
                while True:
                    await other.send(await other.recv())

            echoing = asyncio.ensure_future(echo())
            late: list[float] = []
            while (asked := world.now) < began + WATCHED:
                await one.send(b"?")
                assert await one.recv(timeout=5.0) == b"?"
                if world.now - asked > R + HOP:
                    late.append(asked - began)
                    assert world.now - asked < 1.5
                await asyncio.sleep(pace)
            echoing.cancel()
            # A path over TCP that was found by an old mapping dies with that, and is late once more.
            assert 2 <= len(late) <= 4
            assert max(late) < LEARNT
            renewed = [event for event in world.a.said(PathChosen) if event.reason == "a newer path"]
            assert 2 <= len(renewed) <= WATCHED / (0.5 * AGE)
            assert not [lost for lost in world.a.said(PathLost) if lost.reason == "closed by the peer"]
            await one.close()
            await other.close()

    virtual(story, limit=2000.0)
