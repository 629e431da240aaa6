"""A home router that maps ports gets another address (a new dial-in) and tells nobody inside."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from cascade_world import OpenSocket, World, virtual

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
