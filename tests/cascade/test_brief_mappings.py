"""NATs that forget a mapping after a few seconds of silence: sooner than usual keepalives, and consent, ask."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cascade_world import OVER_UDP, World, connected, exchange, virtual

from warpgate.lab import kinds
from warpgate.lab.kinds import Layer
from warpgate.lab.spec import Lifetimes

LEARNT = 90.0  # seconds: three keepalives, each pause half as long as the one before


@pytest.mark.parametrize("lifetime", [5.0, 10.0, 15.0])
@pytest.mark.parametrize("theirs", ["forgetful", "eim-apdf"])
def test_an_idle_pipe_lives(theirs: str, lifetime: float, monkeypatch: pytest.MonkeyPatch) -> None:
    [layer] = kinds.kind_of("eim-apdf-random").layers
    brief = Lifetimes(udp_unreplied=lifetime, udp_replied=lifetime)
    forgetful = (Layer(replace(layer.nat, lifetimes=brief), layer.firewall),)
    monkeypatch.setitem(kinds.KINDS, "forgetful", forgetful)  # type: ignore[arg-type]

    async def story() -> None:
        async with World("forgetful", theirs, settle=LEARNT) as world:
            one, other, _ = await connected(world, **OVER_UDP)
            for _ in range(3):
                await asyncio.sleep(100.0)
                await exchange(one, other)
            await one.close()
            await other.close()

    virtual(story)
