"""The program through NATs: each strategy where it belongs, hostile routers, double NAT, IPv6, a dying broker.

`bench/` asks the same of every pair, many times, and measures.
"""

from __future__ import annotations

import asyncio

import pytest

from sites import GENEROUS, Pair, R, S, pair
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab
PUNCHES = (("datagram", "udp", "udp_punch"), ("stream", "tcp", "tcp_punch"))


@pytest.mark.parametrize(
    ("plugin", "kind_a", "kind_b", "mode", "transport", "limit"),
    [
        ("direct", "eim-apdf", "public", "datagram", "udp", R),
        ("direct", "edm", "public", "stream", "tcp", 2 * R),
        ("reverse", "public", "edm", "stream", "tcp", S + 1.5 * R),
        ("udp_punch", "eim-apdf", "eim-apdf", "datagram", "udp", S + R / 2),
        ("tcp_punch", "eim-apdf", "eim-apdf", "stream", "tcp", S + 2 * R),
    ],
)
async def test_a_strategy_needs_one_offer_at_most_and_no_answer(
    lab: Lab, plugin: str, kind_a: str, kind_b: str, mode: str, transport: str, limit: float
) -> None:
    """The limit is what counting messages gives, times GENEROUS; an answer would be a quarter of a second late."""
    async with pair(lab, kind_a, kind_b) as nodes:
        found = await nodes.connect_within(limit, mode, transport, plugin)
    assert (found.plugin, found.mode, found.transport, found.relayed) == (plugin, mode, transport, False)
    assert found.signals == ({} if plugin == "direct" else {"SignalSent offer": 1})


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "mode", "plugin"),
    [
        ("eim-apdf", "public", "datagram", "direct"),
        ("eim-apdf", "eim-apdf", "datagram", "udp_punch"),
    ],
)
async def test_the_cascade_finds_the_strategy_by_itself(
    lab: Lab, kind_a: str, kind_b: str, mode: str, plugin: str
) -> None:
    async with pair(lab, kind_a, kind_b) as nodes:
        assert (await nodes.connect_within(S + R, mode)).plugin == plugin


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["eim-apdf+rst", "masquerade+accept"])
async def test_routers_that_answer_strangers(lab: Lab, kind: str) -> None:
    """With RST and ICMP errors; or by accepting them, which lets an early packet of the peer take our port away."""
    async with pair(lab, kind, kind) as nodes:
        await punches_both_ways(nodes)


@pytest.mark.parametrize(("kind_a", "kind_b"), [("edm", "eim-adf"), ("eim-adf", "edm")])
async def test_endpoint_dependent_mapping_against_an_address_dependent_filter(
    lab: Lab, kind_a: str, kind_b: str
) -> None:
    """The peer's port cannot be known, and need not be: the filter looks at addresses alone."""
    async with pair(lab, kind_a, kind_b) as nodes:
        await punches_both_ways(nodes)


@pytest.mark.parametrize("kind_a", ["eim-apdf+cgn", ("eim-apdf", "eim-adf")], ids=str)
async def test_double_nat(lab: Lab, kind_a: str | tuple[str, str]) -> None:
    async with pair(lab, kind_a, "eim-apdf") as nodes:
        await punches_both_ways(nodes)


@pytest.mark.parametrize(("kind", "families"), [("firewalled", "6"), ("edm", "46")])
async def test_ipv6_behind_firewalls(lab: Lab, kind: str, families: str) -> None:
    """IPv6 alone; and where two unpredictable IPv4 NATs leave nothing else."""
    async with pair(lab, kind, kind, families=families) as nodes:
        await punches_both_ways(nodes)
        remotes = [entry["remote"] for entry in await nodes.a.trace() if entry["event"] == "PipeOpened"]
    assert len(remotes) == len(PUNCHES)
    assert all(remote.startswith("[2001:db8:") for remote in remotes), remotes


async def test_a_broker_dies_in_mid_attempt(lab: Lab) -> None:
    """Both nodes use both brokers, and the first one dies while the offer is on its way."""
    async with pair(lab, "eim-apdf", "eim-apdf", brokers=2) as nodes:
        await nodes.fresh()
        connecting = asyncio.create_task(nodes.a.connect(nodes.b.address, mode="datagram"))
        await asyncio.sleep(0.01)
        await nodes.brokers[0].kill()
        found = await connecting
    assert found.ok, found.report
    assert found.plugin == "udp_punch"


async def punches_both_ways(nodes: Pair) -> None:
    """Datagrams, then a stream, before a volley has to be repeated from fresh ports, which happens after 1.5 s."""
    for mode, transport, plugin in PUNCHES:
        found = await nodes.connect(mode, transport, plugin)
        assert found.ok, (mode, found.error or "no echo", *found.report)
        assert (found.plugin, found.transport, found.relayed) == (plugin, transport, False)
        assert found.seconds < 0.75 * GENEROUS, found.report


@pytest.mark.parametrize(
    ("ours", "theirs", "mode", "transport"),
    [
        ("eim-apdf+uplinks", "eim-apdf", "datagram", "udp"),
        ("eim-apdf+uplinks", "eim-apdf", "stream", "tcp"),
        ("masquerade+uplinks", "masquerade+uplinks", "datagram", "udp"),
        ("masquerade+uplinks", "masquerade", "stream", "tcp"),
        ("eim-apdf-random+uplinks", "eim-apdf", "datagram", "udp"),
    ],
)
async def test_routers_with_two_providers(lab: Lab, ours: str, theirs: str, mode: str, transport: str) -> None:
    """Both ways; where ports are not kept, the one that the peer's way has is searched for."""
    async with pair(lab, ours, theirs) as nodes:
        found = await nodes.connect(mode, transport)
        assert found.ok, (found.error, *found.report)
        back = await nodes.b.connect(nodes.a.address, mode=mode, transport=transport)
        assert back.ok, (back.error, *back.report)
