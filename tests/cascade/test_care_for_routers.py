"""A search that meets limits: of our router's table, and of the sockets that the system gives us. In virtual time."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from cascade_world import OVER_UDP, World, connected, exchange, virtual

from warpgate.errors import ConnectFailed, NetworkError
from warpgate.events import PluginNoted, ServerFailed


def notes(world: World, name: str) -> list[str]:
    seat = world.a if name == "a" else world.b
    return [event.text for event in seat.said(PluginNoted) if event.plugin == "random_probe"]


def scarce(network: Any, sockets: int) -> None:
    """The system has so many sockets left."""
    opened, left = network.open_udp, [sockets]

    def open_udp(*args: Any, **options: Any) -> Any:
        if left[0] <= 0:
            raise NetworkError("Too many open files")
        left[0] -= 1
        return opened(*args, **options)

    network.open_udp = open_udp


def test_a_search_stops_while_our_router_has_no_mappings_left() -> None:
    """A table of 512 is full after five seconds at 100 probes a second, and stays so for thirty."""

    async def main() -> None:
        async with World("eim-apdf+small", "edm", seed=8) as world:
            scarce(world.b.network, 3)  # three sockets are hardly ever found
            with pytest.raises(ConnectFailed):
                await world.a.node.connect(
                    world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=15.0
                )
            lost = dict(world.routers["a"].counters().dropped).get("table full", 0)
            assert 0 < lost < 400
            assert any("leaving it alone" in note for note in notes(world, "a"))

    virtual(main)


@pytest.mark.parametrize("left", [20, 24, 28])
def test_with_few_sockets_the_spread_is_smaller_says_so_and_leaves_some(left: int) -> None:
    async def main() -> None:
        async with World("edm-block", "eim-apdf", seed=1) as world:
            scarce(world.a.network, left)
            one, other, waited = await connected(world, **OVER_UDP, plugins=["random_probe"])
            assert waited < 4.0
            await exchange(one, other)
            told = re.search(
                r"no more than (\d+) of 3\d sockets: Too many open files", " ".join(notes(world, "a"))
            )
            assert told is not None
            assert left - 12 <= int(told[1]) <= left - 8

    virtual(main)


def test_without_any_sockets_the_report_says_why() -> None:
    async def main() -> None:
        async with World("edm-block", "eim-apdf", seed=1) as world:
            scarce(world.a.network, 0)
            with pytest.raises(ConnectFailed, match="Too many open files"):
                await world.a.node.connect(
                    world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=5.0
                )

    virtual(main)


def test_samples_that_cannot_be_taken_are_told() -> None:
    async def main() -> None:
        world = World("edm-block", "eim-apdf", settle=0.0)
        # The listening socket, and the one of the filtering test.
        scarce(world.a.network, 2)
        async with world:
            while not any("samples" in event.reason for event in world.a.said(ServerFailed)):
                assert world.now < 5.0
                await asyncio.sleep(0.05)

    virtual(main)
