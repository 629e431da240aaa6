"""A relay lets the peer in by permission, and sends nothing that could spoil what direct strategies are doing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cascade_world import OVER_UDP, connected, virtual
from test_relays import RelayWorld

from warpgate.config import Timing

PATIENT = Timing(relay_patience=15.0)


class PatientWorld(RelayWorld):
    """Relays wait for guesses."""

    def __init__(self, *kinds: str, seed: int) -> None:
        super().__init__(*kinds, seed=seed)
        for seat in (self.a, self.b):
            seat.node._config = replace(seat.node._config, timing=PATIENT)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "kinds",
    [("edm-block", "masquerade+accept"), ("masquerade+accept", "edm-seq"), ("edm", "masquerade+accept")],
)
def test_a_router_that_takes_in_strangers_packets_keeps_its_port(kinds: tuple[str, str], seed: int) -> None:
    """A datagram from the relay would claim the port, and whatever the host sends later would leave elsewhere."""

    async def story() -> None:
        async with PatientWorld(*kinds, seed=seed) as world:
            near, far, seconds = await connected(world, **OVER_UDP)
            assert near.plugin in ("random_probe", "udp_punch")
            assert not near.relayed
            assert seconds < 15.0
            await near.close()
            await far.close()
            await world.quiet()

    virtual(story)


@pytest.mark.parametrize("kind", ["public", "eim-eif", "eim-apdf"])
def test_a_link_over_the_peers_relay_is_known_to_be_one(kind: str) -> None:
    """Also where its first packet is here before the message that tells of the relay."""

    async def story() -> None:
        async with RelayWorld("udp-blocked", kind, server="turn:user:password@203.0.113.5:3478?transport=tcp") as world:
            near = await world.b.node.connect(world.a.node.address, **OVER_UDP)
            far = await world.a.node.accept()
            assert (near.relayed, far.relayed) == (True, True)
            await near.close()
            await far.close()
            await world.given_back()

    virtual(story)
