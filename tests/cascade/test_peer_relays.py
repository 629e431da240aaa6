"""Two members of a group behind strict NATs, and a third one's machine that relays for them: in virtual time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from cascade_world import EPOCH, OVER_UDP, World, connected, exchange, identity, virtual

from warpgate.config import Config
from warpgate.core.context import Sources
from warpgate.core.node import Node
from warpgate.errors import ConnectFailed, ServiceError
from warpgate.events import ServerFailed
from warpgate.model.endpoint import Family
from warpgate.model.wanted import RELAY_SERVICE
from warpgate.proto.relay_limits import MEBIBYTE
from warpgate.server.peer_relay import LIFETIME, PeerRelay
from warpgate_testing.internet import OpenSocket
from warpgate_testing.servers import MemoryBrokers

CAROL = "203.0.113.77"


class GroupWorld(World):
    """a and b behind NATs of these kinds, and carol, who lends her machine to `allow`."""

    def __init__(self, *kinds: str, allow: frozenset[str], behind: str = "", **options: Any) -> None:
        super().__init__(*kinds, **options)
        self.machine = self._site("carol", behind, 7, False) if behind else self.internet.host("carol", CAROL)
        self.carol = Node(
            replace(self.a.node._config, allow=allow),
            identity=identity("carol"),
            network=self.machine,
            brokers=MemoryBrokers(*self.brokers),
            sources=Sources(wall_clock=self._clock),
        )
        self.relay = PeerRelay(self.carol, self.machine, wall_clock=self._clock)
        self.carol.serve(RELAY_SERVICE, self._serve)

    @staticmethod
    def _clock() -> float:
        return EPOCH + asyncio.get_running_loop().time()

    async def _serve(self, pipe: Any) -> None:
        async with pipe:
            await self.relay.tell(pipe)

    async def __aenter__(self) -> Any:
        await self.carol.start()
        await self.relay.open()
        for seat in (self.a, self.b):
            seat.node._config = replace(seat.node._config, relay_peers=(self.carol.address.to_text(),))
        return await super().__aenter__()

    async def close(self) -> None:
        await super().close()
        await self.relay.close()
        await self.carol.close()

    def strays(self) -> list[OpenSocket]:
        """Credentials are asked for over pipes to carol, which live for a moment."""
        return [entry for entry in super().strays() if entry.host != "carol" and "carol" not in str(entry.remote)]


MEMBERS = frozenset({identity("a").node_id, identity("b").node_id})


def test_two_strict_nats_meet_on_a_third_members_machine() -> None:
    async def story() -> None:
        async with GroupWorld("edm", "edm", allow=MEMBERS) as world:
            near, far, seconds = await connected(world, **OVER_UDP)
            assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds < 0.5
            await exchange(near, far)
            use = world.relay.use
            assert use.reachable == (f"{CAROL}:{world.carol.port + 2}",)
            assert set(use.allocations) <= MEMBERS
            assert use.allocations[world.a.node.node_id] >= 1
            assert use.relayed > 0
            await near.close()
            await far.close()
            await asyncio.sleep(60)
            assert max(world.relay.use.allocations.values(), default=0) <= 1  # each has one in reserve
            await world.a.node.close()
            await world.b.node.close()
            await asyncio.sleep(1)
            assert world.relay.use.allocations == {}

    virtual(story)


def test_credentials_are_renewed_for_as_long_as_both_run() -> None:
    async def story() -> None:
        async with GroupWorld("edm", "edm", allow=MEMBERS) as world:
            await asyncio.sleep(5 * LIFETIME)
            near, far, seconds = await connected(world, **OVER_UDP)
            assert near.relayed
            assert seconds < 0.5
            await near.close()
            await far.close()

    virtual(story, limit=1e6)


def test_who_is_not_allowed_gets_no_relay() -> None:
    async def story() -> None:
        async with GroupWorld("edm", "edm", allow=frozenset({identity("b").node_id})) as world:
            failures = [event for event in world.a.said(ServerFailed) if event.service == "ice-servers"]
            assert failures
            assert failures[0].server.startswith("peer wg1")
            assert world.a.run.relays.servers == ()
            assert world.b.run.relays.servers

    virtual(story)


def test_a_member_takes_an_uplinks_share_and_no_more() -> None:
    """Of allocations 32, of bytes 2 MiB a second and what a second may come at once."""

    async def story() -> None:
        async with GroupWorld("edm", "edm", allow=MEMBERS) as world:
            relays = world.a.run.relays
            opened = [await relays.open_udp({Family.V4}) for _ in range(32)]
            with pytest.raises(ServiceError, match="486"):
                await relays.open_udp({Family.V4})
            assert world.relay.use.allocations[world.a.node.node_id] == 32
            one, other = opened[0], opened[1]
            one.permit(other.relayed[0].ip)
            other.permit(one.relayed[0].ip)
            await asyncio.sleep(1.0)
            for _ in range(300):
                for _ in range(50):  # 5 MB a second, for 3 s
                    one.send(bytes(1000), other.relayed[0])
                await asyncio.sleep(0.01)
            await asyncio.sleep(1.0)
            assert MEBIBYTE < world.relay.use.relayed < (3 + 1 + 1) * 2 * MEBIBYTE
            for allocation in opened:
                allocation.drop()

    virtual(story)


def test_a_lender_that_nobody_reaches_offers_nothing() -> None:
    async def story() -> None:
        async with GroupWorld("eim", "eim", allow=MEMBERS, behind="eim") as world:
            assert world.relay.use.reachable == ()
            assert world.a.run.relays.servers == ()
            [failure] = {event.reason for event in world.a.said(ServerFailed) if event.service == "ice-servers"}
            assert "no TURN server" in failure

    virtual(story)


def test_a_lender_cannot_name_a_relay_in_our_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lie(relay: PeerRelay, pipe: Any) -> None:
        servers = [
            {"urls": f"turn:{host}", "username": "u", "credential": "p"} for host in ("192.168.1.1", "127.0.0.1")
        ]
        await pipe.send(json.dumps(servers).encode())

    monkeypatch.setattr(PeerRelay, "tell", lie)

    async def story() -> None:
        async with GroupWorld("edm", "edm", allow=MEMBERS) as world:
            with pytest.raises(ConnectFailed, match="provider's word"):
                await world.a.node.connect(world.b.node.address, plugins=["turn"], **OVER_UDP)

    virtual(story)


def test_a_lender_that_talks_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(relay: PeerRelay, pipe: Any) -> None:
        for _ in range(1000):
            await pipe.send(bytes(1000))

    monkeypatch.setattr(PeerRelay, "tell", talk)

    async def story() -> None:
        async with GroupWorld("edm", "edm", allow=MEMBERS) as world:
            reasons = {event.reason for event in world.a.said(ServerFailed) if event.service == "ice-servers"}
            assert any("more than 16384 bytes" in reason for reason in reasons)

    virtual(story)


def test_what_a_lender_has_handed_out_is_good_for_its_run_alone() -> None:
    async def story() -> None:
        async with GroupWorld("edm", "edm", allow=MEMBERS) as world:
            await world.relay.close()
            world.relay = PeerRelay(world.carol, world.machine, wall_clock=world._clock)
            await world.relay.open()
            checks = await world.a.run.relays.check()  # with the log-in that it has for the better part of an hour
            assert all("401" in check.error for check in checks)
            assert checks

    virtual(story)


def test_unused_configuration_asks_nobody() -> None:
    async def story() -> None:
        async with World("edm", "edm", config_a=Config(port_map=False)) as world:
            assert not world.a.run.relays.configured

    virtual(story)
