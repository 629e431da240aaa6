"""A peer that does not run is named within 5 s, and one that runs is not, however slow or lossy the brokers are."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from cascade_world import LASTING, OVER_TCP, OVER_UDP, URLS, World, virtual

from warpgate.config import Config
from warpgate.core.search.report import AT_WORK
from warpgate.errors import ConnectFailed
from warpgate.events import PeerSilent, PluginEnded, SignalRefused, StrangerRefused

ABSENT = r"node {peer} answered none of \d+ offers over broker {url}: it is not running, or not at these brokers \("


async def failure(world: World, dest: Any, **options: Any) -> tuple[ConnectFailed, float]:
    began = world.now
    with pytest.raises(ConnectFailed) as caught:
        await world.a.node.connect(dest, **options)
    return caught.value, world.now - began


@pytest.mark.parametrize("options", [{}, OVER_TCP, OVER_UDP, LASTING], ids=["stream", "tcp", "udp", "durable"])
@pytest.mark.parametrize(("kind_a", "kind_b"), [("eim", "eim"), ("edm", "eim"), ("eim", "public")])
def test_a_peer_that_has_gone_is_named_within_5_s_and_given_up_within_8(
    kind_a: str, kind_b: str, options: dict[str, Any]
) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            dest, peer = world.b.node.address, world.b.node.node_id
            await world.b.node.close()
            began = world.now
            told: list[float] = []
            world.a.run.context.observers.append(
                lambda event: told.append(world.now - began) if isinstance(event, PeerSilent) else None
            )
            error, seconds = await failure(world, dest, **options)
            assert re.match(ABSENT.format(peer=peer, url=re.escape(URLS[0])), str(error))
            assert 7 < seconds < 8
            assert len(told) == (2 if options == LASTING else 1)  # for each of its searches
            assert all(4 < at < 5 for at in told)
            signals = [row for row in error.report if row.plugin == "signals"]
            assert len(signals) == len(told)
            assert any("answered none of" in text for row in signals for _, text in row.notes)

    virtual(main)


def test_what_was_refused_is_not_hidden_behind_what_was_still_at_work() -> None:
    async def main() -> None:
        async with World("eim", "public") as world:
            dest = world.b.node.address
            await world.b.node.close()  # the machine is there, and answers SYNs with RST
            error, seconds = await failure(world, dest, timeout=3.0)
            message = str(error)
            assert seconds == pytest.approx(3.0)
            assert message.startswith("no strategy reached ")
            assert "within 3 s, and it has answered none of " in message
            assert message.index("connection refused") < message.index("still at work when")
            assert message.count("still at work when the attempt ended") == 2  # direct's UDP, and all others together

    virtual(main)


def test_brokers_that_cannot_be_reached_are_said_to_be() -> None:
    async def main() -> None:
        async with World() as world:
            dest = world.b.node.address
            await world.b.node.close()
            world.brokers[0].kill()
            error, seconds = await failure(world, dest)
            assert str(error).startswith("no offer could be sent to node ")
            assert f"(broker {URLS[0]})" in str(error)
            assert seconds < 9

    virtual(main)


def test_an_address_from_before_its_broker_was_there_leads_to_the_peer_when_it_is() -> None:
    async def main() -> None:
        async with World() as world:
            await world.b.node.close()
            world.brokers[0].kill()
            await world.b.node.start()
            assert world.b.node.status().brokers == ()
            dest = world.b.node.address.to_text()
            world.brokers[0].revive()
            await asyncio.sleep(90)  # both have tried again by then
            pipe = await world.a.node.connect(dest, mode="datagram")
            await pipe.close()

    virtual(main)


def test_a_peer_that_starts_late_is_met() -> None:
    """It is named at 4 s, and comes at 5.5 s: the offer of 6 s finds it."""

    async def main() -> None:
        async with World() as world:
            dest = world.b.node.address
            await world.b.node.close()
            connecting = asyncio.ensure_future(world.a.node.connect(dest, mode="datagram"))
            await asyncio.sleep(5.5)
            await world.b.node.start()
            pipe = await connecting
            await pipe.close()

    virtual(main)


@pytest.mark.parametrize("lag", [0.5, 1.0, 1.5])
def test_brokers_that_hold_messages_back_do_not_make_a_peer_absent(lag: float) -> None:
    async def main() -> None:
        async with World(lag=lambda: lag) as world:
            pipe = await world.a.node.connect(world.b.node.address)
            await pipe.close()
            assert world.a.said(PeerSilent) == []

    virtual(main)


@pytest.mark.parametrize("one_way", [0.4, 0.8])
def test_the_measured_delay_of_brokers_is_waited_for(one_way: float) -> None:
    async def main() -> None:
        async with World(settle=60.0, lag=None) as world:
            world.brokers[0].one_way = one_way
            for seat in (world.a, world.b):
                await seat.node.close()
                await seat.node.start()
            await asyncio.sleep(60)
            pipe = await world.a.node.connect(world.b.node.address)
            await pipe.close()
            assert world.a.said(PeerSilent) == []

    virtual(main)


@pytest.mark.parametrize("seed", range(8))
def test_a_broker_that_loses_half_of_all_messages_does_not_make_a_peer_absent(seed: int) -> None:
    async def main() -> None:
        async with World(seed=seed) as world:
            world.brokers[0].loss = 0.5
            pipe = await world.a.node.connect(world.b.node.address)
            await pipe.close()

    virtual(main)


# -- refusals -------------------------------------------------------------------------------------------------------


def test_a_refusal_is_the_first_thing_said_and_the_owner_is_told() -> None:
    async def main() -> None:
        someone = "a" * 26
        async with World(config_b=Config(allow=frozenset({someone}))) as world:
            error, seconds = await failure(world, world.b.node.address)
            a, b = world.a.node.node_id, world.b.node.node_id
            assert str(error) == f"refused: {a} is not among those allowed in, says node {b}"
            assert seconds < 1
            refused = [event for event in world.b.events if isinstance(event, SignalRefused) and event.told]
            assert {event.peer for event in refused} == {a}

    virtual(main)


@pytest.mark.parametrize("options", [OVER_TCP, OVER_UDP], ids=["tcp", "udp"])
def test_the_late_checks_of_a_punch_are_no_failure(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with World() as world:
            for _ in range(3):
                pipe = await world.a.node.connect(world.b.node.address, **options)
                other = await world.b.node.accept()
                await pipe.close()
                await other.close()
            await asyncio.sleep(60)
            strangers = [
                event for seat in (world.a, world.b) for event in seat.events if isinstance(event, StrangerRefused)
            ]
            assert strangers == []

    virtual(main)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_network_without_udp_is_named_as_soon_as_it_is_known(name: str) -> None:
    """The nodes have just started: that nothing gets out over UDP shows while the first volley is on its way."""
    kinds = {"a": "eim-apdf", "b": "eim-apdf"} | {name: "eim-apdf+noudp"}

    async def main() -> None:
        async with World(kinds["a"], kinds["b"], settle=0.0) as world:
            error, seconds = await failure(world, world.b.node.address, **OVER_UDP)
            side = "our" if name == "a" else "the peer's"
            assert f"{side} network blocks UDP" in str(error)
            assert seconds < 8.0

    virtual(main)


def test_who_was_stopped_was_not_slower_than_others() -> None:
    async def main() -> None:
        async with World("edm", "edm") as world:
            await failure(world, world.b.node.address, timeout=3.0)
            ends = {event.plugin: event for event in world.a.said(PluginEnded)}
            assert (ends["udp_punch"].outcome, ends["udp_punch"].reason) == ("timed out", AT_WORK)
            assert not any("faster" in event.reason for event in ends.values())

    virtual(main)
