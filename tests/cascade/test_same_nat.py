"""Two nodes behind one NAT: neighbours, neighbours that are kept apart, and subscribers of one carrier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cascade_world import BOTH_WAYS, OVER_UDP, Options, R, S, connected, exchange, virtual
from test_relays import RelayWorld

from warpgate.lab.kinds import CARRIER, kind_of
from warpgate.lab.spec import NatSpec
from warpgate_testing.internet import MemoryNetwork, MemoryRouter

LAN = "192.168.1.3"  # b, where it is a's neighbour
OUTSIDE = "198.51.100.1"  # of the household, or of the carrier's NAT


class Household(RelayWorld):
    """a and b behind one home router, which may keep them apart (client isolation, a guest network)."""

    def __init__(self, kind: str, *, isolated: bool, **options: Any) -> None:
        super().__init__(kind, neighbours=True, **options)
        if isolated:
            self.internet.partition(self.hosts["a"], self.hosts["b"])


class Subscribers(RelayWorld):
    """a and b behind home routers of their own, and these behind the same NAT of a carrier's."""

    def __init__(self, *kinds: str, hairpin: bool = True, networks: tuple[int, int] = (1, 2), **options: Any) -> None:
        """`networks`: the third byte of each home's; the hosts have the same last one."""
        self._hairpin, self._networks = hairpin, networks
        self._carrier: MemoryRouter | None = None
        super().__init__(*kinds, **options)

    def _outer(self) -> tuple[tuple[str, ...], NatSpec]:
        pool = (OUTSIDE, *(f"198.51.100.{n}1" for n in (1, 2, 3)))
        return pool, replace(CARRIER, hairpin=self._hairpin)

    def _site(self, name: str, kind: str, number: int, v6: bool) -> MemoryNetwork:
        if self._carrier is None:
            self._carrier = self.internet.router("carrier", *self._outer())
        [layer] = kind_of(kind).layers
        home = self.internet.router(name, f"100.64.{number}.1", layer.nat, behind=self._carrier)
        self.routers[name] = home
        return self.internet.host(name, f"192.168.{self._networks[number - 1]}.2", behind=home)


async def met(world: RelayWorld, options: Options) -> tuple[str, str, float]:
    """Who won, where the other end is seen, and after how long; what was sent arrives."""
    one, other, waited = await connected(world, **options)
    await exchange(one, other)
    await one.close()
    await other.close()
    await world.given_back()
    await world.quiet()
    return one.plugin, str(one.remote.ip), waited


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kind", ["eim-apdf", "edm", "masquerade+hairpin"])
def test_neighbours_use_their_own_network(kind: str, options: Options) -> None:
    async def main() -> None:
        async with Household(kind, isolated=False) as world:
            before = world.routers["a"].counters().packets_out
            assert await met(world, options) == ("direct", LAN, pytest.approx(0.0))
            assert world.routers["a"].counters().packets_out - before < 60  # keepalives; no payload

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kind", ["eim-apdf+hairpin", "masquerade+hairpin"])
def test_neighbours_that_are_kept_apart_meet_at_their_routers_outside(kind: str, options: Options) -> None:
    """RFC 4787 REQ-9: the router turns back what is sent to its own outside, with the sender's outside as source."""

    async def main() -> None:
        async with Household(kind, isolated=True) as world:
            plugin, where, waited = await met(world, options)
            assert (plugin, where) == ("udp_punch" if options is OVER_UDP else "tcp_punch", OUTSIDE)
            assert waited <= R + 1e-6

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("networks", [(1, 2), (1, 1)], ids=["other numbers", "the same numbers"])
@pytest.mark.parametrize("kind", ["eim-apdf", "masquerade"])
def test_subscribers_of_one_carrier_meet_at_its_outside(kind: str, networks: tuple[int, int], options: Options) -> None:
    """Also where both homes, and both hosts, have the same numbers: what is at that number here is not the peer."""

    async def main() -> None:
        async with Subscribers(kind, kind, networks=networks) as world:
            plugin, where, waited = await met(world, options)
            assert (plugin, where) == ("udp_punch" if options is OVER_UDP else "tcp_punch", OUTSIDE)
            assert waited <= R + 1e-6

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("where", ["one home", "one carrier", "one carrier, the same numbers"])
def test_without_hairpinning_there_is_a_relay(where: str, options: Options) -> None:
    async def main() -> None:
        if where == "one home":
            world: RelayWorld = Household("eim-apdf", isolated=True)
        else:
            networks = (1, 1) if where.endswith("numbers") else (1, 2)
            world = Subscribers("eim-apdf", "eim-apdf", hairpin=False, networks=networks)
        async with world:
            plugin, _, waited = await met(world, options)
            assert plugin == "turn"
            assert waited < 2.0

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kind", ["edm-seq+hairpin", "edm-seq-2+hairpin", "edm-seq--3+hairpin"])
def test_two_behind_one_count_foretell_it_together(kind: str, options: Options) -> None:
    """Beside a relay, whose connections are counted as well."""

    async def main() -> None:
        async with Household(kind, isolated=True) as world:
            plugin, where, waited = await met(world, options)
            assert (plugin, where) == ("udp_punch" if options is OVER_UDP else "tcp_punch", OUTSIDE)
            assert waited <= 2 * S + 2 * 2 * R + 1e-6

    virtual(main)


class Counting(Subscribers):
    """The outer NAT keeps the ports that homes choose."""

    def _outer(self) -> tuple[tuple[str, ...], NatSpec]:
        return (OUTSIDE,), NatSpec(hairpin=True)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kinds", [("edm-seq", "edm-seq"), ("edm-seq-2", "edm-seq")])
def test_two_counts_behind_one_nat_meet_at_its_outside(kinds: tuple[str, str], options: Options) -> None:
    """Over TCP with two round trips more at the STUN server."""

    async def main() -> None:
        async with Counting(*kinds) as world:
            plugin, where, waited = await met(world, options)
            assert (plugin, where) == ("udp_punch" if options is OVER_UDP else "tcp_punch", OUTSIDE)
            assert waited <= 2 * S + (3 if options is OVER_UDP else 5) * R + 1e-6

    virtual(main)


@pytest.mark.parametrize(("kinds", "winner"), [(("edm", "eim-apdf"), "random_probe"), (("edm", "edm"), "turn")])
def test_random_ports_are_searched_as_between_any_two(kinds: tuple[str, str], winner: str) -> None:
    async def main() -> None:
        async with Subscribers(*kinds, a=winner == "turn", b=winner == "turn") as world:
            plugin, _, waited = await met(world, OVER_UDP)
            assert plugin == winner
            assert waited < 15.0

    virtual(main)


class Translated(RelayWorld):
    """Hosts that have the same address inside, as each with a translator of its own does (464XLAT, RFC 6877)."""

    def _site(self, name: str, kind: str, number: int, v6: bool) -> MemoryNetwork:
        [layer] = kind_of(kind).layers
        self.routers[name] = self.internet.router(name, f"198.51.100.{number}", layer.nat)
        return self.internet.host(name, "192.0.0.4", behind=self.routers[name])


@pytest.mark.parametrize("options", BOTH_WAYS)
def test_the_same_address_inside_does_not_make_neighbours(options: Options) -> None:
    async def main() -> None:
        async with Translated("eim-apdf", "eim-apdf") as world:
            plugin, where, _ = await met(world, options)
            assert (plugin, where) == ("udp_punch" if options is OVER_UDP else "tcp_punch", "198.51.100.2")

    virtual(main)


class Numbered(RelayWorld):
    """Hosts that have these addresses inside, each behind a router of its own."""

    def __init__(self, *insides: tuple[str, ...]) -> None:
        self._insides = insides
        super().__init__("eim-apdf", "eim-apdf")

    def _site(self, name: str, kind: str, number: int, v6: bool) -> MemoryNetwork:
        [layer] = kind_of(kind).layers
        self.routers[name] = self.internet.router(name, f"198.51.100.{number}", layer.nat)
        return self.internet.host(name, *self._insides[number - 1], behind=self.routers[name])


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize(
    "insides",
    [
        (("192.168.1.2", "fd00:1::2"), ("192.168.2.2", "fd00:2::2")),
        (("192.168.1.2", "fd00::2"), ("192.168.2.2", "fd00::2")),
        (("100.64.1.2",), ("100.64.2.2",)),
        (("100.64.0.2",), ("100.64.0.2",)),
        (("192.168.1.2", "100.100.1.2"), ("192.168.2.2", "100.100.2.2")),
    ],
    ids=["ULA beside IPv4", "the same ULA", "100.64", "the same 100.64", "a VPN of 100.64 that leads nowhere"],
)
def test_numbers_that_mean_nothing_outside_delay_nobody(insides: tuple[tuple[str, ...], ...], options: Options) -> None:
    """RFC 4193, RFC 6598: they are neither tried as if they did, nor taken for a neighbour's."""

    async def main() -> None:
        async with Numbered(*insides) as world:
            plugin, where, waited = await met(world, options)
            assert (plugin, where) == ("udp_punch" if options is OVER_UDP else "tcp_punch", "198.51.100.2")
            assert waited <= S + 2 * R + 1e-6

    virtual(main)
