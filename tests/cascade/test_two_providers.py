"""A router with two providers (multi-WAN), which spreads what it sends over both: each has a NAT of its own."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from cascade_world import BOTH_WAYS, OVER_UDP, OpenSocket, Options, R, S, World, connected, exchange, virtual

from warpgate.lab.flow import Flow, Verdict
from warpgate.lab.kinds import kind_of
from warpgate.lab.nat import Nat, NatSpec
from warpgate.model.endpoint import Endpoint, Family, IPAddress
from warpgate_testing.internet import MemoryNetwork


class TwoProviders(Nat):
    """By the destination's address, as policies of routers have it: what one peer gets all leaves by one provider."""

    def __init__(self, spec: NatSpec, one: IPAddress, other: IPAddress, rng: random.Random) -> None:
        super().__init__(spec, (one,), rng)
        self._one, self._other = (one,), Nat(spec, (other,), rng)
        self.external = (one, other)

    def outbound(self, flow: Flow, now: float, flags: int = 0) -> Verdict:
        if flow.destination.ip.packed[-1] % 2:
            return self._other.outbound(flow, now, flags)
        return super().outbound(flow, now, flags)

    def inbound(self, flow: Flow, now: float, flags: int = 0) -> Verdict:
        if flow.destination.ip in self._other.external:
            return self._other.inbound(flow, now, flags)
        return super().inbound(flow, now, flags)

    def _assign(self, flow: Flow, now: float) -> Endpoint | None:
        both, self.external = self.external, self._one
        try:
            return super()._assign(flow, now)
        finally:
            self.external = both


class Spread(World):
    """a is behind such a router. The STUN server's first address is reached by one provider, its second and b by the
    other.
    """

    def _site(self, name: str, kind: str, number: int, v6: bool) -> MemoryNetwork:
        if name != "a":
            return super()._site(name, kind, number, v6)
        [layer] = kind_of(kind).layers
        one, other = f"198.51.100.{number}", f"203.0.120.{number}"
        router = self.routers[name] = self.internet.router(name, one, layer.nat)
        both = TwoProviders(layer.nat, ip_address(one), ip_address(other), random.Random(self.rng.random()))
        router.router.nats[Family.V4] = both
        return self.internet.host(name, f"192.168.{number}.2", behind=router)

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
