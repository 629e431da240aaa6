"""IPv6 end to end, hosts of one family alone, and what brings IPv4 and IPv6 together: relays and NAT64."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from needs import need_programs

from sites import GENEROUS, Pair, R, S
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab
from warpgate.model.address import NodeAddress
from warpgate.model.translation import WELL_KNOWN_NAME

pytestmark = pytest.mark.lab

DATAGRAM, STREAM = ("datagram", "udp"), ("stream", "tcp")
NAMES = ("broker.lab", "relay.lab")


@dataclass(frozen=True, slots=True)
class Home:
    """Where a node is: the kind of its router, and its families."""

    kind: str
    families: str

    @property
    def addresses(self) -> dict[str, int]:
        return {"ipv4": int("4" in self.families), "ipv6": int("6" in self.families)}


@asynccontextmanager
async def between(
    lab: Lab, home_a: Home, home_b: Home, *, servers: str = "46", named: bool = True, turn: bool = False
) -> AsyncIterator[Pair]:
    """Two nodes, and one host with a broker and a STUN and TURN server in the families of `servers`, known by name or
    by its first address.
    """
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2 * ("4" in servers), ipv6=2 * ("6" in servers))
    hosts = [lab.add_host(name, home.kind, **home.addresses) for name, home in (("a", home_a), ("b", home_b))]
    for name in NAMES:
        lab.add_name(name, *{ip.version: ip for ip in reversed(server.addresses)}.values())
    broker, relay = await start_mosquitto(server), await start_coturn(server)
    at = "relay.lab:3478" if named else str(relay.endpoint)
    settings = {"brokers": ["mqtt://broker.lab" if named else broker.mqtt_url], "stun": [at]}
    if turn:
        settings["turn"] = [f"turn:user:password@{at}"]
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(await SteeredNode.launch(host)) for host in hosts]
        yield Pair(a, b, (broker,), settings)


async def remote_of(node: SteeredNode) -> str:
    """Where its last pipe led."""
    opened = [entry for entry in await node.trace() if entry["event"] == "PipeOpened"]
    return str(opened[-1]["remote"])


def direct(found: Connected) -> bool:
    return found.ok and not found.relayed


@pytest.mark.parametrize(
    ("home_a", "home_b"),
    [
        (Home("firewalled", "6"), Home("firewalled", "6")),
        (Home("firewalled", "6"), Home("eim-apdf", "46")),
        (Home("edm", "46"), Home("edm", "46")),
    ],
    ids=str,
)
@pytest.mark.parametrize(("mode", "transport"), [DATAGRAM, STREAM], ids=["udp", "tcp"])
async def test_firewalls_are_punched_by_either_transport(
    lab: Lab, home_a: Home, home_b: Home, mode: str, transport: str
) -> None:
    """Where IPv4 is missing on a side, or is two NATs that cannot be foretold, IPv6 connects."""
    async with between(lab, home_a, home_b) as nodes:
        found = await nodes.connect(mode, transport)
        assert direct(found), found
        assert found.plugin == ("udp_punch" if transport == "udp" else "tcp_punch")
        assert (await remote_of(nodes.a)).startswith("[2001:db8:")
        assert found.seconds < 3 * (S + R) * GENEROUS, found.report


async def test_ipv6_comes_first_where_both_families_are_open(lab: Lab) -> None:
    async with between(lab, Home("public", "46"), Home("public", "46")) as nodes:
        found = await nodes.connect(*DATAGRAM)
        assert (found.ok, found.plugin) == (True, "direct")
        assert (await remote_of(nodes.a)).startswith("[2001:db8:")


@pytest.mark.alone
async def test_ipv4_takes_over_where_ipv6_leads_nowhere(lab: Lab) -> None:
    """The usual half-broken home: an IPv6 address, and nothing beyond the router."""
    async with between(lab, Home("eim-apdf", "46"), Home("eim-apdf", "46")) as nodes:
        for node in (nodes.a, nodes.b):
            lab.internet.withdraw(node.host.ipv6)
        found = await nodes.connect_within(2 * (S + R), *DATAGRAM)
        assert direct(found), found
        assert not (await remote_of(nodes.a)).startswith("[")


@pytest.mark.parametrize(("mode", "transport"), [DATAGRAM, STREAM], ids=["udp", "tcp"])
async def test_a_relay_joins_ipv4_and_ipv6(lab: Lab, mode: str, transport: str) -> None:
    """RFC 8656 section 7.2: REQUESTED-ADDRESS-FAMILY asks for a relayed address that the peer can use."""
    async with between(lab, Home("eim-apdf", "4"), Home("eim-apdf", "6"), turn=True) as nodes:
        found = await nodes.connect(mode, transport)
        assert (found.ok, found.relayed, found.plugin) == (True, True, "turn"), found
        assert found.seconds < 0.5 * GENEROUS, found.report  # a direct path is ruled out: nothing to wait for


@pytest.mark.parametrize("kind", ["public", "eim-apdf"])
@pytest.mark.parametrize(("mode", "transport"), [DATAGRAM, STREAM], ids=["udp", "tcp"])
async def test_a_nat64_is_punched_like_any_nat(lab: Lab, kind: str, mode: str, transport: str) -> None:
    """IPv6 alone on one side, IPv4 alone on the other, servers given as IPv4 literals: found by RFC 7050, both ways."""
    async with between(lab, Home("nat64", "6"), Home(kind, "4"), servers="4", named=False) as nodes:
        found = await nodes.connect(mode, transport)
        assert direct(found), found
        back = await nodes.b.connect((await address(nodes.a)), mode=mode, transport=transport)
        assert direct(back), back
        hosts = {str(at.host) for at in NodeAddress.from_text(nodes.a.address).attachments}
        assert "192.0.0.1" in hosts
        assert found.seconds < 3 * (S + R) * GENEROUS, found.report


async def address(node: SteeredNode) -> str:
    await node.refresh()
    return node.address


async def test_two_nodes_behind_nat64s(lab: Lab) -> None:
    """Their IPv6 firewalls would do; without a STUN server of that family they meet on the IPv4 side."""
    async with between(lab, Home("nat64", "6"), Home("nat64", "6"), servers="4", named=False) as nodes:
        for mode, transport in (DATAGRAM, STREAM):
            found = await nodes.connect(mode, transport)
            assert direct(found), found


@pytest.mark.alone  # what the resolver says of NAT64 is waited for for half a second
@pytest.mark.parametrize("also", [True, False], ids=["", "not for ipv4only.arpa"])
async def test_servers_by_names_that_a_dns64_answers_for(lab: Lab, also: bool) -> None:
    """The address that it makes up is told apart from a real one: STUN must not take it for IPv6."""
    async with between(lab, Home("nat64", "6"), Home("eim-apdf", "4"), servers="4") as nodes:
        if not also:
            nodes.a.host.know(WELL_KNOWN_NAME, [])
        found = await nodes.connect(*DATAGRAM)
        assert direct(found), found
        assert not [entry for entry in await nodes.a.trace() if entry["event"] == "ServerFailed"]
