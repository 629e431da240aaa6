"""Names over their life, in virtual time: what a look-up costs, who is trusted, and how a name stays registered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cascade_world import EPOCH, OVER_UDP, URLS, R, World, exchange, identity, virtual

from warpgate.config import Config
from warpgate.core.context import Sources
from warpgate.core.names.registration import DEBOUNCE, REFRESH_HIGH, REFRESH_LOW, UPDATE_GAP
from warpgate.core.node import Node
from warpgate.errors import (
    ConfigError,
    NameNotFound,
    NameRefused,
    NicknameError,
    PeerKeyChanged,
    ServiceError,
)
from warpgate.events import ContactPinned, NameFound, NameNotRegistered, NameRegistered, NameReleased
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint
from warpgate.proto.name_record import NameRecord, RecordKind, seal
from warpgate_testing.internet import OpenSocket
from warpgate_testing.name_server import LabNameServer, refusal
from warpgate_testing.servers import MemoryBrokers

PORT = 8053
HOUR, DAY = 3600.0, 86_400.0


def place(number: int) -> Endpoint:
    return Endpoint.parse(f"203.0.113.{20 + number}:{PORT}")


def wall_clock() -> float:
    return EPOCH + asyncio.get_running_loop().time()


class NamesWorld(World):
    """A world with name servers that both nodes know, 20 ms from everybody."""

    def __init__(self, *kinds: str, servers: int = 1, alone: bool = False, **options: Any) -> None:
        """`alone`: no brokers and no STUN, for nodes that live long: hours of keepalives take seconds to compute."""
        names = tuple(f"http://{place(number)}" for number in range(servers))
        config = Config(names=names, brokers=(), stun=()) if alone else Config(names=names)
        super().__init__(*kinds, config_a=config, config_b=config, **options)
        self.servers = [
            LabNameServer(self.internet.host(f"names{number}", str(place(number).ip)), place(number), wall_clock)
            for number in range(servers)
        ]

    @property
    def server(self) -> LabNameServer:
        return self.servers[0]

    def strays(self) -> list[OpenSocket]:
        return [
            stray
            for stray in super().strays()
            if not stray.host.startswith("names") and getattr(stray.remote, "port", 0) != PORT
        ]

    async def close(self) -> None:
        await self.a.node.close()
        await self.b.node.close()
        for server in self.servers:
            await server.close()
        await super().close()

    def stored(self, number: int = 0) -> NameRecord:
        return self.servers[number].record("bob")


def claim(name: str, owner: str, sequence: int, address: NodeAddress) -> bytes:
    """A record as its owner would sign it."""
    key = identity(owner)
    made = NameRecord(RecordKind.CLAIM, name, key.public_key, sequence, int(wall_clock()), 86_400, address.encode())
    return seal(made, key)


async def eventually(condition: Any, patience: float) -> None:
    """Virtual seconds."""
    for _ in range(int(patience / 0.1)):
        if condition():
            return
        await asyncio.sleep(0.1)
    assert condition()


# -- looking up ----------------------------------------------------------------------------------------------------


def test_a_name_costs_one_request_and_one_round_trip_more_than_an_address() -> None:
    async def main() -> None:
        seconds = {}
        for by_name in (False, True):
            async with NamesWorld("eim-apdf", "eim-apdf", settle=5.0) as world:
                await world.b.node.nickname("bob")
                dest = "Bob" if by_name else world.b.node.address
                began = world.now
                pipe = await world.a.node.connect(dest, **OVER_UDP)
                seconds[by_name] = world.now - began
                other = await world.b.node.accept()
                await exchange(pipe, other)
                assert world.server.count("GET") == by_name
                assert world.a.signals() == {"offer": 1}
                row = pipe.report[0]
                assert (row.plugin == "names") == by_name
                if by_name:
                    assert row.notes[0][1].startswith(f"bob is {world.b.node.node_id}, says {world.server.url}")
                    assert row.started == pytest.approx(-R, abs=0.001)
                    (found,) = world.a.said(NameFound)
                    assert found.seconds == pytest.approx(R, abs=0.001)
                await pipe.close()
                await other.close()
                await world.quiet()
        assert seconds[True] - seconds[False] == pytest.approx(R, abs=0.001)

    virtual(main)


def test_a_server_that_is_down_costs_nothing_while_another_answers() -> None:
    async def main() -> None:
        seconds = []
        for dead in (False, True):
            async with NamesWorld(servers=2, settle=5.0) as world:
                await world.b.node.nickname("bob")
                if dead:
                    world.servers[0].kill()
                    await asyncio.sleep(1.0)
                began = world.now
                pipe = await world.a.node.connect("bob", **OVER_UDP)
                seconds.append(world.now - began)
                pipe.abort()
                await world.quiet()
        assert seconds[1] == pytest.approx(seconds[0], abs=0.001)

    virtual(main)


def test_nobody_has_the_name_or_it_is_none_or_ones_own() -> None:
    async def main() -> None:
        async with NamesWorld(settle=1.0) as world:
            node = world.a.node
            with pytest.raises(NameNotFound, match="nobody has registered 'carol'"):
                await node.connect("carol")
            with pytest.raises(NicknameError, match="no address text"):
                await node.connect("ca rol")
            await node.nickname("al")
            with pytest.raises(ConfigError, match="this node's own address"):
                await node.connect("AL")
            assert world.a.node._run.initiators == set()

    virtual(main)


def test_a_name_server_that_is_dead_or_slow_does_not_delay_the_start() -> None:
    async def main() -> None:
        async with NamesWorld(alone=True, settle=0.0) as world:
            assert world.now == 0.0
            assert world.server.connections == 0  # still on its way
            await asyncio.sleep(2 * R)
            assert world.server.connections == 2

    virtual(main)


def test_without_a_name_server_it_says_at_once_what_to_do() -> None:
    async def main() -> None:
        async with World(settle=0.0) as world:
            began = world.now
            for refused in (
                world.a.node.connect("bob"),
                world.a.node.nickname("bob"),
                world.a.node.release_nickname("bob"),
            ):
                with pytest.raises(ServiceError, match="no name server is configured: give the URL of one"):
                    await refused
            assert world.now == began

    virtual(main)


def test_the_first_key_of_a_name_is_pinned() -> None:
    async def main() -> None:
        async with NamesWorld(settle=5.0) as world:
            await world.b.node.nickname("bob")
            for _ in range(2):
                pipe = await world.a.node.connect("bob", **OVER_UDP)
                pipe.abort()
            assert [event.node_id for event in world.a.said(ContactPinned)] == [world.b.node.node_id]
            genuine = world.server.records["bob"]
            impostor = NodeAddress(identity("mallory").public_key, (), world.b.node.address.attachments)
            world.server.records["bob"] = claim("bob", "mallory", 2**62, impostor)
            sent = sum(world.a.signals().values())
            with pytest.raises(PeerKeyChanged, match="warpgate name forget bob") as caught:
                await world.a.node.connect("bob")
            assert world.b.node.node_id in str(caught.value)
            assert impostor.node_id in str(caught.value)
            assert sum(world.a.signals().values()) == sent
            world.server.records["bob"] = genuine
            (await world.a.node.connect("bob", **OVER_UDP)).abort()
            await world.quiet()

    virtual(main)


def test_an_older_record_than_the_last_one_seen_is_refused() -> None:
    async def main() -> None:
        async with NamesWorld(brokers=2, settle=5.0) as world:
            await world.b.node.nickname("bob")
            old = world.server.records["bob"]
            world.brokers[0].kill()
            await eventually(lambda: world.server.records["bob"] != old, 60)
            (await world.a.node.connect("bob", **OVER_UDP)).abort()
            world.server.records["bob"] = old
            with pytest.raises(ServiceError, match="out of date"):
                await world.a.node.connect("bob")
            await world.quiet()

    virtual(main)


def test_the_time_limit_covers_the_look_up() -> None:
    async def main() -> None:
        async with NamesWorld(settle=1.0) as world:
            world.internet.partition(world.routers["a"], world.server._network)
            began = world.now
            with pytest.raises(ServiceError, match=r"within 0.5 s"):
                await world.a.node.connect("bob", timeout=0.5)
            assert world.now - began == pytest.approx(0.5, abs=0.01)
            with pytest.raises(ServiceError, match="no answer within 2 s"):
                await world.a.node.connect("bob")

    virtual(main)


@pytest.mark.parametrize("doing", ["connect", "nickname", "release_nickname"])
def test_closing_the_node_ends_what_waits_for_a_server(doing: str) -> None:
    async def main() -> None:
        async with NamesWorld(settle=1.0) as world:
            world.internet.partition(world.routers["a"], world.server._network)
            waiting = asyncio.create_task(getattr(world.a.node, doing)("bob"))
            await asyncio.sleep(0.5)
            began = world.now
            await world.a.node.close()
            with pytest.raises(ServiceError):
                await waiting
            assert world.now - began < 1.0

    virtual(main)


# -- registering -----------------------------------------------------------------------------------------------------


def test_a_record_is_refreshed_every_few_hours_while_the_node_lives() -> None:
    async def main() -> None:
        async with NamesWorld(servers=2, alone=True) as world:
            assert await world.b.node.nickname("bob") == tuple(server.url for server in world.servers)
            assert world.stored().address == world.b.node.addr_bytes
            puts = world.server.count("PUT")
            await asyncio.sleep(DAY)
            refreshed = world.server.count("PUT") - puts
            assert DAY / REFRESH_HIGH - 1 <= refreshed <= DAY / REFRESH_LOW + 1
            assert world.stored(0) == world.stored(1)
            assert EPOCH + world.now - world.stored().issued <= REFRESH_HIGH
            assert (await world.a.node._run.names.look_up("bob")).address == world.b.node.address

    virtual(main, limit=3 * DAY)


def test_a_changed_address_is_registered_soon_and_once() -> None:
    async def main() -> None:
        async with NamesWorld(brokers=2) as world:
            await world.b.node.nickname("bob")
            await asyncio.sleep(UPDATE_GAP)
            before, puts = world.b.node.address, world.server.count("PUT")
            world.brokers[0].kill()
            await eventually(lambda: world.b.node.address != before, 60)
            await asyncio.sleep(DEBOUNCE + 0.2)
            assert NodeAddress.decode(world.stored().address) == world.b.node.address
            assert world.server.count("PUT") == puts + 1

    virtual(main)


def test_while_no_server_is_up_it_fails_or_waits() -> None:
    async def main() -> None:
        async with NamesWorld(settle=1.0) as world:
            world.server.kill()
            with pytest.raises(ServiceError, match=r"'bob' could not be registered: http://203\.0\.113\.20"):
                await world.b.node.nickname("bob")
            assert "bob" not in world.b.node._run.names._registrations
            waiting = asyncio.create_task(world.b.node.nickname("bob", wait=True))
            await asyncio.sleep(HOUR)
            tries = len(world.b.said(NameNotRegistered))
            assert 15 < tries < 60
            world.server.revive()
            await asyncio.sleep(310.0)
            assert await waiting == (world.server.url,)
            assert "bob" in world.server.records

    virtual(main, limit=2 * HOUR)


def test_a_server_that_comes_back_gets_the_record_and_so_have_all_the_same() -> None:
    """What it gets first is hours old: it says so, and then it and the others get a new one."""

    async def main() -> None:
        async with NamesWorld(servers=2) as world:
            world.servers[1].kill()
            assert await world.b.node.nickname("bob") == (world.server.url,)
            await asyncio.sleep(HOUR)
            world.servers[1].revive()
            await eventually(lambda: "bob" in world.servers[1].records, 310)
            await asyncio.sleep(DEBOUNCE + UPDATE_GAP)
            assert world.stored(0) == world.stored(1)

    virtual(main, limit=2 * HOUR)


def test_a_name_that_is_taken_is_refused_with_the_servers_reason() -> None:
    async def main() -> None:
        async with NamesWorld(servers=2, alone=True) as world:
            await world.a.node.nickname("bob")
            with pytest.raises(NameRefused, match="registered by another key") as caught:
                await world.b.node.nickname("bob", wait=True)
            assert caught.value.code == "taken"
            puts = world.server.count("PUT")
            await asyncio.sleep(DAY / 4)
            assert world.stored(0) == world.stored(1)
            assert world.stored().public_key == world.a.node.public_key
            assert world.server.count("PUT") <= puts + 2  # only a's refreshes

    virtual(main, limit=DAY)


def test_a_name_that_one_of_two_servers_refuses_is_registered_at_the_other() -> None:
    async def main() -> None:
        async with NamesWorld(servers=2, settle=1.0) as world:
            world.servers[0].refusal = refusal(409, "too_many_names", "this key has 5 names")
            assert await world.b.node.nickname("bob") == (world.servers[1].url,)
            (told,) = world.b.said(NameNotRegistered)
            assert (told.refused, told.reason) == (True, "this key has 5 names")

    virtual(main)


def test_a_server_that_has_a_higher_sequence_gets_a_higher_one() -> None:
    """Left by an earlier run of this node, whose clock was ahead."""

    async def main() -> None:
        async with NamesWorld(settle=1.0) as world:
            ahead = int(wall_clock() * 1000) + 60_000
            world.server.records["bob"] = claim("bob", "b", ahead, world.b.node.address)
            await world.b.node.nickname("bob")
            assert world.stored().sequence == ahead + 1
            assert world.server.count("PUT") == 2

    virtual(main)


@pytest.mark.parametrize("days", [2, 2**40], ids=["two days ahead", "never"])
def test_a_server_that_claims_an_impossible_sequence_is_not_followed(days: int) -> None:
    """Else no honest server would take a record of ours for as long: nothing is higher than the highest number."""

    async def main() -> None:
        async with NamesWorld(servers=2, alone=True) as world:
            claimed = min(2**64 - 1, int(wall_clock() + days * DAY) * 1000)
            world.servers[0].refusal = refusal(409, "stale_sequence", "higher!", claimed)
            assert await world.b.node.nickname("bob") == (world.servers[1].url,)
            world.servers[0].refusal = None
            await eventually(lambda: "bob" in world.servers[0].records, 2 * HOUR)
            assert world.stored(0).sequence <= wall_clock() * 1000

    virtual(main, limit=3 * HOUR)


def test_a_name_that_is_released_is_free() -> None:
    async def main() -> None:
        async with NamesWorld(servers=2, alone=True) as world:
            await world.b.node.nickname("bob")
            assert await world.b.node.release_nickname("Bob") == tuple(server.url for server in world.servers)
            assert [server.records for server in world.servers] == [{}, {}]
            assert len(world.b.said(NameReleased)) == 2
            await world.a.node.nickname("bob")
            with pytest.raises(NameRefused, match="could not be released"):
                await world.b.node.release_nickname("bob")
            await asyncio.sleep(DAY / 2)
            assert world.stored().public_key == world.a.node.public_key

    virtual(main, limit=DAY)


def test_a_name_outlives_its_node_and_belongs_to_the_identity() -> None:
    async def main() -> None:
        async with NamesWorld(settle=1.0) as world:
            await world.b.node.nickname("bob")
            first = world.stored()
            await world.b.node.close()
            assert world.stored() == first
            await asyncio.sleep(1.0)
            again = Node(
                Config(brokers=URLS[:1], stun=(), names=(world.server.url,), port=5555),
                identity=identity("b"),
                network=world.hosts["b"],
                brokers=MemoryBrokers(*world.brokers),
                sources=Sources(wall_clock=wall_clock),
            )
            async with again:
                await again.nickname("bob")
                assert world.stored().sequence > first.sequence
                assert {at.udp.local for at in NodeAddress.decode(world.stored().address).attachments} == {5555}

    virtual(main)


def test_asking_for_the_same_name_twice_registers_it_once() -> None:
    async def main() -> None:
        async with NamesWorld(settle=1.0) as world:
            await asyncio.gather(*(world.b.node.nickname(name) for name in ("bob", "BOB", "bob")))
            assert world.server.count("PUT") == 1
            assert len(world.b.said(NameRegistered)) == 1

    virtual(main)
