"""A search that meets limits: of our router's table, and of the sockets that the system gives us. In virtual time."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest
from cascade_world import OVER_UDP, World, connected, exchange, virtual

from warpgate.errors import ConnectFailed, NetworkError
from warpgate.events import PluginNoted, ServerFailed
from warpgate.lab.spec import Lifetimes
from warpgate.model.endpoint import Endpoint, Family


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
            scarce(world.b.network, 11)  # the three that are not given back are hardly ever found
            with pytest.raises(ConnectFailed, match="our router had no mappings left for it"):
                await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=15.0)
            lost = dict(world.routers["a"].counters().dropped).get("table full", 0)
            assert 0 < lost < 400
            assert any("leaving it alone" in note for note in notes(world, "a"))

    virtual(main)


def test_a_search_ends_when_the_peer_has_no_sockets_for_it() -> None:
    """It has said that they are open, since that takes longer to arrive than they take to be opened."""

    async def main() -> None:
        async with World("eim-apdf", "edm", seed=8) as world:
            scarce(world.b.network, 3)
            began, before = world.now, world.routers["a"].counters().flows_created
            with pytest.raises(ConnectFailed, match="the peer refused: no sockets for guessing: Too many open"):
                await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=15.0)
            assert world.now - began < 1.0
            assert world.routers["a"].counters().flows_created - before < 100

    virtual(main)


def test_a_spread_that_found_the_table_full_comes_through_when_there_is_room() -> None:
    """By then the other side has tried all 240 ports of the set, so it lets in what comes from them."""

    async def main() -> None:
        async with World("mape", "eim-apdf", seed=1) as world:
            router = world.routers["a"]
            nat = router.router.nats[Family.V4]
            limit = router.counters().flows_live + 20
            nat.spec = replace(nat.spec, table_limit=limit, lifetimes=Lifetimes(udp_unreplied=4.0))
            neighbour = world.internet.host("neighbour", "192.168.1.9", behind=router)
            sock = neighbour.open_udp(Endpoint.of("192.168.1.9", 999), lambda data, source: None)
            for port in range(limit):
                sock.send(b"", ("203.0.113.9", 1000 + port))
            one, other, waited = await connected(world, **OVER_UDP, plugins=["random_probe"])
            assert 4.0 < waited < 12.0
            await exchange(one, other)
            assert any("leaving it alone" in note for note in notes(world, "a"))
            sock.close()

    virtual(main)


@pytest.mark.parametrize("left", [20, 24, 28])
def test_with_few_sockets_the_spread_is_smaller_says_so_and_leaves_some(left: int) -> None:
    async def main() -> None:
        async with World("edm-block", "eim-apdf", seed=1) as world:
            scarce(world.a.network, left)
            one, other, waited = await connected(world, **OVER_UDP, plugins=["random_probe"])
            assert waited < 4.0
            await exchange(one, other)
            told = re.search(r"no more than (\d+) of 3\d sockets: Too many open files", " ".join(notes(world, "a")))
            assert told is not None
            assert left - 12 <= int(told[1]) <= left - 8

    virtual(main)


def test_without_any_sockets_the_report_says_why() -> None:
    async def main() -> None:
        async with World("edm-block", "eim-apdf", seed=1) as world:
            scarce(world.a.network, 0)
            with pytest.raises(ConnectFailed, match="Too many open files"):
                await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=5.0)

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
