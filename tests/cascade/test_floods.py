"""Floods of well-formed offers: what they are answered with is bounded, and keeps nobody out who may come in."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import OVER_UDP, World, connected, exchange, identity, virtual
from strangers_kit import Stranger, now_unix

from warpgate.config import Budgets, Config
from warpgate.core.search.equipment import TOPIC
from warpgate.core.search.rations import KEPT_FOR_KNOWN
from warpgate.core.search.reader import HELD
from warpgate.model.wanted import Wanted
from warpgate.proto.instances import ANSWER_LIFE, PATIENCE

KEYS, OFFERS = 40, 8
HOUR = 3600.0


async def others_come_in(world: World, crowd: list[Stranger]) -> None:
    one, other, _ = await connected(world, **OVER_UDP)
    await exchange(one, other)
    await one.close()
    await other.close()
    for stranger in crowd:
        stranger.close()
    await world.quiet()


@pytest.mark.parametrize("what", ["not allowed", "a wrong clock"])
def test_answers_to_strangers_are_rationed(what: str) -> None:
    """An answer is signed, sealed and published, so it costs more than the offer did."""

    async def main() -> None:
        allowed = frozenset({identity("a").node_id}) if what == "not allowed" else None
        async with World(kind_b="eim-apdf", config_b=Config(allow=allowed)) as world:
            crowd = [Stranger(world, f"mallory{n}", f"198.51.100.{100 + n}") for n in range(KEYS)]
            theirs = {TOPIC + one.identity.node_id for one in crowd}
            began = world.now
            for _ in range(OFFERS):
                for one in crowd:
                    sent = now_unix() - (HOUR if what == "a wrong clock" else 0.0)
                    one.publish(one.offer(("no_such_plugin", 1), sent=sent))
                    await asyncio.sleep(0.006)  # below the rate of the gate
            await asyncio.sleep(1.0)
            answers = [data for topic, data in world.brokers[0].log if topic in theirs]
            budgets = Budgets()
            most = budgets.offers_at_once + budgets.offers_per_second * (world.now - began)
            assert budgets.offers_at_once * (1 - KEPT_FOR_KNOWN) <= len(answers) <= most
            assert len(answers) < KEYS * OFFERS / 2
            await others_come_in(world, crowd)

    virtual(main)


def test_offers_for_a_process_nobody_knows_do_not_pile_up() -> None:
    """Each waits until the others of this key could have said whose it is."""

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            crowd = [Stranger(world, f"mallory{n}", f"198.51.100.{100 + n}") for n in range(4)]
            await asyncio.sleep(ANSWER_LIFE)  # what it has heard at its start is old by then
            for stranger in crowd:
                for _ in range(HELD):
                    stranger.publish(stranger.offer(("no_such_plugin", 1), wanted=Wanted(b"????")))
            await asyncio.sleep(PATIENCE / 2)
            waiting = [task for task in asyncio.all_tasks() if task.get_name() == "an offer for another process"]
            assert len(waiting) == HELD
            await others_come_in(world, crowd)

    virtual(main)
