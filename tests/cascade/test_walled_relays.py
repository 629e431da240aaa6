"""A TURN server that allocates and relays nothing, as one whose machine's firewall lets no peer in, beside a good one.

It is the quicker one, so that it is chosen first.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cascade_world import (
    FINGERPRINTED,
    LASTING,
    OVER_TCP,
    OVER_UDP,
    STUN,
    URLS,
    OpenSocket,
    Options,
    Seat,
    World,
    connected,
    exchange,
    virtual,
)
from test_relays import TURN, RelayWorld

from warpgate.config import Config, Timing
from warpgate.errors import ConnectFailed
from warpgate.events import PluginNoted
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import TcpStream
from warpgate.plugins.registry import REGISTRY
from warpgate.plugins.turn import ANOTHER_PATIENCE
from warpgate.proto.stun import Method
from warpgate.services.relay import RESERVE_PAUSE
from warpgate_testing.internet import PathSpec
from warpgate_testing.turn import MemoryTurn

WALLED = TURN.replace("203.0.113.5", "203.0.113.6")
NONE, GOOD, BAD, BOTH = (Config(turn=servers) for servers in ((), (TURN,), (WALLED,), (WALLED, TURN)))

LIAR = "198.51.100.3"


class WalledTurn(MemoryTurn):
    """Nothing of peers gets in; SYNs are not even refused."""

    def _from_peer(self, *_: Any) -> None:
        self.dropped["walled"] += 1

    def _call(self, _allocation: Any, stream: TcpStream) -> None:
        self._streams.append(stream)

    async def close(self) -> None:
        await super().close()
        for stream in self._streams:
            stream.abort()


class Shunned(MemoryTurn):
    """A good relay, but a peer that lies sends nothing to it."""

    def _from_peer(self, allocation: Any, data: bytes, source: Any) -> None:
        if source[0] != LIAR:
            super()._from_peer(allocation, data, source)


class WalledWorld(RelayWorld):
    def __init__(self, a: Config, b: Config, kind_b: str = "edm", second: type[MemoryTurn] = WalledTurn) -> None:
        World.__init__(self, "edm", kind_b, config_a=a, config_b=b)
        self.turn_host = self.internet.host("turn", "203.0.113.5")
        self.turn = MemoryTurn(self.turn_host, Endpoint.of("203.0.113.5", 3478))
        self.walled_host = self.internet.host("walled", "203.0.113.6")
        self.walled = second(self.walled_host, Endpoint.of("203.0.113.6", 3478))
        for router in self.routers.values():
            self.internet.set_path(self.walled_host, router, PathSpec(delay=0.005))

    async def close(self) -> None:
        await super().close()
        await self.walled.close()

    def strays(self) -> list[OpenSocket]:
        return [entry for entry in super().strays() if entry.host != "walled"]


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP, LASTING], ids=["udp", "tcp", "durable"])
@pytest.mark.parametrize(
    ("a", "b"), [(BOTH, NONE), (BOTH, BOTH), (NONE, BOTH), (BAD, GOOD)], ids=["a", "b", "both", "each"]
)
def test_another_relay_is_asked(a: Config, b: Config, options: Options) -> None:
    async def story() -> None:
        async with WalledWorld(a, b) as world:
            one, other, seconds = await connected(world, **options)
            assert one.plugin == "turn"
            assert seconds < 2.5
            await exchange(one, other)
            await one.close()
            await other.close()

    virtual(story)


@pytest.mark.parametrize(("a", "b"), [(BOTH, NONE), (NONE, BOTH)], ids=["initiator", "responder"])
def test_it_is_not_asked_first_again(a: Config, b: Config) -> None:
    async def story() -> None:
        async with WalledWorld(a, b) as world:
            took = []
            for _ in range(2):
                one, other, seconds = await connected(world, **OVER_UDP)
                took.append(seconds)
                await one.close()
                await other.close()
                await world.quiet()
            assert took[0] > 2.0
            assert took[1] < 0.5

    virtual(story)


def test_a_relay_that_works_and_waits_for_a_direct_link_is_enough() -> None:
    """The other server is as good."""

    async def story() -> None:
        waits = Timing(relay_patience=8.0)
        none, both = Config(timing=waits), Config(turn=(WALLED, TURN), timing=waits)
        async with WalledWorld(none, both, "eim-apdf", MemoryTurn) as world:
            one, other, seconds = await connected(world, **OVER_UDP)
            assert (one.plugin, other.plugin) == ("random_probe", "random_probe")
            assert seconds > ANOTHER_PATIENCE[0]
            assert len([note for note in world.b.said(PluginNoted) if note.text.startswith("our UDP relay")]) == 1
            await one.close()
            await other.close()

    virtual(story)


def test_a_peer_that_is_silent_at_a_relay_chooses_no_relay_for_others() -> None:
    """It may have one of the relays in its hand, or none of our other peers reach that one."""

    async def story() -> None:
        async with WalledWorld(BOTH, NONE, "edm", Shunned) as world:
            site, _ = world.internet.site("c", "edm", 3)
            liar = Seat(world, "c", site, Config(brokers=tuple(URLS[:1]), stun=(STUN,)), REGISTRY)
            await liar.node.start()
            await asyncio.sleep(FINGERPRINTED)
            for _ in range(2):
                pipe = await liar.node.connect(world.a.node.address, **OVER_UDP)
                taken = await world.a.node.accept()
                assert str(taken.local.ip) == "203.0.113.5"
                await pipe.close()
                await taken.close()
            await liar.node.close()
            await asyncio.sleep(2 * RESERVE_PAUSE)
            assert [str(reserve.relayed[0].ip) for reserve in world.reserves] == ["203.0.113.6"]
            one, other, seconds = await connected(world, **OVER_UDP)
            assert str(one.local.ip) == "203.0.113.6"
            assert seconds < 0.3
            await one.close()
            await other.close()

    virtual(story)


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP, LASTING], ids=["udp", "tcp", "durable"])
@pytest.mark.parametrize(("a", "b"), [(True, False), (False, True), (True, True)], ids=["a", "b", "both"])
def test_a_relay_without_room_at_the_moment_is_asked_again(a: bool, b: bool, options: Options) -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", a=a, b=b) as world:
            for seat in (world.a, world.b):
                seat.run.relays._drop_reserve()
            world.turn.full = {Method.ALLOCATE: world.now + 1.5}
            one, other, seconds = await connected(world, **options)
            assert (one.plugin, seconds < 4.0) == ("turn", True)
            await one.close()
            await other.close()

    virtual(story)


@pytest.mark.parametrize("options", [OVER_UDP, LASTING], ids=["udp", "durable"])
def test_a_relay_that_has_no_room_for_a_permission_at_the_moment_is_asked_again(options: Options) -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", b=False) as world:
            world.turn.full = {Method.CREATE_PERMISSION: world.now + 1.5}
            one, other, seconds = await connected(world, **options)
            assert (one.plugin, seconds < 4.0) == ("turn", True)
            await one.close()
            await other.close()

    virtual(story)


def test_a_relay_that_has_no_room_at_all_holds_nothing_up() -> None:
    """The search for a port is what the end waits for, as without any second question."""

    async def story() -> None:
        async with RelayWorld("edm", "edm") as world:
            for seat in (world.a, world.b):
                seat.run.relays._drop_reserve()
            world.turn.full = {Method.ALLOCATE: world.now + 600.0}
            began = world.now
            with pytest.raises(ConnectFailed, match="508"):
                await world.a.node.connect(world.b.node.address, **OVER_UDP)
            assert world.now - began < 12.1

    virtual(story)
