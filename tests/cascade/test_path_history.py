"""What `explain --watch` draws of a durable connection: from the events of real nodes, in virtual time."""

from __future__ import annotations

import asyncio
import re

import pytest
from cascade_world import World, connected, exchange, virtual
from durable_kit import Counters, Fault, darkness, moved
from test_relays import RelayWorld

from warpgate.cli.pages.explanation import Witness
from warpgate.cli.pages.history import history
from warpgate.events import PathChosen, PathLost, PathsMissing, PathsWork


def drawn(world: World, fault: Fault | None) -> str:
    async def main() -> str:
        async with world:
            began = world.now
            witness = Witness(clock=lambda: world.now - began)
            world.a.run.context.observers.append(witness.observe)
            near, far, _ = await connected(world, durable=True)
            counters = Counters(near, far)
            await asyncio.sleep(3)
            if fault is not None:
                fault(world)
                await asyncio.sleep(10)
            await counters.stop()
            page = history(witness.paths, world.now - began)
            world.a.run.context.observers.remove(witness.observe)
            await near.close()
            await far.close()
            return page

    return virtual(main)


def rows(page: str) -> list[tuple[str, str]]:
    """Strategy and state of each path."""
    return re.findall(r'<b>([^<]*)</b><span class="badge \w+">([^<]*)</span>', page)


def test_from_the_relay_to_a_direct_path() -> None:
    page = drawn(RelayWorld("eim-apdf", "eim-apdf"), None)
    paths = rows(page)
    assert [state for _, state in paths].count("in use") == 1
    assert ("udp_punch", "in use") in paths
    assert "chosen: the first path" in page
    assert "no path worked" not in page


def test_a_move_is_a_path_lost_an_outage_and_another_path() -> None:
    world = World("eim-apdf", "eim-apdf")
    page = drawn(world, moved("a", 30))
    paths = rows(page)
    assert paths[0][1] == "lost"
    assert paths[-1][1] == "in use"
    assert [state for _, state in paths].count("in use") == 1
    assert "after the last answer" in page
    assert "no path worked" in page
    for event in world.a.said(PathLost)[:1]:
        assert f"lost: {event.reason}" in page


@pytest.mark.parametrize("moments", [[], [(0.1, PathLost("c", "p", "direct", "1.2.3.4:5", "why"))]])
def test_nothing_to_draw(moments: list) -> None:
    assert rows(history(moments, 3.0)) == []


def test_what_was_never_there_is_not_told_to_be_lost() -> None:
    """A path is found and falls dark before the first answer comes by it."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf+noudp") as world:
            chosen = asyncio.Event()
            world.a.run.context.observers.append(lambda event: isinstance(event, PathChosen) and chosen.set())
            opening = asyncio.ensure_future(connected(world, durable=True))
            await chosen.wait()
            darkness(3.0)(world)
            near, far, seconds = await opening
            assert seconds > 3.0
            await exchange(near, far)
            for seat in (world.a, world.b):
                assert (seat.said(PathsMissing), seat.said(PathsWork)) == ([], [])
            darkness(3.0)(world)
            await exchange(near, far)
            assert len(world.a.said(PathsMissing)) == len(world.a.said(PathsWork)) == 1
            await near.close()
            await far.close()

    virtual(main)
