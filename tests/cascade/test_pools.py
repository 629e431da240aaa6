"""NATs that give a mapping any of several addresses, not all of which are known when a punch begins."""

from __future__ import annotations

import pytest
from cascade_world import (
    BOTH_WAYS,
    FINGERPRINTED,
    OVER_TCP,
    OVER_UDP,
    Options,
    R,
    S,
    World,
    connected,
    exchange,
    virtual,
)

from warpgate.events import SignalRefused


async def crossed(kinds: tuple[str, str], seed: int, options: Options, settle: float) -> float:
    async with World(*kinds, seed=seed, settle=settle) as world:
        one, other, waited = await connected(world, **options)
        await exchange(one, other)
        assert one.plugin == ("udp_punch" if options is OVER_UDP else "tcp_punch")
        refused = [event.reason for event in world.a.said(SignalRefused) + world.b.said(SignalRefused)]
        assert "not one of the peer's own" not in " ".join(refused)
        await one.close()
        await other.close()
        await world.quiet()
        return waited


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("seed", [0, 4, 7, 13])
@pytest.mark.parametrize("kinds", [("edm-pool", "eim-adf"), ("eim-adf", "edm-pool")], ids="-".join)
def test_a_punch_finds_the_addresses_that_were_not_known_when_it_began(
    kinds: tuple[str, str], seed: int, options: Options
) -> None:
    """In each of these runs the first volley leaves from an address that no server has seen. Later ones name more, and
    go to all that are known.
    """
    assert virtual(lambda: crossed(kinds, seed, options, settle=0.0)) < 4.0


@pytest.mark.parametrize("seed", [56, 159, 166])
def test_all_addresses_of_four_are_seen(seed: int) -> None:
    """In each of these runs none of the first 16 samples, nor what servers see of the node's own socket, has one of
    them.
    """

    async def main() -> None:
        async with World("edm-pool", "eim-adf", seed=seed) as world:
            (at,) = world.a.node.address.attachments
            assert len({at.reflexive, *at.pool}) == 4

    virtual(main)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kinds", [("eim-pool", "eim-pool"), ("eim-pool", "eim-adf"), ("eim-apdf", "eim-pool")])
def test_fresh_ports_may_be_at_another_address_than_the_listening_one(kinds: tuple[str, str], seed: int) -> None:
    """RFC 4787 section 4.1: with endpoint-independent mapping, too, each port has whichever address it was given.

    Where the TCP port has another one than the UDP port, its owner's address cannot name it. No volley goes there in
    vain: fresh ports are asked for at once, over two signals, a TCP handshake and a question to a STUN server each.
    """
    assert virtual(lambda: crossed(kinds, seed, OVER_TCP, FINGERPRINTED)) <= 2 * S + 2 * 2 * R + 2 * R + 1e-6
