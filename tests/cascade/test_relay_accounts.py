"""A pair that nothing but a relay connects, and whose relay comes from a provider's account: in virtual time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from cascade_world import OVER_UDP, connected, exchange, virtual
from test_relays import RelayWorld

from warpgate.services.turn_accounts import Provider

GIVEN = {
    "ttl": 3600,
    "iceServers": {"urls": ["turn:203.0.113.5:3478"], "username": "user", "credential": "password"},
}


@pytest.mark.parametrize("delay", [0.0, 8.1], ids=["ready", "while-connecting"])
def test_the_relay_of_an_account(monkeypatch: pytest.MonkeyPatch, delay: float) -> None:
    async def ask(provider: Provider) -> bytes:
        await asyncio.sleep(delay)
        return json.dumps(GIVEN).encode()

    monkeypatch.setattr(Provider, "ask", ask)

    async def story() -> None:
        world = RelayWorld("edm", "edm", a=False, b=False)
        node = world.a.node
        node._config = replace(node._config, ice_servers=("https://provider.example/",))
        async with world:
            near, far, seconds = await connected(world, **OVER_UDP)
            assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds < 0.5
            await exchange(near, far)
            await near.close()
            await far.close()
            await world.given_back()

    virtual(story)
