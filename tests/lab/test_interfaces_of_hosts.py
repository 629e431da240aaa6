"""Nodes with two uplinks, and uplinks that come and go under a running node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from needs import need_programs

from warpgate.lab.host import Attached, Host
from warpgate.lab.line import Quality
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import SteeredNode
from warpgate.lab.topology import Lab
from warpgate.model.address import NodeAddress

pytestmark = pytest.mark.lab

CUT = Quality(loss=1.0)
NOTICED = 5.0  # seconds; the debounce is 0.25
DATAGRAM, STREAM = ("datagram", "udp"), ("stream", "tcp")
MODES = [pytest.param(*DATAGRAM, id="udp"), pytest.param(*STREAM, id="tcp")]


@dataclass(frozen=True, slots=True)
class Rig:
    """`a` has two uplinks, `b` one."""

    lab: Lab
    a: SteeredNode
    b: SteeredNode
    first: Attached
    second: Attached
    settings: dict[str, list[str]]

    async def start(self) -> None:
        await asyncio.gather(*(node.start(**self.settings) for node in (self.a, self.b)))


@asynccontextmanager
async def rig(lab: Lab, first: str, second: str, other: str, *, source_routed: bool = True) -> AsyncIterator[Rig]:
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2)
    host, peer = lab.add_host("a", first), lab.add_host("b", other)
    uplink = lab.add_uplink(host, second, source_routed=source_routed)
    broker, stun = await start_mosquitto(server), await start_coturn(server)
    settings = {"brokers": [broker.mqtt_url], "stun": [str(stun.endpoint)]}
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(await SteeredNode.launch(each)) for each in (host, peer)]
        yield Rig(lab, a, b, host.attached[0], uplink, settings)


def cut(attached: Attached) -> None:
    """The cable lies dead; the interface and its address stay."""
    attached.access.up.quality = attached.access.down.quality = CUT


async def hosts_of(node: SteeredNode) -> dict[str, str]:
    """Its address: local address and what the outside sees, of each attachment."""
    await node.refresh()
    attachments = NodeAddress.from_text(node.address).attachments
    return {str(at.host): str(at.reflexive) for at in attachments}


async def until(what: Callable[[], Awaitable[bool]], patience: float = NOTICED) -> None:
    async with asyncio.timeout(patience):
        while not await what():  # noqa: ASYNC110 - what a process says of itself
            await asyncio.sleep(0.05)


def outside_of(attached: Attached) -> set[str]:
    """What an uplink can look like from outside."""
    nat = attached.routers[-1].nat
    assert nat is not None
    return set(map(str, nat.external))


def ip_of(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]


async def test_both_uplinks_are_offered_as_the_outside_sees_them(lab: Lab) -> None:
    """Without rules of the system's it takes the node itself to keep packets on the interface of their address."""
    async with rig(lab, "eim-apdf", "cgn", "public", source_routed=False) as nodes:
        await nodes.start()
        expected = {str(each.addresses[0]): outside_of(each) for each in (nodes.first, nodes.second)}

        async def measured() -> bool:
            found = await hosts_of(nodes.a)
            return found.keys() == expected.keys() and all(found[host] in outside for host, outside in expected.items())

        await until(measured)


@pytest.mark.parametrize(
    ("mode", "transport", "a_begins"),
    [pytest.param(*DATAGRAM, True, id="it calls"), pytest.param(*STREAM, False, id="it is called")],
)
async def test_a_second_uplink_helps_where_the_first_blocks_udp(
    lab: Lab, mode: str, transport: str, a_begins: bool
) -> None:
    """A home router without UDP and a phone; the system itself would use the router for everything."""
    async with rig(lab, "udp-blocked", "cgn", "eim-apdf", source_routed=False) as nodes:
        await nodes.start()
        caller, called = (nodes.a, nodes.b) if a_begins else (nodes.b, nodes.a)
        await called.refresh()
        found = await caller.connect(called.address, mode=mode, transport=transport)
        assert (found.ok, found.relayed) == (True, False), found
        if mode == "datagram" and a_begins:
            assert ip_of(found.local) == str(nodes.second.addresses[0])


@pytest.mark.parametrize(("mode", "transport"), MODES)
async def test_the_first_uplink_is_dead_from_the_start(lab: Lab, mode: str, transport: str) -> None:
    """The system goes on choosing it, also for the broker: signals find the other one."""
    async with rig(lab, "eim-apdf", "cgn", "eim-apdf", source_routed=False) as nodes:
        cut(nodes.first)
        await nodes.start()
        found = await nodes.a.connect(nodes.b.address, mode=mode, transport=transport)
        assert (found.ok, found.relayed) == (True, False), found
        assert ip_of(found.local) == str(nodes.second.addresses[0])


@pytest.mark.parametrize(("mode", "transport"), MODES)
async def test_a_relay_is_reached_by_the_uplink_that_works(lab: Lab, mode: str, transport: str) -> None:
    async with rig(lab, "edm", "edm", "edm", source_routed=False) as nodes:
        nodes.settings["turn"] = [f"turn:user:password@{nodes.settings['stun'][0]}"]
        cut(nodes.first)
        await nodes.start()
        found = await nodes.a.connect(nodes.b.address, mode=mode, transport=transport)
        assert (found.ok, found.relayed) == (True, True), found


async def test_the_first_uplink_dies_unnoticed_under_the_broker_link(lab: Lab) -> None:
    """No interface changes: the link is given up when the broker has acknowledged nothing for 3 s."""
    async with rig(lab, "eim-apdf", "cgn", "eim-apdf", source_routed=False) as nodes:
        await nodes.start()
        cut(nodes.first)
        found = await nodes.a.connect(nodes.b.address, mode="datagram", timeout=20.0)
        assert found.ok, found
        assert ip_of(found.local) == str(nodes.second.addresses[0])
        assert found.seconds < 10.0, found.report


@pytest.mark.parametrize(("mode", "transport"), [*MODES, pytest.param("stream", "udp", id="quic")])
async def test_an_uplink_goes(lab: Lab, mode: str, transport: str) -> None:
    """The pipe on it ends at once, the one on the other goes on, and a new one takes the other."""
    async with rig(lab, "eim-apdf", "cgn", "public") as nodes:
        await nodes.start()
        first, second = (str(each.addresses[0]) for each in (nodes.first, nodes.second))
        host: Host = nodes.a.host
        kept = [await nodes.a.connect(nodes.b.address, mode=mode, transport=transport, keep=True)]
        used = ip_of(kept[0].local)
        going, staying = (nodes.first, second) if used == first else (nodes.second, first)
        nodes.lab.remove_uplink(host, going)

        async def announced() -> bool:
            return (await hosts_of(nodes.a)).keys() == {staying}

        assert "went away" in await nodes.a.ended(0, NOTICED)
        await until(announced)
        found = await nodes.a.connect(nodes.b.address, mode=mode, transport=transport, keep=True)
        assert found.ok, found
        assert ip_of(found.local) == staying
        added = nodes.lab.add_uplink(host, "eim-apdf")

        async def both() -> bool:
            seen = await hosts_of(nodes.a)
            return seen.keys() == {staying, str(added.addresses[0])} and "None" not in seen.values()

        await until(both)
        assert await nodes.a.talk(1)  # an established pipe on another interface lives on
        await nodes.b.refresh()
        back = await nodes.b.connect(nodes.a.address, mode=mode, transport=transport)
        assert back.ok, back


@pytest.mark.parametrize(("mode", "transport"), MODES)
async def test_a_better_uplink_takes_nothing_along(lab: Lab, mode: str, transport: str) -> None:
    """The system sends everything by the new one from now on; what is established stays where it is."""
    async with rig(lab, "eim-apdf", "eim-apdf", "public") as nodes:
        nodes.lab.remove_uplink(nodes.a.host, nodes.second)
        await nodes.start()
        found = await nodes.a.connect(nodes.b.address, mode=mode, transport=transport, keep=True)
        assert ip_of(found.local) == str(nodes.first.addresses[0])
        added = nodes.lab.add_uplink(nodes.a.host, "eim-apdf", source_routed=False, preferred=True)

        async def both() -> bool:
            seen = await hosts_of(nodes.a)
            return str(added.addresses[0]) in seen and "None" not in seen.values()

        await until(both)
        assert len(set((await hosts_of(nodes.a)).values())) == 2
        assert await nodes.a.talk(0)


@pytest.mark.parametrize("second", ["public", "eim-eif"])
async def test_peers_call_by_the_second_uplink(lab: Lab, second: str) -> None:
    """TCP that is accepted there is answered there, although the system prefers the first one."""
    async with rig(lab, "edm", second, "eim-apdf", source_routed=False) as nodes:
        await nodes.start()
        await nodes.a.refresh()
        found = await nodes.b.connect(nodes.a.address, mode="stream", transport="tcp", plugins=["direct"])
        assert found.ok, found


async def test_the_only_uplink_changes(lab: Lab) -> None:
    """From home to the phone: brokers and mappings follow, and peers reach the node again."""
    async with rig(lab, "eim-apdf", "eim-apdf", "eim-apdf") as nodes:
        nodes.lab.remove_uplink(nodes.a.host, nodes.second)
        await nodes.start()
        nodes.lab.remove_uplink(nodes.a.host, nodes.first)
        added = nodes.lab.add_uplink(nodes.a.host, "cgn")

        async def moved() -> bool:
            seen = await hosts_of(nodes.a)
            brokers = NodeAddress.from_text(nodes.a.address).brokers
            return set(seen) == {str(added.addresses[0])} and "None" not in seen.values() and bool(brokers)

        await until(moved)
        assert "AddressChanged" in {entry["event"] for entry in await nodes.a.trace()}
        found = await nodes.b.connect(nodes.a.address, mode="datagram")
        assert (found.ok, found.relayed) == (True, False), found
