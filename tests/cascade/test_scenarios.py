"""Every pair of sites: which strategy wins, and after how many seconds exactly.

Each cell is one scenario. Rows are the initiator's site, columns the responder's.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from cascade_world import (
    BOTH_WAYS,
    HOP,
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
from rogue_plugins import QUICK

from warpgate.errors import ConfigError, ConnectFailed
from warpgate.model.endpoint import Mode, Transport


class Expected(NamedTuple):
    """The winner on both sides, and when the initiator can use the pipe."""

    plugin: str
    seconds: float


r = HOP
CODES = {
    "dir": Expected("direct", R),
    "pun": Expected("udp_punch", S + r),
    # Behind endpoint-dependent mapping nobody knows our endpoint before a packet of ours has arrived: r more.
    "pu+": Expected("udp_punch", S + R),
    "Dir": Expected("direct", 2 * R),
    "Rev": Expected("reverse", S + 1.5 * R),
    "Pun": Expected("tcp_punch", S + 1.5 * R),  # both SYNs cross, then both HELLOs
    "Pu+": Expected("tcp_punch", S + 2 * R),  # one SYN finds the other side's listener: HELLO, WELCOME
}

UDP = """
             public firewalled eim-eif eim-adf eim-apdf masquerade edm-adf edm
public       dir    pun        dir     pun     pun      pun        pun     pun
firewalled   dir    pun        dir     pun     pun      pun        -       -
eim-eif      dir    pun        dir     pun     pun      pun        pun     pun
eim-adf      dir    pun        dir     pun     pun      pun        pun     pun
eim-apdf     dir    pun        dir     pun     pun      pun        -       -
masquerade   dir    pun        dir     pun     pun      pun        -       -
edm-adf      dir    -          dir     pu+     -        -          -       -
edm          dir    -          dir     pu+     -        -          -       -
"""
TCP = """
             public firewalled eim-eif eim-adf eim-apdf masquerade edm-adf edm  udp-blocked
public       Dir    Rev        Dir     Rev     Rev      Rev        Rev     Rev  Rev
firewalled   Dir    Pun        Dir     Pun     Pun      Pun        -       -    Pun
eim-eif      Dir    Rev        Dir     Rev     Rev      Rev        Rev     Rev  Rev
eim-adf      Dir    Pun        Dir     Pun     Pun      Pun        Pun     Pun  Pun
eim-apdf     Dir    Pun        Dir     Pun     Pun      Pun        -       -    Pun
masquerade   Dir    Pun        Dir     Pun     Pun      Pun        -       -    Pun
edm-adf      Dir    -          Dir     Pu+     -        -          -       -    -
edm          Dir    -          Dir     Pu+     -        -          -       -    -
udp-blocked  Dir    Pun        Dir     Pun     Pun      Pun        -       -    Pun
"""


def cells(table: str) -> list[tuple[str, str, str]]:
    header, *rows = table.strip().splitlines()
    names = [row.split()[0] for row in rows]
    columns = header.split()
    return [
        (name, column, code) for name, row in zip(names, rows, strict=True)
        for column, code in zip(columns, row.split()[1:], strict=True)
    ]  # fmt: skip


def pairs_with(table: str, *, reachable: bool) -> list[tuple[str, str, str]]:
    return [cell for cell in cells(table) if (cell[2] != "-") is reachable]


async def check(world: World, options: Options, expected: Expected) -> None:
    one, other, waited = await connected(world, **options)
    assert (one.plugin, other.plugin) == (expected.plugin, expected.plugin)
    assert waited == pytest.approx(expected.seconds, abs=1e-6)
    assert one.seconds == pytest.approx(waited)
    assert (one.mode, other.mode, one.relayed) == (options["mode"], options["mode"], False)
    await exchange(one, other)
    await one.close()
    await other.close()
    await world.quiet()
    # One Offer is the only signal; if it is answered at all, then not in this attempt.
    assert world.a.signals() == {"offer": 1}
    assert world.b.signals() == {}


@pytest.mark.parametrize(("kind_a", "kind_b", "code"), pairs_with(UDP, reachable=True))
def test_datagrams(kind_a: str, kind_b: str, code: str) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            await check(world, OVER_UDP, CODES[code])

    virtual(main)


@pytest.mark.parametrize(("kind_a", "kind_b", "code"), pairs_with(TCP, reachable=True))
def test_streams(kind_a: str, kind_b: str, code: str) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            await check(world, OVER_TCP, CODES[code])

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kind_b", ["firewalled", "eim-apdf", "edm"])
def test_where_only_guessing_or_a_relay_would_help_the_failure_explains_itself(kind_b: str, options: Options) -> None:
    async def main() -> None:
        async with World("edm", kind_b) as world:
            with pytest.raises(ConnectFailed, match="no strategy reached") as failed:
                await world.a.node.connect(world.b.node.address, plugins=QUICK, **options)
            assert world.now < 8.2 + 20.0 + 0.1
            rows = {row.plugin: row for row in failed.value.report}
            assert {*QUICK, "signals"} == set(rows)
            assert all(row.reason for name, row in rows.items() if name != "signals")
            await world.quiet()
            await world.a.node.close()
            await world.b.node.close()

    virtual(main)


@pytest.mark.parametrize("kind", ["eim-apdf", "eim-adf", "masquerade", "firewalled"])
@pytest.mark.parametrize("options", BOTH_WAYS)
def test_one_strategy_by_name(kind: str, options: Options) -> None:
    plugin = "udp_punch" if options is OVER_UDP else "tcp_punch"

    async def main() -> None:
        async with World("public", kind) as world:
            one, other, _ = await connected(world, **options, plugins=[plugin])
            assert (one.plugin, other.plugin) == (plugin, plugin)
            assert [row.plugin for row in one.report if row.plugin != "signals"] == [plugin]
            await exchange(one, other)

    virtual(main)


@pytest.mark.parametrize(("options", "code"), [(OVER_UDP, "pun"), (OVER_TCP, "Pun")])
def test_ipv6_passes_where_the_ipv4_routers_do_not(options: Options, code: str) -> None:
    """Both ends have endpoint-dependent IPv4 NATs, and stateful IPv6 firewalls."""

    async def main() -> None:
        async with World("edm", "edm", v6=True) as world:
            one, other, waited = await connected(world, **options)
            assert (one.plugin, one.remote.family) == (CODES[code].plugin, 6)
            # The interface of the STUN server is IPv4 alone: the mapping is not known to be stable, so it is asked.
            assert waited <= CODES[code].seconds + R + 1e-6
            await exchange(one, other)

    virtual(main)


@pytest.mark.parametrize("kind", ["eim-apdf", "edm", "masquerade"])
@pytest.mark.parametrize("options", BOTH_WAYS)
def test_neighbours_connect_without_leaving_their_network(kind: str, options: Options) -> None:
    async def main() -> None:
        async with World(kind, neighbours=True) as world:
            one, other, waited = await connected(world, **options)
            assert one.plugin == "direct"
            assert str(one.remote.ip) == "192.168.1.3"
            assert waited == pytest.approx(0.0)
            await exchange(one, other)

    virtual(main)


def test_settings_that_exclude_each_other_are_refused_before_anything_is_sent() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            packets = world.internet.capture()
            for options in ({"mode": Mode.DATAGRAM, "transport": Transport.TCP}, {"plugins": ["no such"]}):
                with pytest.raises(ConfigError):
                    await world.a.node.connect(world.b.node.address, **options)
            with pytest.raises(ConfigError, match="own address"):
                await world.a.node.connect(world.a.node.address)
            assert world.leftovers() == []
            assert packets == []

    virtual(main)


@pytest.mark.parametrize("kinds", [("cgn", "eim-apdf"), ("eim-apdf", "cgn"), ("cgn", "cgn")])
def test_behind_two_nats_a_punch_takes_no_longer(kinds: tuple[str, str]) -> None:
    """What goes ahead opens the carrier's NAT as well, as far as was measured, and dies behind it."""

    async def story() -> None:
        async with World(*kinds) as world:
            one, other, seconds = await connected(world, **OVER_UDP)
            assert (one.plugin, seconds) == ("udp_punch", pytest.approx(S + HOP))
            ttls = {"cgn": 3, "eim-apdf": 2}
            for seat, kind in zip((world.a, world.b), kinds, strict=True):
                host = seat.node.address.attachments[0].host
                assert seat.run.equipment.discovery.opening_ttl(host) == ttls[kind]
            await exchange(one, other)

    virtual(story)
