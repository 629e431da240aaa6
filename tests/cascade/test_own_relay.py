"""Whole nodes over the relay of `warpgate serve --relay`, on a host in memory, in virtual time."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address
from typing import Any

import pytest
from cascade_world import EPOCH, OVER_TCP, OVER_UDP, Options, World, connected, ends, exchange, virtual

from warpgate.config import Config
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Family, Mode, Transport
from warpgate.model.rendezvous import Rendezvous
from warpgate.server.relay import RelayAddress, RelayService, RelaySettings
from warpgate.server.relay_desk import RelayDesk
from warpgate.services.http_client import HttpClient
from warpgate.services.http_connection import Answer
from warpgate_testing.internet import OpenSocket

V4, V6 = ip_address("203.0.113.5"), ip_address("2001:db8:5::5")
TURN = "turn-secret:north@203.0.113.5:3480"
HOUR, DAY = 3600.0, 86400.0
# Past every lifetime that a relay knows (an hour for the longest) by default; a day where time does not matter.
LIVES = [pytest.param(1.5 * HOUR, id="hours"), pytest.param(DAY, id="day", marks=pytest.mark.long)]
EITHER = [pytest.param(OVER_UDP, id="udp"), pytest.param(OVER_TCP, id="tcp")]
# Masquerading routers that let no datagram out.
NO_UDP = "masquerade+noudp"


class OwnRelayWorld(World):
    """A world with a relay of ours, which both nodes know."""

    def __init__(self, *kinds: str, server: str = TURN, **options: Any) -> None:
        known = Config(turn=(server,))
        super().__init__(*kinds, config_a=known, config_b=known, **options)
        self.relay_host = self.internet.host("turn", str(V4), str(V6))
        addresses = {Family.V4: RelayAddress(V4, V4), Family.V6: RelayAddress(V6, V6)}
        settings = RelaySettings("north", addresses, frozenset({V4, V6}))
        self.relay = RelayService.open(
            self.relay_host, [Endpoint(V4, 3480), Endpoint(V6, 3480)], settings, wall_clock=time.time
        )

    async def close(self) -> None:
        await super().close()
        await self.relay.close()

    def strays(self) -> list[OpenSocket]:
        return [entry for entry in super().strays() if entry.host != "turn"]

    async def given_back(self) -> None:
        """When nobody keeps one in reserve any more."""
        for seat in (self.a, self.b):
            seat.run.relays._drop_reserve()
        async with asyncio.timeout(45.0):
            while self.relay.machine.allocations or self.relay.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        served = [entry for entry in super().strays() if entry.host == "turn"]
        assert sorted({entry.local.port for entry in served}) == [3480]


@pytest.mark.parametrize("kinds", [("edm", "edm"), (NO_UDP, "edm"), (NO_UDP, NO_UDP)])
@pytest.mark.parametrize("options", EITHER)
def test_pairs_without_a_direct_way_are_relayed_in_half_a_second(kinds: tuple[str, str], options: Options) -> None:
    """Also two that reach nothing but the relay's TCP port: one relayed endpoint sends to the other."""

    async def story() -> None:
        async with OwnRelayWorld(*kinds) as world:
            near, far, seconds = await connected(world, **options)
            if options is OVER_UDP or kinds == ("edm", "edm"):
                assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds < 0.5
            await exchange(near, far)
            await near.close()
            await far.close()
            await world.given_back()
            await world.quiet()

    virtual(story)


def test_a_relayed_stream_over_udp_waits_for_no_tcp_that_cannot_come() -> None:
    """Neither NAT's TCP ports can be told. As soon as QUIC is open it is used: two round trips of 40 ms."""

    async def story() -> None:
        async with OwnRelayWorld("edm", "edm") as world:
            near, _, seconds = await connected(world, mode=Mode.STREAM)
            assert (near.relayed, near.transport) == (True, Transport.UDP)
            assert seconds < 0.1

    virtual(story)


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("how", ["?transport=udp", "?transport=tcp"])
@pytest.mark.parametrize("talk", ["nobody", "far"])
def test_a_relayed_datagram_pipe_lives(how: str, talk: str, life: float) -> None:
    async def story() -> None:
        async with OwnRelayWorld("edm", "edm", server=TURN + how) as world:
            near, far, _ = await connected(world, **OVER_UDP)
            began = world.now
            while world.now < began + life:
                if talk == "far":
                    await far.send(b"tick")
                    assert await near.recv(timeout=5) == b"tick"
                await asyncio.sleep(300)
            await exchange(near, far)
            assert world.relay.machine.counters.allocated < 5

    virtual(story, limit=2 * DAY)


@pytest.mark.parametrize("life", LIVES)
def test_a_relayed_stream_lives_and_ends_with_its_pipe(life: float) -> None:
    async def story() -> None:
        async with OwnRelayWorld("edm", "edm") as world:
            near, far, _ = await connected(world, **OVER_TCP)
            for _ in range(12):
                await asyncio.sleep(life / 12)
                await exchange(near, far)
            await near.send(b"x" * 100_000)
            await near.close()
            received = b""
            while data := await far.recv():
                received += data
            assert len(received) == 100_000
            await far.close()
            await world.given_back()

    virtual(story, limit=2 * DAY)


@pytest.mark.parametrize("options", EITHER)
def test_a_relay_that_dies_ends_the_pipe(options: Options) -> None:
    async def story() -> None:
        async with OwnRelayWorld("edm", "edm") as world:
            near, far, _ = await connected(world, **options)
            world.relay_host.crash()
            assert all(await asyncio.gather(ends(near), ends(far)))
            world.relay_host.boot()

    virtual(story, limit=3600)


@pytest.mark.parametrize("options", EITHER)
def test_a_stranger_without_the_secret_relays_nothing(options: Options) -> None:
    async def story() -> None:
        stranger = TURN.replace("north", "south")
        async with OwnRelayWorld("edm", "edm", server=stranger) as world:
            with pytest.raises(Exception, match="user name or password"):
                await connected(world, **options)
            assert world.relay.machine.counters.allocated == 0
            assert world.relay.machine.counters.challenged > 0

    virtual(story)


def test_a_relay_for_node_ids_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One who is let in is relayed to another, who has the same line and is told that he is not."""
    desks: list[RelayDesk] = []

    async def ask(client: HttpClient, method: str, path: str) -> Answer:
        if not desks:
            raise NetworkError("nobody is there yet")
        sealed = desks[0].ticket(path.removeprefix("/v1/relay/"), "198.51.100.1/32")
        assert isinstance(sealed, bytes)
        return Answer(200, sealed)

    monkeypatch.setattr(HttpClient, "ask", ask)

    async def story() -> None:
        line = Rendezvous("203.0.113.5", names_port=8421, relay_port=3480)
        async with OwnRelayWorld("edm", "edm", server=line.turn[0]) as world:
            timer = asyncio.get_running_loop().time
            # The relay goes by this machine's clock, nodes by another one.
            desks.append(
                RelayDesk(
                    "north",
                    {world.a.node.node_id},
                    clock=lambda: max(time.time(), EPOCH + timer()),
                    timer=timer,
                )
            )
            (refused,) = await world.b.node.check_relay_accounts()
            assert "id is not among those" in refused.error
            (given,) = await world.a.node.check_relay_accounts()
            assert given.servers == ("turn:203.0.113.5:3480",)
            near, far, _ = await connected(world)
            assert (near.plugin, near.relayed) == ("turn", True)
            users = {each.user.partition(":")[2] for each in world.relay.machine.allocations.values()}
            assert users == {world.a.node.node_id}
            await near.close()
            await far.close()

    virtual(story)
