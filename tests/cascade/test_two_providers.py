"""A router with two providers (multi-WAN), which spreads what it sends over both: each has a NAT of its own. By the
destination's address, as policies of routers have it: what one peer gets all leaves by one provider.
"""

from __future__ import annotations

import pytest
from cascade_world import BOTH_WAYS, OVER_UDP, OpenSocket, Options, R, S, World, connected, exchange, virtual


class Spread(World):
    """a is behind such a router: its STUN server's first address is reached by one provider, the second and b by the
    other.
    """

    def __init__(self, ours: str, theirs: str, seed: int) -> None:
        super().__init__(f"{ours}+uplinks", theirs, seed=seed)

    def strays(self) -> list[OpenSocket]:
        return [entry for entry in super().strays() if entry.host != "a"]


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("theirs", ["eim-apdf", "eim-adf", "masquerade"])
@pytest.mark.parametrize("ours", ["eim-apdf", "masquerade"])
@pytest.mark.parametrize("seed", range(3))
def test_a_punch_goes_by_either(ours: str, theirs: str, options: Options, seed: int) -> None:
    """Where ports are kept: the peer knows both addresses."""

    async def story() -> None:
        async with Spread(ours, theirs, seed=seed) as world:
            one, other, seconds = await connected(world, **options)
            assert one.plugin == ("udp_punch" if options is OVER_UDP else "tcp_punch")
            assert seconds <= S + 2 * R + 1e-6
            await exchange(one, other)
            await one.close()
            await other.close()

    virtual(story)


@pytest.mark.parametrize("seed", range(4))
def test_where_ports_are_not_kept_they_are_searched(seed: int) -> None:
    """What is mapped by the other provider nobody has seen: as with a mapping for each address."""

    async def story() -> None:
        async with Spread("eim-apdf-random", "eim-apdf", seed=seed) as world:
            one, other, seconds = await connected(world, **OVER_UDP)
            assert not one.relayed
            assert seconds < 5.0
            await exchange(one, other)
            await one.close()
            await other.close()

    virtual(story)
