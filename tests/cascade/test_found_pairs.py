"""What a search through a symmetric NAT has found is of use the next time, also to another process: in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from cascade_world import OVER_UDP, Options, R, World, connected, exchange, virtual

from warpgate.core.found_pairs import FoundPair
from warpgate.core.udp.kept_ports import KEPT, MOST_KEPT
from warpgate.events import PluginNoted
from warpgate.model.endpoint import Endpoint, Mode, Transport

STREAMS: Options = {"mode": Mode.STREAM, "transport": Transport.UDP}
DURABLE: Options = {"durable": True}
LISTENER, INITIATOR, BOTH = ("eim-apdf", "edm"), ("edm", "eim-apdf"), ("mape", "mape")


class Shelf:
    """A user's data directory."""

    def __init__(self) -> None:
        self.pairs: list[FoundPair] = []

    def load(self) -> list[FoundPair]:
        return list(self.pairs)

    def save(self, pairs: Sequence[FoundPair]) -> None:
        self.pairs = list(pairs)


@pytest.fixture(autouse=True)
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()
    monkeypatch.setattr("warpgate.core.launch.pair_store", lambda _: shelf)
    return shelf


async def once(world: World, options: Options) -> float:
    """A pipe, used and closed; then the process of a ends and another one begins. The seconds that a waited."""
    one, other, waited = await connected(world, **options)
    await exchange(one, other)
    await one.close()
    await other.close()
    await world.a.node.close()
    await asyncio.sleep(1.0)
    await world.a.node.start()
    return waited


def tried(world: World) -> list[str]:
    return [event.text for event in world.a.said(PluginNoted) if event.text.startswith("trying")]


def flows(world: World) -> list[int]:
    return [world.routers[name].counters().flows_created for name in "ab"]


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        pytest.param(LISTENER, STREAMS, id="the listener's NAT, streams"),
        pytest.param(INITIATOR, OVER_UDP, id="the initiator's NAT, datagrams"),
        pytest.param(LISTENER, DURABLE, id="the listener's NAT, durable"),
        pytest.param(INITIATOR, DURABLE, id="the initiator's NAT, durable"),
        pytest.param(BOTH, DURABLE, id="both NATs, durable"),
    ],
)
def test_twenty_processes_one_after_the_other_search_once(kinds: tuple[str, str], options: Options) -> None:
    """Each process that searched would cost a router 256 mappings: 8 such are all it is given in ten minutes."""

    async def main() -> None:
        async with World(*kinds) as world:
            await once(world, options)
            before = flows(world)
            waits = [await once(world, options) for _ in range(19)]
            assert max(waits) <= (2 * R if options is STREAMS else R) + 1e-6, waits
            # What a start costs: STUN and the broker. The listener's router sees the rest of the first search.
            made = [after - first for first, after in zip(before, flows(world), strict=True)]
            assert sum(made) <= 19 * 16 + 256
            await world.quiet()

    virtual(main)


def test_a_pair_that_leads_nowhere_any_more_costs_some_checks() -> None:
    """The listener's router has forgotten its mappings, or its sockets are closed: what is left is a new search."""

    async def main() -> None:
        async with World(*LISTENER) as world:
            await once(world, OVER_UDP)
            await asyncio.sleep(KEPT + 1)
            assert world.leftovers() == []
            assert len(list(world.b.run.udp.kept._timers)) == 0
            one, other, waited = await connected(world, **OVER_UDP)
            assert waited > R
            assert len(tried(world)) == 1
            await exchange(one, other)
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


def test_a_peer_that_is_elsewhere_is_not_looked_for_where_it_was(shelf: Shelf) -> None:
    async def main() -> None:
        async with World(*LISTENER) as world:
            await once(world, OVER_UDP)
            shelf.pairs = [replace(pair, remote=Endpoint.of("198.51.100.77", pair.remote.port)) for pair in shelf.pairs]
            await world.a.node.close()
            await world.a.node.start()
            one, other, _ = await connected(world, **OVER_UDP)
            assert tried(world) == []
            await one.close()
            await other.close()

    virtual(main)


def test_a_socket_that_is_kept_stays_as_long_as_a_pipe_needs_it() -> None:
    """Two streams of one peer by the same pair of endpoints: the first to end leaves the socket to the other."""

    async def main() -> None:
        async with World(*LISTENER) as world:
            await once(world, STREAMS)
            one, other, _ = await connected(world, **STREAMS)
            two, another, _ = await connected(world, **STREAMS)
            assert one.remote == two.remote
            await one.close()
            await other.close()
            await asyncio.sleep(2.5 * KEPT)
            await exchange(two, another)
            await two.close()
            await another.close()
            await asyncio.sleep(2 * KEPT)
            assert len(world.b.run.udp.ports) == len(world.b.node.address.attachments)

    virtual(main)


def test_few_sockets_are_kept_and_none_on_an_address_that_is_gone() -> None:
    async def main() -> None:
        async with World() as world:
            udp, host = world.b.run.udp, world.b.node.address.attachments[0].host
            bases = [udp.open(Endpoint(host, 0)).base for _ in range(MOST_KEPT + 5)]
            for base in bases:
                udp.leave_port(base, relayed=False)
            assert [base in udp.kept for base in bases] == [False] * 5 + [True] * MOST_KEPT
            assert len(udp.ports) == MOST_KEPT + 1
            world.internet.move(world.hosts["b"], "192.168.2.9", behind=world.routers["b"])
            await asyncio.sleep(1.0)
            assert len(udp.ports) == 1

    virtual(main)
