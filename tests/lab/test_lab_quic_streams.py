"""Real nodes, real routers' behaviour, no way for TCP: a stream is there nevertheless."""

from __future__ import annotations

import pytest
from needs import need_programs

from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import SteeredNode
from warpgate.lab.topology import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "plugin"),
    [
        ("edm+no-tcp", "public", "direct"),
        ("public", "edm+no-tcp", "udp_punch"),
        ("eim-apdf+no-tcp", "eim-apdf+no-tcp", "udp_punch"),
        ("edm+no-tcp", "eim-adf", "udp_punch"),
    ],
)
async def test_streams_where_tcp_is_blocked(lab: Lab, kind_a: str, kind_b: str, plugin: str) -> None:
    need_programs("mosquitto", "turnserver")
    stun_host, broker_host = lab.add_host("stun", ipv4=2), lab.add_host("broker")
    host_a, host_b = lab.add_host("a", behind=kind_a), lab.add_host("b", behind=kind_b)
    broker, stun = await start_mosquitto(broker_host), await start_coturn(stun_host)
    async with await SteeredNode.launch(host_a) as a, await SteeredNode.launch(host_b) as b:
        for node in (a, b):
            await node.start(brokers=[broker.mqtt_url], stun=[str(stun.endpoint)])
        done = await a.connect(b.address)
        assert done.ok, done
        assert (done.plugin, done.mode, done.transport) == (plugin, "stream", "udp")
        assert (await a.connect(b.address, transport="udp")).ok
        assert not (await a.connect(b.address, transport="tcp", timeout=3.0)).ok
