"""A STUN server that lies about how far our packets must get to open our own filters, played through a punch."""

from __future__ import annotations

import cascade_world
import pytest
from cascade_world import BOTH_WAYS, HOP, OVER_TCP, OVER_UDP, STUN, Options, R, World, connected, exchange, virtual

from warpgate.config import Config, Timing
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import SockAddr
from warpgate.proto.opening import TTLS
from warpgate.proto.stun import Attribute, ChangeRequest, decode
from warpgate_testing.internet import PathSpec
from warpgate_testing.servers import MemoryStun, SlowStun

BOTH = ChangeRequest.IP | ChangeRequest.PORT


class Liar(MemoryStun):
    """Answers from its second address as if so many of the TTLs had opened nothing."""

    in_vain = 0

    def _datagram(self, at: Endpoint, data: bytes, source: SockAddr) -> None:
        request = decode(data)
        if request.get(Attribute.CHANGE_REQUEST) == BOTH:
            tried = self.__dict__.setdefault("tried", {}).setdefault(source[:2], [])
            if request.transaction_id not in tried:
                tried.append(request.transaction_id)
            if len(tried) <= self.in_vain:
                return
        super()._datagram(at, data, source)


@pytest.mark.parametrize("in_vain", [0, 2, 3])
@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize(
    "kinds",
    [("eim-apdf", "eim-apdf+rst"), ("masquerade+accept", "masquerade+accept")],
    ids="-".join,
)
def test_a_punch_gets_through_whatever_ttl_is_told(
    kinds: tuple[str, str], options: Options, in_vain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Liar, "in_vain", in_vain)
    monkeypatch.setattr(cascade_world, "MemoryStun", Liar)

    async def main() -> None:
        async with World(*kinds) as world:
            # Neighbours of one carrier: what gets further than it has to reaches the peer's router.
            world.internet.set_path(world.routers["a"], world.routers["b"], PathSpec(delay=HOP, hops=1))
            world.internet.set_path(world.routers["b"], world.routers["a"], PathSpec(delay=HOP, hops=1))
            told = world.a.run.discovery.opening_ttl(world.a.node.address.attachments[0].host)
            assert told == (*TTLS, None)[in_vain]
            one, other, _ = await connected(world, **options)
            await exchange(one, other)
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


SLOW, SLOW_2, ANOTHER = "203.0.113.11:3478", "203.0.113.12:3479", "203.0.113.21:3478"


class SlowWorld(World):
    """Both nodes ask these servers, of which the one is honest, as is another, and one slow."""

    def __init__(self, *kinds: str, stun: tuple[str, ...], settle: float) -> None:
        known = Config(stun=stun)
        super().__init__(*kinds, config_a=known, config_b=known, settle=settle)
        self._more = [
            SlowStun(self.internet.host("slow", "203.0.113.11", "203.0.113.12"), *map(Endpoint.parse, (SLOW, SLOW_2))),
            MemoryStun(self.internet.host("another", "203.0.113.21"), Endpoint.parse(ANOTHER)),
        ]

    async def close(self) -> None:
        await super().close()
        for stun in self._more:
            await stun.close()


def times(kinds: tuple[str, str], stun: tuple[str, ...], options: Options, settle: float) -> tuple[float, float]:
    """Of a node's start, and of a connect `settle` seconds later."""

    async def main() -> tuple[float, float]:
        async with SlowWorld(*kinds, stun=stun, settle=settle) as world:
            started = world.now - settle
            one, other, seconds = await connected(world, **options)
            await one.close()
            await other.close()
            return started, seconds

    return virtual(main)


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        (("eim-apdf", "eim-apdf"), OVER_UDP),
        (("edm-seq", "eim-apdf"), OVER_UDP),
        (("edm-seq", "eim-apdf"), OVER_TCP),
        (("eim-apdf", "edm-seq"), OVER_TCP),
    ],
)
@pytest.mark.parametrize("settle", [0.0, 4.0])
@pytest.mark.parametrize("slow", [(SLOW, STUN, ANOTHER), (STUN, ANOTHER, SLOW), (SLOW, STUN)])
def test_a_server_that_is_slow_on_purpose_costs_nothing_beside_an_honest_one(
    kinds: tuple[str, str], options: Options, settle: float, slow: tuple[str, ...]
) -> None:
    """It answers just before it is given up. Where a port is foretold over TCP, the others are asked anew."""
    honest = times(kinds, tuple(each for each in slow if each != SLOW), options, settle)
    started, seconds = times(kinds, slow, options, settle)
    assert started == pytest.approx(honest[0])
    assert seconds <= honest[1] + 4 * R + 1e-6


def test_the_most_that_a_slow_server_costs_who_asks_no_other() -> None:
    started, seconds = times(("eim-apdf", "eim-apdf"), (SLOW,), OVER_UDP, 0.0)
    assert started == pytest.approx(Timing().start_patience)
    assert seconds < SlowStun.pause
    assert times(("eim-apdf", "eim-apdf"), (SLOW,), OVER_UDP, 4.0)[1] < 2 * R
