"""A router gets another address (a new dial-in) and tells nobody inside: one that maps ports, one whose ports are just
being searched for.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
from cascade_world import OVER_UDP, OpenSocket, World, connected, exchange, virtual

from warpgate.config import Config
from warpgate.events import DoubleNatFound
from warpgate.model.address import LearntBy
from warpgate.model.endpoint import Endpoint, Transport
from warpgate_testing.upnp_router import UpnpRouter

GATEWAY = "192.168.1.1"
BEFORE, AFTER = "198.51.100.1", "198.51.100.77"
NOTICED = 30.0  # keepalives to STUN servers are 26 s apart at most


class MappedWorld(World):
    """a's router maps ports, or says so."""

    def __init__(self) -> None:
        super().__init__("eim-apdf", "eim-apdf", config_a=Config(port_map=True))
        self.gateway = self.internet.host("gateway", GATEWAY, behind=self.routers["a"])
        self.hosts["a"].default_gateways = (ip_address(GATEWAY),)
        self.upnp = UpnpRouter(self.gateway, ip_address(GATEWAY))
        self.upnp.external = BEFORE

    async def close(self) -> None:
        await super().close()
        await self.upnp.close()

    def strays(self) -> list[OpenSocket]:
        return [entry for entry in super().strays() if entry.host != "gateway"]

    def announced(self) -> tuple[Endpoint | None, LearntBy]:
        [at] = self.a.node.address.attachments
        return at.reflexive_endpoint(Transport.UDP), at.udp.learnt


def test_its_mappings_are_announced_at_the_new_address() -> None:
    async def story() -> None:
        async with MappedWorld() as world:
            port = world.a.node.port
            assert world.announced() == (Endpoint.of(BEFORE, port), LearntBy.PORT_MAP)
            world.routers["a"].renumber(AFTER)
            world.upnp.external = AFTER
            await asyncio.sleep(NOTICED)
            assert world.announced() == (Endpoint.of(AFTER, port), LearntBy.PORT_MAP)
            assert world.a.said(DoubleNatFound) == []

    virtual(story)


SEARCHED = [
    ("edm", "eim-apdf"),
    ("eim-apdf", "edm"),
    ("edm-peraddr", "eim-apdf"),
    ("eim-apdf", "edm-peraddr"),
    ("mape", "mape"),
]


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("kinds", SEARCHED, ids="-".join)
def test_in_the_middle_of_a_search_it_begins_anew(kinds: tuple[str, str], who: str) -> None:
    """What was sent meets nothing any more. Either side notices by what its fresh sockets are mapped to."""

    async def story() -> None:
        async with World(*kinds, seed=1) as world:
            asyncio.get_running_loop().call_later(0.05, world.routers[who].renumber, AFTER)
            one, other, seconds = await connected(world, **OVER_UDP)
            assert one.plugin == "random_probe"
            assert seconds < 12.0
            await exchange(one, other)
            await one.close()
            await other.close()

    virtual(story)


def test_nothing_is_said_of_an_address_that_is_gone() -> None:
    """What fresh sockets were once mapped to would make it look like one of several, and hide which ports there are."""

    async def story() -> None:
        async with World("mape", "public") as world:
            [before] = world.a.node.address.attachments
            world.routers["a"].renumber(AFTER)
            await asyncio.sleep(NOTICED)
            [after] = world.a.node.address.attachments
            assert (str(after.reflexive), after.pool) == (AFTER, ())
            assert after.nat.assignment.fixed == before.nat.assignment.fixed

    virtual(story)
