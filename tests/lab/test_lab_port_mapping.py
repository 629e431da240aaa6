"""Port mapping against the real miniupnpd on a real Linux router: PCP, UPnP IGD 1 and 2, IPv6 pinholes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from mapping_router import EXTERNAL, INSIDE6, MappingRouter, mapping_router, shell
from needs import need_programs

from warpgate.lab.servers import find_program
from warpgate.lab.steered import SteeredNode
from warpgate.model.address import Attachment, LearntBy, NodeAddress

pytestmark = pytest.mark.lab
DEAF6 = "table ip6 deaf { chain input { type filter hook input priority -5; udp dport 5351 drop; }; }\n"
# What is asked of the group does not arrive, or what is asked of the router itself.
SSDP_DEAF = """
table ip {name} {{ chain input {{ type filter hook input priority -5; ip daddr {to} udp dport 1900 drop; }}; }}
"""
LINK_LOCAL = """
ip -6 addr add fe80::1/64 dev in0 nodad
"""
BY_LINK_LOCAL = """
ip -6 route replace default via fe80::1 dev eth0
"""
PORT = 20000
BOTH = {"tcp", "udp"}
# A new veth pair carries packets up to a second after it was made, UPnP answers within its MX second.
PATIENCE = 20.0
PROTOCOLS = {
    "PCP": {"upnp": False},
    "UPnP IGD 1": {"pcp": False, "version": 1},
    "UPnP IGD 2": {"pcp": False, "version": 2},
}


@pytest.fixture
async def router(privileges: None) -> AsyncIterator[MappingRouter]:
    need_programs("nft", "ip", "miniupnpd")
    async with mapping_router() as made:
        yield made


@asynccontextmanager
async def node(router: MappingRouter, data: Path, lease: int = 1200, **settings: Any) -> AsyncIterator[SteeredNode]:
    """A node behind the router, with no STUN server and no broker in the world."""
    async with await SteeredNode.launch(router.inside, {"WARPGATE_DATA": str(data)}) as made:
        timing = {"port_map_lease": lease}
        await made.start(**{"stun": [], "brokers": [], "port": PORT, "port_map": True, "timing": timing} | settings)
        yield made


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := await condition()):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.05)
    return found


async def announced(made: SteeredNode) -> Attachment | None:
    """The IPv4 attachment once both transports are mapped in it."""
    await made.refresh()
    attachment = next(at for at in NodeAddress.from_text(made.address).attachments if at.host.version == 4)
    learnt = {attachment.udp.learnt, attachment.tcp.learnt}
    return attachment if learnt == {LearntBy.PORT_MAP} else None


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_peer_simply_connects_and_close_deletes(router: MappingRouter, protocol: str, tmp_path: Path) -> None:
    router.configure(**PROTOCOLS[protocol])
    await router.start()
    async with node(router, tmp_path) as made, await SteeredNode.launch(router.outside) as peer:
        assert made.start_seconds < 3.0  # mapping is not waited for; a busy machine takes 2 s to start
        attachment = await until(lambda: announced(made))
        assert str(attachment.reflexive) == EXTERNAL
        mapped = [event for event in await made.trace() if event["event"] == "PortMapped"]
        assert {event["protocol"] for event in mapped if event["gateway"] == "192.168.1.1"} == {protocol}
        assert router.forwards(PORT) == BOTH

        await peer.start(stun=[], brokers=[])
        for transport, mode in (("tcp", "stream"), ("udp", "datagram")):
            done = await peer.connect(made.address, transport=transport, mode=mode)
            assert (done.ok, done.plugin, done.signals) == (True, "direct", {})
        counts = await made.refresh()
        assert not {name for name in counts if name.startswith("Signal")}
        assert list((tmp_path / "leases").iterdir())

        await made.stop()
        assert router.forwards(PORT) == set()
        assert not list((tmp_path / "leases").iterdir())


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_short_lease_is_renewed_and_back_after_the_router_restarts(
    router: MappingRouter, protocol: str, tmp_path: Path
) -> None:
    """With leases of 6 s: alive after 7 s, and after a restart back within a renewal."""
    router.configure(**PROTOCOLS[protocol])
    await router.start()
    async with node(router, tmp_path, lease=6) as made:
        await until(lambda: announced(made))
        await asyncio.sleep(7.0)
        assert router.forwards(PORT) == BOTH
        await router.restart()

        async def back() -> bool:
            return router.forwards(PORT) == BOTH

        await until(back)
        await until(lambda: announced(made))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_after_a_crash_the_next_start_leaves_nothing_behind(
    router: MappingRouter, protocol: str, tmp_path: Path
) -> None:
    """Killed with two mappings: started again on another port, the old ones are gone; on the same, taken over."""
    router.configure(**PROTOCOLS[protocol])
    await router.start()
    for port, left in ((PORT, set()), (PORT, set()), (PORT + 1, {PORT})):
        program = await listen(router, tmp_path, port)

        async def mapped(port: int = port, left: set[int] = left) -> bool:
            return router.forwards(port) == BOTH and not any(router.forwards(old) for old in left)

        await until(mapped)
        await until_remembered(tmp_path, port)
        await router.inside.stop(program, kill=True)
        assert router.forwards(port) == BOTH


async def listen(router: MappingRouter, data: Path, port: int) -> asyncio.subprocess.Process:
    environment = {
        "WARPGATE_DATA": str(data),
        "WARPGATE_BROKER": "",
        "WARPGATE_STUN": "",
        "XDG_CONFIG_HOME": str(data),
    }
    command = [sys.executable, "-m", "warpgate", "listen", "--echo", "--json", "--port", str(port)]
    return await router.inside.popen(command, env=environment, stdout=asyncio.subprocess.DEVNULL)


async def until_remembered(data: Path, port: int) -> None:
    async def remembered() -> bool:
        # The router maps before its answer can be remembered: at first there is no such folder.
        rows = [row for file in (data / "leases").glob("*.json") for row in json.loads(file.read_bytes())]
        found = [row["transport"] for row in rows if row["internal"] == f"192.168.1.2:{port}"]
        return set(found) == BOTH

    await until(remembered)


@pytest.mark.parametrize("protocol", ["PCP", "UPnP IGD 2"])
async def test_an_ipv6_pinhole(router: MappingRouter, protocol: str, tmp_path: Path) -> None:
    router.configure(**PROTOCOLS[protocol])
    # miniupnpd answers PCP over IPv6 even where PCP is switched off.
    await router.start("" if protocol == "PCP" else DEAF6)
    async with node(router, tmp_path) as made, await SteeredNode.launch(router.outside) as peer:

        async def open6() -> Attachment | None:
            await made.refresh()
            found = next(at for at in NodeAddress.from_text(made.address).attachments if str(at.host) == INSIDE6)
            learnt = {found.udp.learnt, found.tcp.learnt}
            return found if learnt == {LearntBy.PORT_MAP} else None

        attachment = await until(open6)
        assert attachment.reflexive == attachment.host
        mapped = [event for event in await made.trace() if event["event"] == "PortMapped"]
        assert {event["protocol"] for event in mapped if event["local"].startswith("[")} == {protocol}
        shell(router.outside, "ip addr del 45.0.0.8/24 dev eth0")  # nothing but IPv6
        await peer.start(stun=[], brokers=[])
        for transport, mode in (("tcp", "stream"), ("udp", "datagram")):
            done = await peer.connect(made.address, transport=transport, mode=mode)
            assert (done.ok, done.plugin, done.signals) == (True, "direct", {}), done


async def test_a_router_that_is_known_by_its_link_local_address_lets_in(router: MappingRouter, tmp_path: Path) -> None:
    """As by router advertisements. Its URLs name a global address of its own."""
    shell(router.router, LINK_LOCAL)
    shell(router.inside, BY_LINK_LOCAL)
    router.configure(**PROTOCOLS["UPnP IGD 2"])
    await router.start(DEAF6)
    async with node(router, tmp_path) as made:
        found: set[tuple[str, str]] = set()

        async def let_in() -> bool:
            """Both transports: a hole that is just being asked for at the end stays for as long as its lease."""
            mapped = [event for event in await made.trace() if event["event"] == "PortMapped"]
            found.update(
                (event["protocol"], event["transport"]) for event in mapped if event["gateway"] == "fe80::1%eth0"
            )
            return {transport for _, transport in found} == BOTH

        await until(let_in)
        assert {protocol for protocol, _ in found} == {"UPnP IGD 2"}
        hole = ip_address(INSIDE6).packed.hex()  # as nft shows it
        assert hole in router.rules()
        await made.stop()
        assert hole not in router.rules()


@pytest.mark.parametrize("lost", ["239.255.255.250", "192.168.1.1"])
async def test_one_way_of_searching_is_enough(router: MappingRouter, tmp_path: Path, lost: str) -> None:
    router.configure(**PROTOCOLS["UPnP IGD 1"])
    await router.start(SSDP_DEAF.format(name="deaf", to=lost))
    async with node(router, tmp_path) as made:
        await until(lambda: announced(made))


@pytest.mark.parametrize("settings", [{"port_map": False}, {"interfaces": ["lo"]}])
async def test_where_it_is_off_nothing_is_asked(
    router: MappingRouter, tmp_path: Path, settings: dict[str, Any]
) -> None:
    router.configure()
    await router.start()
    async with (
        node(router, tmp_path, **settings) as made,
        await SteeredNode.launch(router.outside) as peer,
    ):
        await peer.start(stun=[], brokers=[])
        done = await peer.connect(made.address, timeout=1.0)
        assert not done.ok
        assert "request received" not in router.log
        assert "HTTP REQUEST" not in router.log


async def test_a_lent_relay_behind_the_router(router: MappingRouter, tmp_path: Path) -> None:
    """`listen --relay`: the router passes its port on, over UDP and TCP, and two members outside meet there."""
    need_programs("mosquitto")
    router.configure(upnp=False)
    await router.start()
    shell(router.outside, "ip -6 addr flush dev eth0 scope global")  # so that nobody needs no mapping
    (tmp_path / "broker.conf").write_text("listener 1883 45.0.0.8\nallow_anonymous true\nuser root\n")
    broker = await router.outside.popen([find_program("mosquitto"), "-c", str(tmp_path / "broker.conf")])
    members = [await SteeredNode.launch(router.outside, {"WARPGATE_DATA": str(tmp_path / name)}) for name in "ab"]
    async with members[0] as a, members[1] as b:
        for member in (a, b):
            await member.start(stun=[], brokers=[], identity="member")
        env = {"WARPGATE_DATA": str(tmp_path / "lender"), "WARPGATE_BROKER": "", "WARPGATE_STUN": ""}
        words = ("--port", str(PORT), "--relay", "--allow", a.node_id, "--allow", b.node_id, "--json")
        command = [sys.executable, "-m", "warpgate"]
        lender = await router.inside.popen([*command, "listen", *words], env=env, stdout=asyncio.subprocess.PIPE)

        async def reached() -> dict[str, Any] | None:
            done = await router.inside.run([*command, "status", "--json"], env=env)
            told = [json.loads(line) for line in done.stdout.splitlines()]
            return next((each for each in told if each.get("relay") and each["relay"]["reachable"]), None)

        try:
            told = await until(reached)
            assert f"{EXTERNAL}:{PORT + 2}" in told["relay"]["reachable"]

            async def mapped() -> bool:
                return router.forwards(PORT) == router.forwards(PORT + 2) == BOTH

            await until(mapped)
            told = await until(reached)  # with both in its address
            known = {"stun": [], "brokers": ["mqtt://45.0.0.8"], "identity": "member"}
            for member in (a, b):
                await member.start(**known, relay_peers=[told["address"]])
            for mode in ("datagram", "stream"):
                done = await a.connect(b.address, mode=mode, plugins=["turn"])
                assert done.ok, (done.error, done.report)
                assert (done.plugin, done.relayed) == ("turn", True)
            told = await until(reached)
            assert set(told["relay"]["allocations"]) <= {a.node_id, b.node_id}
            assert told["relay"]["relayed"] > 0
        finally:
            await router.inside.stop(lender)
            await router.outside.stop(broker)

        async def gone() -> bool:
            return router.forwards(PORT) == router.forwards(PORT + 2) == set()

        await until(gone)
