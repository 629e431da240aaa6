"""Durable pipes, and whoever is on their way: relays, brokers, forgers, a server that lies to the reserve alone."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from cascade_world import World, connected, exchange, virtual
from durable_kit import Counters
from strangers_kit import Stranger
from test_hostile_connections import durable, searches
from test_instances import reached, twin_of_b
from test_relay_addresses import LyingTurn, LyingWorld
from test_relays import RelayWorld

from warpgate.core.connection.paths import Path, TcpPath
from warpgate.core.connections import LINGERING
from warpgate.core.search.seeker import AT_ONCE, RATE
from warpgate.errors import ConnectFailed
from warpgate.events import PathChosen, PathLost, PipeOpened
from warpgate.lab.flow import RST, Flow, Protocol
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.services.relay import RESERVE_PAUSE
from warpgate_testing.internet import Packet, PathSpec
from warpgate_testing.segment import TcpSegment
from warpgate_testing.turn import MemoryAllocation, MemoryTurn

# -- a relay -------------------------------------------------------------------------------------------------------


class MeddlingTurn(MemoryTurn):
    """Datagrams of peers are late, in another order, twice, and once more after five seconds."""

    handed = 0

    def _from_peer(self, allocation: MemoryAllocation, data: bytes, source: SockAddr) -> None:
        rng, pass_on = random.Random(self.handed), super()._from_peer
        delays = [rng.uniform(0.0, 0.2)]
        if rng.random() < 0.3:
            delays += [rng.uniform(0.0, 0.4), 5.0]
        for delay in delays:
            self.handed += 1
            asyncio.get_running_loop().call_later(delay, pass_on, allocation, data, source)


def test_a_relay_that_delays_reorders_and_repeats_changes_nothing_of_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("test_relays.MemoryTurn", MeddlingTurn)

    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            near, far = await durable(world)
            assert near.relayed
            counting = Counters(near, far)
            await asyncio.sleep(8)
            await counting.stop()
            data = random.Random(1).randbytes(100_000)
            sending = asyncio.ensure_future(near.send(data))
            assert await far.recv_n(len(data)) == data
            await sending
            assert isinstance(world.turn, MeddlingTurn)
            assert world.turn.handed > 300
            for seat in (world.a, world.b):
                assert searches(seat) < 12  # for a direct path, now and then: none because of the relay
            near.abort()
            far.abort()
            await asyncio.sleep(6)

    virtual(main)


# -- a broker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["open", "over", "restarted"])
def test_offers_of_a_durable_connection_that_a_broker_repeats_begin_nothing(when: str) -> None:
    """They are for paths, and have the client's first packets in them."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, far = await durable(world)
            await asyncio.sleep(1)
            recorded = [entry for entry in world.brokers[0].log if entry[0].endswith(world.b.node.node_id)]
            assert any(len(envelope) > 2000 for _, envelope in recorded)
            if when != "open":
                near.abort()
                far.abort()
                await asyncio.sleep(LINGERING + 1)
            if when == "restarted":
                await world.b.node.close()
                await world.b.node.start()
                await asyncio.sleep(1)
            there, tried = len(world.b.run.connections), searches(world.b)
            sessions = world.b.run.sessions.ids
            opened = len(world.b.said(PipeOpened))
            packets = world.internet.capture()
            for _ in range(50):
                for topic, envelope in recorded:
                    world.brokers[0].publish(topic, envelope)
                await asyncio.sleep(0.05)
            assert len(world.b.run.connections) == there == (1 if when == "open" else 0)
            assert searches(world.b) == tried
            assert world.b.run.sessions.ids == sessions
            assert len(world.b.said(PipeOpened)) == opened
            sent = {seen.packet.flow.destination for seen in packets if seen.sent and seen.host == "b"}
            assert len(sent) <= (2 if when == "open" else 1), "the peer, and the broker"
            if when == "open":
                await exchange(near, far)
                near.abort()
                far.abort()

    virtual(main)


# -- forgers -------------------------------------------------------------------------------------------------------


def reset(world: World, mallory: Stranger, path: Path) -> None:
    """What somebody who sees the path, and its numbers, can send to b in a's name."""
    assert isinstance(path, TcpPath)
    flow = Flow(Protocol.TCP, path.origin.remote, path.origin.local)
    inside: Any = path._stream
    segment = TcpSegment(RST, inside._connection._expected)
    world.internet._wire.send(mallory.network.host, Packet(flow, segment))


def test_forged_resets_cost_a_durable_pipe_a_change_of_paths_and_few_searches() -> None:
    async def main() -> None:
        async with World("eim-apdf+noudp", "public") as world:
            mallory = Stranger(world)
            world.internet.set_path(mallory.network, world.hosts["b"], PathSpec(delay=0.0))
            near, far = await durable(world)
            counting = Counters(near, far)
            await asyncio.sleep(1)
            tried, began = Counter({seat: searches(seat) for seat in (world.a, world.b)}), world.now
            for path in tuple(far.connection._paths):
                reset(world, mallory, path)
            await asyncio.sleep(1)
            assert far.connection.current is not None, "one reset: there is another path within a second"
            while world.now < began + 60.0:
                for path in tuple(far.connection._paths):
                    reset(world, mallory, path)
                await asyncio.sleep(0.1)
            assert len(world.b.said(PathLost)) > AT_ONCE
            for seat in (world.a, world.b):  # each takes part in those of both
                assert searches(seat) - tried[seat] <= 2 * (AT_ONCE + 60 * RATE + 2)
            await asyncio.sleep(10)
            await counting.stop()
            mallory.close()
            near.abort()
            far.abort()

    virtual(main)


def test_floods_at_both_ends_change_nothing_of_what_is_open() -> None:
    """Datagrams in each other's names, with the connection's ids, first packets, and garbage."""

    async def main() -> None:
        async with World("eim-eif", "eim-eif") as world:
            mallory = Stranger(world)
            near, far = await durable(world)
            counting = Counters(near, far)
            await asyncio.sleep(1)
            rng = random.Random(3)
            changes = [len(seat.said(PathChosen)) for seat in (world.a, world.b)]
            ids = [pipe.connection.engine.id for pipe in (near, far)]
            outside = {"a": far.remote, "b": near.remote}
            for _ in range(400):
                for name, victim in zip(ids, "ab", strict=True):
                    source = outside["b" if victim == "a" else "a"]
                    for data in (
                        bytes((0x40 | rng.randrange(64),)) + name + rng.randbytes(rng.randrange(20, 1200)),
                        b"\xc0\0\0\0\1\x08" + rng.randbytes(1194),
                        rng.randbytes(rng.randrange(1, 1200)),
                    ):
                        mallory.forge(source, data, outside[victim])
                        mallory.forge(Endpoint.of(mallory.ip, mallory.port), data, outside[victim])
                await asyncio.sleep(0.01)
            await counting.stop()
            assert changes == [len(seat.said(PathChosen)) for seat in (world.a, world.b)]
            assert [len(seat.run.connections) for seat in (world.a, world.b)] == [1, 1]
            assert near.connection.end is far.connection.end is None
            mallory.close()
            near.abort()
            far.abort()

    virtual(main)


# -- a TURN server that is honest to whoever asks, and lies to the reserve -----------------------------------------


class TwoFacedTurn(LyingTurn):
    """Of each client the first allocation, which is the reserve, is somewhere else than it says."""

    asked = 0

    def _allocate(self, *words: Any) -> Any:
        self.asked += 1
        if self.asked > 1:
            self.relayed = None
        return super()._allocate(*words)


@pytest.mark.parametrize(
    ("relayed", "noticed", "most"),
    [("127.0.0.1:6000", True, 0), ("192.168.1.50:6000", False, 0), ("203.0.113.77:6000", False, 20)],
)
def test_a_reserve_that_is_a_lie_costs_an_attempt_at_most_and_touches_nobody(
    relayed: str, noticed: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server can always prevent what only it relays. A third party gets the checks of an address that is wrong."""
    monkeypatch.setattr("test_relay_addresses.LyingTurn", TwoFacedTurn)

    async def main() -> None:
        async with LyingWorld(relayed=relayed) as world:
            packets = world.internet.capture()
            if not noticed:
                with pytest.raises(ConnectFailed):
                    await world.a.node.connect(world.b.node.address, durable=True, timeout=8)
                await asyncio.sleep(RESERVE_PAUSE + 1)
            near, far, seconds = await connected(world, durable=True)
            assert near.relayed
            assert seconds < 0.5
            lie = Endpoint.parse(relayed)
            sent = [seen for seen in packets if seen.sent and seen.packet.flow.destination == lie]
            assert len(sent) <= most
            assert sum(len(seen.packet.payload) for seen in sent if isinstance(seen.packet.payload, bytes)) < 8000
            near.abort()
            far.abort()
            await asyncio.sleep(1)

    virtual(main)


# -- twins ---------------------------------------------------------------------------------------------------------


def test_the_first_words_of_a_durable_connection_reach_the_right_one_of_twins() -> None:
    async def main() -> None:
        async with World() as world, twin_of_b(world) as twin:
            for seat, other in ((world.b, twin), (twin, world.b)):
                pipe = await world.a.node.connect(seat.node.address, durable=True)
                assert await reached(world, seat, other) is seat
                assert len(other.run.connections) == 0
                pipe.abort()
                await asyncio.sleep(LINGERING + 2)

    virtual(main)
