"""MQTT in a WebSocket with TLS: a real mosquitto, directly and through a web proxy; and servers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from connect_proxy import connect_proxy
from services_kit import until
from web_gateway import web_gateway

from warpgate.config import Config
from warpgate.core.servers_in_use import ServersInUse
from warpgate.errors import ConfigError, NetworkError, ServiceError
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.remembered import RememberedNames
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.net.translated import TranslatedNetwork
from warpgate.services.mqtt import MqttConnector
from warpgate.services.mqtt_link import MqttLink
from warpgate.services.proxy import Proxies, Proxy, system_proxy

TOPIC = "warpgate/2/receiver"
NO_PROXY = Proxies(lambda scheme, host: None)
HOST = "broker.test"  # a name that the tests' resolver has


class Network(SystemNetwork):
    """The system's, with names of its own."""

    def __init__(self, names: dict[str, str] | None = None) -> None:
        super().__init__()
        self.names = names or {}

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        if host in self.names:
            return (Endpoint.of(self.names[host], port),)
        if host == HOST:
            raise NetworkError(f"resolve {host!r}: no such name")
        return await super().resolve(host, port)


@pytest.fixture
def certified(tmp_path: Path) -> Trust:
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=broker"
        f" -addext subjectAltName=IP:127.0.0.1,DNS:{HOST} -keyout {tmp_path}/key.pem"
        f" -out {tmp_path}/cert.pem".split(),
        check=True,
        capture_output=True,
    )
    return Trust(str(tmp_path / "cert.pem"))


@pytest.fixture
async def web(mosquitto: Any, tmp_path: Path, certified: Any) -> AsyncIterator[int]:
    """The port of a mosquitto that is to be had in a WebSocket over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with web_gateway(mosquitto().port, context) as port:
        yield port


async def told_to_itself(connector: MqttConnector, url: str, judge: Any = None) -> bytes:
    inbox: list[bytes] = []
    link = await connector.connect(url, TOPIC, inbox.append, judge)
    try:
        link.publish(TOPIC, bytes(range(256)) * 16)
        await until(lambda: inbox)
    finally:
        await link.close()
    return inbox[0]


async def test_over_tls(web: int, certified: Any) -> None:
    connector = MqttConnector(Network(), certified, proxies=NO_PROXY)
    assert await told_to_itself(connector, f"wss://127.0.0.1:{web}/mqtt") == bytes(range(256)) * 16
    with pytest.raises(ServiceError, match="certificate"):
        await told_to_itself(MqttConnector(Network(), proxies=NO_PROXY), f"wss://127.0.0.1:{web}")


async def test_through_the_proxy_that_the_system_names_and_no_name_server(web: int, certified: Any) -> None:
    """The proxy knows the name, we do not; and the certificate is the broker's, not the proxy's."""
    async with connect_proxy() as proxy:
        proxy.leads_to = ("127.0.0.1", web)
        url = proxy.url.replace("http://", "http://me:pass%40word@")
        connector = MqttConnector(Network(), certified, proxies=Proxies(lambda scheme, host: url))
        await told_to_itself(connector, f"wss://{HOST}")
        assert proxy.asked == [f"CONNECT {HOST}:443 HTTP/1.1"]
        token = base64.b64encode(b"me:pass@word").decode()
        assert f"Proxy-Authorization: Basic {token}" in proxy.headers


async def test_a_broker_is_reached_by_the_address_it_had_when_the_resolver_is_gone(web: int, certified: Any) -> None:
    """And its certificate is still checked by the name."""
    had: dict[str, tuple[IPAddress, ...]] = {}
    inner = Network({HOST: "127.0.0.1"})
    names = RememberedNames(inner.resolve, lambda host: had.get(host, ()), had.__setitem__)
    connector = MqttConnector(TranslatedNetwork(inner, names.resolve), certified, proxies=NO_PROXY)
    await told_to_itself(connector, f"wss://{HOST}:{web}")
    inner.names.clear()
    await told_to_itself(connector, f"wss://{HOST}:{web}")
    had.clear()
    with pytest.raises(NetworkError, match="no such name"):
        await told_to_itself(connector, f"wss://{HOST}:{web}")


async def test_plain_mqtt_does_not_look_like_the_web_and_goes_by_no_proxy(mosquitto: Any) -> None:
    async with connect_proxy() as proxy:
        connector = MqttConnector(SystemNetwork(), proxies=Proxies(lambda scheme, host: proxy.url))
        await told_to_itself(connector, mosquitto().url)
        assert not proxy.asked


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n<html>", "answers 403"),
        (b"nonsense\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 20_000, "more than"),
        (b"HTTP/1.1 200 OK\r\n", "hung up"),
    ],
)
async def test_a_proxy_that_refuses_or_is_none(answer: bytes, reason: str) -> None:
    async with connect_proxy() as proxy:
        proxy.answer = answer
        connector = MqttConnector(Network(), proxies=Proxies(lambda scheme, host: proxy.url))
        with pytest.raises(NetworkError, match=reason):
            await told_to_itself(connector, f"wss://{HOST}")


async def test_a_peer_leads_our_proxy_nowhere_that_we_would_not_go(web: int, certified: Any) -> None:
    """What a peer's broker resolves to is judged as without a proxy; what nobody here can resolve is not asked for."""
    network = Network()
    async with connect_proxy() as proxy:
        proxy.leads_to = ("127.0.0.1", web)
        connector = MqttConnector(network, certified, proxies=Proxies(lambda scheme, host: proxy.url))
        with pytest.raises(NetworkError, match="no such name"):
            await told_to_itself(connector, f"wss://{HOST}", lambda endpoint: None)
        network.names[HOST] = "10.0.0.1"
        with pytest.raises(NetworkError, match="private"):
            await told_to_itself(connector, f"wss://{HOST}", lambda endpoint: "private")
        assert not proxy.asked
        network.names[HOST] = "203.0.113.7"
        await told_to_itself(connector, f"wss://{HOST}", lambda endpoint: None)
        assert len(proxy.asked) == 1


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    file = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(file), "user", "p@ss"], check=True)
    return file


async def test_a_broker_that_asks_for_a_login(mosquitto: Any, passwords: Path) -> None:
    url = mosquitto(f"password_file {passwords}\nallow_anonymous false\n").url
    written = url.replace("mqtt://", "mqtt://user:p%40ss@")
    await told_to_itself(MqttConnector(SystemNetwork()), written)
    logins = ServersInUse(Config(brokers=(written,)), None).login
    await told_to_itself(MqttConnector(SystemNetwork(), logins=logins), url)
    with pytest.raises(ServiceError, match="refused"):
        await told_to_itself(MqttConnector(SystemNetwork()), url)


# -- servers that misbehave --------------------------------------------------------------------------------------


async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Upgrade, CONNACK and SUBACK of version 5, in frames."""
    request = await reader.readuntil(b"\r\n\r\n")
    key = next(line for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: "))[19:]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    await reader.read(4096)
    writer.write(b"\x82\x05\x20\x03\x00\x00\x00")
    await reader.read(4096)
    writer.write(b"\x82\x06\x90\x04\x00\x01\x00\x00")


async def linked(behaviour: Callable[..., Any]) -> tuple[asyncio.Server, MqttLink, list[bytes]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await behaviour(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    inbox: list[bytes] = []
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        link = await MqttConnector(SystemNetwork(), proxies=NO_PROXY).connect(url, TOPIC, inbox.append)
    except BaseException:
        server.close()
        raise
    return server, link, inbox


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n<html>",
        b"\x20\x02\x00\x00\r\n\r\n",
        b"HTTP/1.1 101 Y\r\n" + b"x" * 20_000,
    ],
)
async def test_a_server_that_opens_no_websocket_is_asked_once(words: bytes) -> None:
    asked = 0

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(4096)
        writer.write(words)
        await writer.drain()

    with pytest.raises(ServiceError):
        await linked(behaviour)
    assert asked == 1, "an upgrade that is refused says nothing about the version of MQTT"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"\x81\x02hi", "out of place"),
        (b"\x82\x06\x34\x07\x00\x01x\x00", "QoS"),
        (b"\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff\x30\xff\xff\xff\x7f", "too large"),
        (b"\x88\x02\x03\xe9", r"closed the WebSocket \(1001\)"),
    ],
)
async def test_what_is_no_frame_for_us_ends_the_link(words: bytes, reason: str) -> None:
    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted(reader, writer)
        await reader.read(4096)
        writer.write(words)
        await reader.read()

    server, link, inbox = await linked(behaviour)
    async with server:
        link.publish(TOPIC, b"begin")
        assert re.search(reason, await asyncio.wait_for(link.closed(), 5))
        assert not inbox
        await link.close()


async def test_a_flood_of_pings_gets_one_answer_an_arrival_and_is_rationed() -> None:
    """Each counts as 512 bytes of the 1 MiB a second that is read; so the rest stays with the kernel."""
    received = bytearray()

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted(reader, writer)
        await reader.read(4096)
        writer.write(b"\x89\x00" * 2500)
        while data := await reader.read(4096):
            received.extend(data)

    server, link, _ = await linked(behaviour)
    async with server:
        link.publish(TOPIC, b"begin")
        await until(lambda: link._waking is not None)
        await until(lambda: received)
        assert len(received) % 6 == 0
        assert len(received) // 6 <= 3
        await link.close()


# -- what the system says of proxies -----------------------------------------------------------------------------


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "https_proxy",
        "HTTPS_PROXY",
        "http_proxy",
        "no_proxy",
        "NO_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    assert system_proxy("https", "broker.example") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert system_proxy("https", "broker.example") == "http://proxy.example:3128"
    assert system_proxy("http", "broker.example") is None
    monkeypatch.setenv("NO_PROXY", "localhost,.inside.example")
    assert system_proxy("https", "broker.inside.example") is None
    assert system_proxy("https", "broker.example") is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://proxy.example:3128/", Proxy("proxy.example", 3128)),
        ("proxy.example:3128", Proxy("proxy.example", 3128)),
        ("http://u%40x:p@[2001:db8::1]:80", Proxy("2001:db8::1", 80, ("u@x", "p"))),
    ],
)
def test_how_a_proxy_is_written(text: str, expected: Proxy) -> None:
    assert Proxy.parse(text) == expected


@pytest.mark.parametrize("text", ["https://proxy.example", "socks5://127.0.0.1", "http://", "http://u:secret@a b"])
async def test_what_is_no_proxy_is_told_without_its_password(text: str) -> None:
    with pytest.raises(ConfigError):
        Proxy.parse(text)
    with pytest.raises(NetworkError) as caught:
        await Proxies(lambda scheme, host: text).find("a.example", tls=True)
    assert "secret" not in str(caught.value)
