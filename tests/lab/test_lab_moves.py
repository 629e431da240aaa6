"""A durable pipe whose hosts change networks beneath it: real kernels, the program, model routers.

`bench/durability` measures how long each fault takes. Here it is seen that nothing is lost, and that it takes no ages.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from sites import pair
from warpgate.lab.scene import play_move
from warpgate.lab.steered import SteeredNode
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

SETTLED = 1.0
WATCHED = 2.0
# A twentieth of it where the machine has nothing else to do.
LONGEST = 8.0


def move(lab: Lab, node: SteeredNode) -> str:
    """To another network behind another router; its address there."""
    [ip] = lab.move(node.host, "eim-apdf").addresses
    return str(ip)


async def test_both_hosts_move_in_the_middle_of_a_stream(lab: Lab) -> None:
    """64 bytes each 10 ms, echoed: all come back in order, and each move takes the pipe along."""
    async with pair(lab, "eim-apdf", "eim-apdf") as nodes:
        await nodes.fresh()
        done = await nodes.a.connect(nodes.b.address, keep=True, durable=True)
        assert done.ok, done.report
        await nodes.a.count(0)
        for node in (nodes.a, nodes.b):
            await asyncio.sleep(SETTLED)
            since = time.monotonic()
            ip = move(lab, node)
            await goes_on(nodes.a, since)
            if node is nodes.a:
                assert (await node.path(0)).local.startswith(f"{ip}:")
        counted = await nodes.a.counted(stop=True)
    assert counted.fault == ""
    assert counted.received == counted.sent > 100


async def goes_on(node: SteeredNode, since: float) -> None:
    """An interruption that is seen, and over in time."""
    await asyncio.sleep(WATCHED)
    before = await node.counted(since)
    async with asyncio.timeout(LONGEST):
        while (now := await node.counted(since)).received <= before.received:  # noqa: ASYNC110 - what a process says
            await asyncio.sleep(0.1)
    assert 0.05 < now.worst < LONGEST
    assert now.fault == ""


async def test_the_scene_of_the_demo() -> None:
    scene = await play_move("eim-apdf", "eim-apdf", "eim-apdf")
    assert scene.whole, scene
    assert scene.places[1].outside != scene.places[2].outside
    assert any(ended > scene.moved_at for ended, _ in scene.gaps)
    assert "PathChosen" in [moment.event for moment in scene.moments if moment.at > scene.moved_at]
