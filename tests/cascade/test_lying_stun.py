"""A STUN server that lies about how far our packets must get to open our own filters, played through a punch."""

from __future__ import annotations

import cascade_world
import pytest
from cascade_world import BOTH_WAYS, HOP, Options, World, connected, exchange, virtual

from warpgate.model.endpoint import Endpoint
from warpgate.net.network import SockAddr
from warpgate.proto.opening import TTLS
from warpgate.proto.stun import Attribute, ChangeRequest, decode
from warpgate_testing.internet import PathSpec
from warpgate_testing.servers import MemoryStun

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
