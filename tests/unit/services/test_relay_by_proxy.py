"""A relay over TLS where only the web passes, through a proxy: our own relay behind a TLS port, on loopback."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from connect_proxy import connect_proxy
from services_kit import free_port

from warpgate.errors import NetworkError, ServiceError
from warpgate.events import Event
from warpgate.model.endpoint import Endpoint, Family
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.server.relay import RelayAddress, RelayService, RelaySettings
from warpgate.services.proxy import Proxies
from warpgate.services.relay import Relays

HERE = ip_address("127.0.0.1")
SERVER = "turn-secret:north@relay.test:443?transport=tls"


class Network(SystemNetwork):
    """Without a resolver, as behind a proxy; `asked` are the names that somebody wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        if host.endswith(".test"):
            self.asked.append(host)
            raise NetworkError(f"resolve {host!r}: no such name")
        return await super().resolve(host, port)


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=relay"
        f" -addext subjectAltName=DNS:relay.test -keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


@asynccontextmanager
async def relay_behind_tls(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Yields the port."""
    inside = Endpoint(HERE, free_port())
    settings = RelaySettings("north", {Family.V4: RelayAddress(HERE, HERE)}, frozenset())
    relay = RelayService.open(SystemNetwork(), [inside], settings, datagrams=False)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection(*inside.sockaddr[:2])

        async def through(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
            sink.close()

        await asyncio.gather(through(reader, outer), through(inner, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await relay.close()


async def test_an_allocation_through_the_systems_proxy(tmp_path: Path, certificate: ssl.SSLContext) -> None:
    """By the name, which only the proxy can look up; and the certificate is the relay's."""
    async with relay_behind_tls(certificate) as port, connect_proxy() as proxy:
        proxy.leads_to = ("127.0.0.1", port)
        relays = Relays(
            Network(),
            [SERVER],
            lambda event: None,
            trust=Trust(str(tmp_path / "cert.pem")),
            proxies=Proxies(lambda scheme, host: proxy.url),
        )
        allocation = await relays.open_udp([Family.V4])
        assert proxy.asked == ["CONNECT relay.test:443 HTTP/1.1"]
        assert allocation.relayed[0].ip == HERE
        assert relays.hosts == frozenset(), "the proxy is no relay: nothing may be sent there on a peer's word"
        allocation.drop()
        await relays.close()


async def test_a_proxy_that_refuses_is_the_reason() -> None:
    async with connect_proxy() as proxy:
        proxy.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
        events: list[Event] = []
        proxies = Proxies(lambda scheme, host: proxy.url)
        with pytest.raises(ServiceError, match="answers 403"):
            await Relays(Network(), [SERVER], events.append, proxies=proxies).open_udp([Family.V4])


async def test_other_transports_go_by_no_proxy() -> None:
    async with connect_proxy() as proxy:
        network = Network()
        proxies = Proxies(lambda scheme, host: proxy.url)
        relays = Relays(network, ["turn:u:p@relay.test"], lambda event: None, proxies=proxies)
        with pytest.raises(ServiceError, match="no such name"):
            await relays.open_udp([Family.V4])
        assert network.asked
        assert not proxy.asked
