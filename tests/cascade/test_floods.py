"""Floods of well-formed offers: what they are answered with is bounded, and keeps nobody out who may come in."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import OVER_UDP, World, connected, exchange, identity, virtual
from strangers_kit import Stranger, now_unix

from warpgate.config import Budgets, Config
from warpgate.core.search.equipment import TOPIC
from warpgate.core.search.rations import KEPT_FOR_KNOWN

KEYS, OFFERS = 40, 8
HOUR = 3600.0


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
            one, other, _ = await connected(world, **OVER_UDP)
            await exchange(one, other)
            await one.close()
            await other.close()
            for stranger in crowd:
                stranger.close()
            await world.quiet()

    virtual(main)
