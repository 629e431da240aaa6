"""Real nodes, kernels and servers through NATs that give each destination another port; the bench has the numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from needs import need_programs
from programs import seats

from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import SteeredNode
from warpgate.lab.topology import Lab
from warpgate.model.address import NodeAddress

pytestmark = pytest.mark.lab

UDP, TCP = ("datagram", None), ("stream", "tcp")
CASES = [
    ("edm-seq", "eim-apdf", UDP, "udp_punch", 1.0, "SEQUENTIAL"),
    ("eim-apdf", "edm-seq--2", UDP, "udp_punch", 1.0, "SEQUENTIAL"),
    ("edm-seq", "eim-apdf+rst", TCP, "tcp_punch", 1.5, "SEQUENTIAL"),
    ("eim-apdf", "edm-seq--2", TCP, "tcp_punch", 1.5, "SEQUENTIAL"),
    ("edm-seq", "edm-seq-2", UDP, "udp_punch", 1.0, "SEQUENTIAL"),
    ("edm-seq-2", "edm-seq", TCP, "tcp_punch", 3.5, "SEQUENTIAL"),
    ("edm-block", "eim-apdf", UDP, "random_probe", 4.0, "BLOCK"),
    ("eim-apdf", "edm-block", ("stream", None), "random_probe", 4.0, "BLOCK"),
    ("edm-block", "masquerade+accept", UDP, "random_probe", 4.0, "BLOCK"),
    ("mape", "mape", UDP, "random_probe", 6.0, "BLOCK"),
    ("edm", "firewalled", UDP, "random_probe", 15.0, "RANDOM"),
]


@pytest.mark.parametrize(("kind_a", "kind_b", "way", "plugin", "limit", "assignment"), CASES)
async def test_direct_without_a_relay(
    lab: Lab,
    kind_a: str,
    kind_b: str,
    way: tuple[str, str | None],
    plugin: str,
    limit: float,
    assignment: str,
) -> None:
    """`way`: the mode, and the transport that the pipe is limited to."""
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2)
    hosts = lab.add_host("a", behind=kind_a), lab.add_host("b", behind=kind_b)
    broker, stun = await start_mosquitto(server), await start_coturn(server)
    async with await SteeredNode.launch(hosts[0]) as a, await SteeredNode.launch(hosts[1]) as b:
        for node in (a, b):
            await node.start(brokers=[broker.mqtt_url], stun=[str(stun.endpoint)])
        await asyncio.sleep(0.5)  # the fingerprint is taken in the background
        for node in (a, b):
            await node.refresh()
        hard = a if kind_a.startswith(("edm", "mape")) else b
        known = [at.nat.assignment.kind.name for at in NodeAddress.from_text(hard.address).attachments]
        assert known == [assignment]
        mode, transport = way
        done = await a.connect(b.address, mode=mode, transport=transport)
        assert done.ok, (done.error, done.report)
        assert (done.plugin, done.relayed) == (plugin, False)
        assert done.seconds < limit
        for host in hosts:
            assert host.routers[0].counters().nat.flows_created < 2048


@pytest.mark.parametrize("kinds", [("eim-apdf", "edm"), pytest.param(("edm", "eim-apdf"), marks=pytest.mark.long)])
async def test_a_tenth_process_connects_as_the_first_one_did(lab: Lab, tmp_path: Path, kinds: tuple[str, str]) -> None:
    """Each search costs 256 mappings or about as many probes, and 2,048 are all that a peer gets in ten minutes."""
    a, b = await seats(lab, tmp_path, *kinds)
    async with b.running("warpgate", "listen", "--exec", "cat", says=b"wg1") as (_, line):
        address = line.decode().split()[-1]
        for count in range(10):
            done = await a.run("sh", "-c", f"echo {count} | warpgate connect {address}")
            assert done.stdout == b"%d\n" % count, done.stderr.decode()
        flows = [seat.host.routers[0].counters().nat.flows_created for seat in (a, b)]
        assert max(flows) < 2048
