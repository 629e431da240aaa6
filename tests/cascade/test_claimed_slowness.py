"""A peer says that it is far from its brokers, or answers late on purpose: patience grows by that, within bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cascade_world import OVER_TCP, OVER_UDP, Options, World, exchange, hosted_by, virtual
from strangers_kit import Stranger, sent_by

from warpgate.config import Timing
from warpgate.errors import ConnectFailed
from warpgate.events import SignalSent
from warpgate.model.address import NodeAddress
from warpgate.plan.patience import LONGEST, LONGEST_SIGNAL
from warpgate.plugins.reverse import CallBack
from warpgate.plugins.udp_punch import Punch

FARTHEST = 65.535  # s, the most that an address can say
MESSAGES = (("udp_punch", Punch(1)), ("tcp_punch", Punch(1, (), 0.02)), ("reverse", CallBack()))


def claiming(address: NodeAddress, round_trip: float) -> NodeAddress:
    return replace(address, brokers=tuple(replace(broker, rtt=round_trip) for broker in address.brokers))


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_a_claim_delays_a_connect_by_no_more_than_a_slow_signal_takes(options: Options) -> None:
    """Whoever hands on an old address, or a wrong one, does not keep two nodes apart that could meet."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            began = world.now
            pipe = await world.a.node.connect(claiming(world.b.node.address, FARTHEST), **options)
            other = await world.b.node.accept()
            assert world.now - began <= LONGEST_SIGNAL + 1.0
            await exchange(pipe, other)

    virtual(main)


def test_offers_to_a_peer_that_claims_to_be_far_are_repeated_and_given_up_in_time() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            far = claiming(world.b.node.address, FARTHEST)
            await world.b.node.close()
            began = world.now
            with pytest.raises(ConnectFailed):
                await world.a.node.connect(far, **OVER_UDP)
            assert world.now - began <= Timing().attempt_timeout + 0.1
            offers = [event.sequence for event in world.a.said(SignalSent) if event.kind == "offer"]
            assert offers.count(1) == 2  # a broker may lose the first

    virtual(main)


async def cost_of(round_trip: float) -> tuple[int, float]:
    """Packets that ten offers of a stranger's have node b send, and seconds until nothing of them is left."""
    async with World("eim", "eim-eif") as world:
        mallory = Stranger(world)
        packets = world.internet.capture()
        began = world.now
        for port in range(5000, 5010):
            address = claiming(mallory.address(mallory.attachment(port=port)), round_trip)
            mallory.publish(mallory.offer(*MESSAGES, address=address, mode="stream"))
        await asyncio.sleep(0.2)
        assert len(world.b.run.sessions.ids) == 10
        while [entry for entry in world.leftovers() if getattr(entry, "host", "") != "mallory"]:
            await asyncio.sleep(0.25)
            assert world.now - began < 40.0
        mallory.close()
        sent = [to for to in sent_by(packets, "b") if str(to.ip) == mallory.ip]
        return len(sent), world.now - began


def test_a_stranger_that_claims_to_be_far_holds_nothing_for_longer_and_gets_few_more_packets() -> None:
    near, near_took = virtual(lambda: cost_of(0.04))
    far, far_took = virtual(lambda: cost_of(FARTHEST))
    assert near > 100  # the attack works
    assert far <= near * 1.5
    assert far_took <= max(near_took, Timing().responder_patience + 0.5)


def test_answers_that_are_held_back_count_as_slow_signals_at_most() -> None:
    """Each is signed, and true: only late."""

    async def main() -> None:
        async with World("eim", "eim") as world:
            session = hosted_by(world.b, 1, world.a.node.public_key)
            session.measured_delay = 9.0
            assert session.signal_delay == LONGEST_SIGNAL
            assert session.patience(1.0, 9.0) == LONGEST
            session.close()

    virtual(main)
