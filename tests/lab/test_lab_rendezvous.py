"""One `warpgate serve --stun --broker` on a public machine gives two nodes behind NATs everything but a relay."""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from needs import need_programs
from relay_talk import HostNetwork
from rendezvous_kit import PATIENCE, WARPGATE, Site, line_of, served

from warpgate.lab.certificate import write_certificate
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint
from warpgate.proto.stun import Method, StunClass, StunMessage, decode, encode

pytestmark = pytest.mark.lab


async def test_the_printed_line_is_all_that_two_nodes_need(lab: Lab, tmp_path: Path) -> None:
    need_programs("mosquitto")
    server = lab.add_host("server")
    hosts = [lab.add_host(name, "eim-apdf") for name in "ab"]
    async with served(server, tmp_path / "server") as line:
        assert line == 'rendezvous = "warpgate://198.51.100.1/names=8421,broker=1883,stun=3478+3479"'
        a, b = (Site(host, tmp_path / host.name, line) for host in hosts)
        async with b.listening("--name", "bea") as address:
            udp = await a.run("connect", "bea", "--ping", "2", "--datagram")
            tcp = await a.run("connect", address, "--ping", "2", "--transport", "tcp")
        assert [event["event"] for event in udp] == ["pipe", "pong", "pong"], udp
        assert [event["event"] for event in tcp] == ["pipe", "pong", "pong"], tcp
        assert (udp[0]["plugin"], tcp[0]["plugin"]) == ("udp_punch", "tcp_punch")
        assert not udp[0]["relayed"]


async def test_over_tls(lab: Lab, tmp_path: Path) -> None:
    """With a certificate that the clients trust: the name is looked up over HTTPS, the offer goes over MQTTS."""
    need_programs("mosquitto")
    server = lab.add_host("server")
    hosts = [lab.add_host(name, "eim-apdf") for name in "ab"]
    certificate, key = write_certificate(tmp_path, server.addresses)
    files = ("--tls-cert", str(certificate), "--tls-key", str(key))
    async with served(server, tmp_path / "server", *files) as line:
        assert line.startswith('rendezvous = "warpgates://198.51.100.1/names=8421,broker=8883,')
        a, b = (Site(host, tmp_path / host.name, line) for host in hosts)
        for site in (a, b):
            site.env["SSL_CERT_FILE"] = str(certificate)
        async with b.listening("--name", "bea"):
            done = await a.run("connect", "bea", "--ping", "1", "--datagram")
        assert [event["event"] for event in done] == ["pipe", "pong"], done


async def test_the_embedded_broker_will_do(lab: Lab, tmp_path: Path) -> None:
    """On a machine without mosquitto: here, hidden from the path."""
    pytest.importorskip("amqtt")
    server = lab.add_host("server")
    hosts = [lab.add_host(name, "eim-apdf") for name in "ab"]
    async with served(server, tmp_path / "server", "--embedded-broker") as line:
        a, b = (Site(host, tmp_path / host.name, line) for host in hosts)
        async with b.listening() as address:
            done = await a.run("connect", address, "--ping", "1", "--transport", "tcp")
        assert [event["event"] for event in done] == ["pipe", "pong"], done


@pytest.mark.parametrize(
    ("kind", "addresses", "words"),
    [
        ("eim-adf", 2, ("endpoint-independent mapping", "address-dependent filtering")),
        ("edm", 1, ("address-and-port-dependent mapping",)),
    ],
)
async def test_what_nodes_learn_about_their_nats(
    lab: Lab, tmp_path: Path, kind: str, addresses: int, words: tuple[str, ...]
) -> None:
    """RFC 5780 with two addresses; with one, its two ports still show a NAT that maps each of them otherwise."""
    need_programs("mosquitto")
    server = lab.add_host("server", ipv4=addresses)
    host = lab.add_host("a", kind)
    async with served(server, tmp_path / "server") as line:
        assert line.endswith('stun=3478+3479"' if addresses == 1 else 'stun=3478"')
        found = await Site(host, tmp_path / "a", line).run("doctor")
    messages = [event["message"] for event in found if event["section"] == "NAT"]
    for word in words:
        assert any(word in message for message in messages), messages


async def test_it_takes_the_broker_along_when_it_is_killed(lab: Lab, tmp_path: Path) -> None:
    need_programs("mosquitto")
    server = lab.add_host("server")
    command = [*WARPGATE, "serve", "--stun", "--broker", "--json"]
    process = await server.popen(command, env={"WARPGATE_DATA": str(tmp_path)}, stdout=PIPE, stderr=PIPE)
    rendezvous = json.loads(await line_of(process))
    assert rendezvous["broker"] == "mosquitto"
    assert "198.51.100.1:3478" in rendezvous["stun"]
    assert json.loads(await line_of(process))["event"] == "ready"
    children = _children(process.pid)
    assert children
    process.kill()
    await process.wait()
    async with asyncio.timeout(PATIENCE):
        while any(_alive(pid) for pid in children):  # noqa: ASYNC110 - the kernel's doing has no event
            await asyncio.sleep(0.01)
    await server.stop(process)


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_an_answer_takes_the_way_that_leads_back(lab: Lab, tmp_path: Path) -> None:
    """An address on an interface that leads nowhere, as routed and shared ones often are: asked by another way."""
    need_programs("mosquitto")
    server, client = lab.add_host("server", ipv4=2), lab.add_host("client")
    address = server.addresses[1]
    with server.entered():
        link = next(name for _, name in socket.if_nameindex() if name != "lo")
    for words in (
        ("addr", "del", f"{address}/32", "dev", link),
        ("link", "add", "nowhere", "type", "veth", "peer", "name", "its-end"),
        ("link", "set", "its-end", "up"),
        ("link", "set", "nowhere", "up"),
        ("addr", "add", f"{address}/32", "dev", "nowhere"),
    ):
        done = await server.run(["ip", *words])
        assert done.returncode == 0, done.stderr
    async with served(server, tmp_path / "server", "--relay", "--public-host", str(address)):
        request = encode(StunMessage(Method.BINDING, StunClass.REQUEST, bytes(12)))
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        network = HostNetwork(client)
        sock = network.open_udp(Endpoint(client.ipv4, 0), lambda data, _: heard.put_nowait(data))
        for port in (3478, 3480):
            sock.send(request, (str(address), port))
            async with asyncio.timeout(5):
                assert decode(await heard.get()).mapped == sock.local
            stream = await network.dial_tcp(Endpoint(address, port))
            await stream.send(request)
            async with asyncio.timeout(5):
                assert decode(await stream.recv(1000)).mapped == stream.local
            stream.abort()
        sock.close()
