"""Real mosquitto and coturn in lab hosts, and that they can be killed one by one."""

from __future__ import annotations

import asyncio
import socket

import pytest
from needs import need_programs
from wires import QUIET, Tcp, Udp, closing

from warpgate.errors import ServiceError
from warpgate.lab.servers import Server, start_coturn, start_mosquitto
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint
from warpgate.proto.stun import Method, StunClass, StunMessage, decode, encode
from warpgate.proto.stun_attributes import Attribute, ChangeRequest

pytestmark = pytest.mark.lab

# MQTT 3.1.1: CONNECT of a client called "t", clean session; CONNACK accepted; PINGREQ; PINGRESP.
CONNECT, CONNACK = bytes.fromhex("100d00044d5154540402003c000174"), bytes.fromhex("20020000")
PINGREQ, PINGRESP = bytes.fromhex("c000"), bytes.fromhex("d000")


async def ask(udp: Udp, to: Endpoint, change: ChangeRequest | None = None) -> tuple[StunMessage, Endpoint]:
    attributes = () if change is None else ((Attribute.CHANGE_REQUEST, change),)
    udp.send(to, encode(StunMessage(Method.BINDING, StunClass.REQUEST, bytes(12), attributes)))
    data, source = await udp.receive(QUIET)
    return decode(data), source


async def talk(tcp: Tcp, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(tcp.socket, data)
    async with asyncio.timeout(2):
        return await loop.sock_recv(tcp.socket, 100)


class TestCoturn:
    @pytest.fixture
    async def server(self, lab: Lab) -> Server:
        need_programs("turnserver")
        return await start_coturn(lab.add_host("server", ipv4=2, ipv6=1))

    async def test_it_tells_the_mapping_and_its_other_address(self, lab: Lab, server: Server) -> None:
        host = lab.add_host("a", behind="eim-apdf-random")
        udp = Udp(host)
        with closing(udp):
            answer, source = await ask(udp, server.endpoint)
        first, second = server.host.addresses[:2]
        assert answer.mapped is not None
        assert answer.mapped.ip == host.routers[0].outside[0]
        assert source == answer.endpoint(Attribute.RESPONSE_ORIGIN) == Endpoint(first, 3478)
        assert answer.endpoint(Attribute.OTHER_ADDRESS) == Endpoint(second, 3479)

    @pytest.mark.parametrize(("kind", "port", "both"), [("eim-eif", 1, 1), ("eim-adf", 1, 0), ("eim-apdf", 0, 0)])
    async def test_change_requests_show_the_filter(
        self, lab: Lab, server: Server, kind: str, port: int, both: int
    ) -> None:
        """RFC 5780 section 4.4, tests II and III."""
        first, second = server.host.addresses[:2]
        udp = Udp(lab.add_host("a", behind=kind))
        changes = (
            (ChangeRequest.PORT, port, Endpoint(first, 3479)),
            (ChangeRequest.PORT | ChangeRequest.IP, both, Endpoint(second, 3479)),
        )
        with closing(udp):
            for change, comes, wanted in changes:
                try:
                    _, source = await ask(udp, server.endpoint, change)
                except TimeoutError:
                    assert not comes
                else:
                    assert comes
                    assert source == wanted

    async def test_over_tcp_and_ipv6(self, lab: Lab, server: Server) -> None:
        host = lab.add_host("a", behind="edm", ipv6=1)
        tcp, udp = Tcp(host), Udp(host, ip=host.ipv6)
        request = encode(StunMessage(Method.BINDING, StunClass.REQUEST, bytes(12), ()))
        with closing(tcp, udp):
            await tcp.connect(server.endpoint)
            mapped = decode(await talk(tcp, request)).mapped
            assert mapped is not None
            assert mapped.ip == host.routers[0].outside[0]
            answer, _ = await ask(udp, Endpoint(server.host.ipv6, 3478))
            assert answer.mapped == udp.local


class TestMosquitto:
    async def test_it_answers_and_dies_alone(self, lab: Lab) -> None:
        need_programs("mosquitto")
        hosts = [lab.add_host(name, ipv6=1) for name in ("one", "two")]
        one, two = [await start_mosquitto(host) for host in hosts]
        client = lab.add_host("a", behind="edm")
        clients = [Tcp(client), Tcp(client)]
        with closing(*clients):
            for tcp, server in zip(clients, (one, two), strict=True):
                await tcp.connect(server.endpoint)
                assert await talk(tcp, CONNECT) == CONNACK
            await one.kill()
            async with asyncio.timeout(1):
                assert await asyncio.get_running_loop().sock_recv(clients[0].socket, 9) == b""
            assert await talk(clients[1], PINGREQ) == PINGRESP
        assert one.mqtt_url == f"mqtt://{hosts[0].ipv4}:1883"

    async def test_a_port_in_use_is_reported(self, lab: Lab) -> None:
        need_programs("mosquitto")
        host = lab.add_host("server")
        await start_mosquitto(host)
        with pytest.raises(ServiceError, match="in use"):
            await start_mosquitto(host)

    async def test_what_it_said_is_reported_when_it_fails(self, lab: Lab) -> None:
        need_programs("mosquitto")
        host = lab.add_host("server")
        with host.entered():
            bound = socket.socket()
        with bound:
            bound.bind((str(host.ipv4), 1883))  # but does not listen
            with pytest.raises(ServiceError, match=r"log: (.|\n)*Address already in use"):
                await start_mosquitto(host)

    async def test_it_can_start_again_after_a_crash(self, lab: Lab) -> None:
        need_programs("mosquitto")
        host = lab.add_host("server")
        await (await start_mosquitto(host)).kill()
        again = await start_mosquitto(host)
        tcp = Tcp(lab.add_host("a"))
        with closing(tcp):
            await tcp.connect(again.endpoint)
