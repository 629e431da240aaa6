"""The MQTT connector against a real mosquitto, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from services_kit import free_port, until

from warpgate.config import Config
from warpgate.core.node import Node
from warpgate.errors import ConfigError, NetworkError, ServiceError, WarpgateError
from warpgate.events import BrokerConnected, Event, ServerFailed
from warpgate.model.identity import Identity
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.proto.bucket import TokenBucket
from warpgate.services.broker import BrokerConnector
from warpgate.services.mqtt import MqttConnector
from warpgate.services.mqtt_link import READ_BURST, READ_RATE, SMALLEST

TOPIC = "warpgate/2/receiver"


class Inbox(list[bytes]):
    def __call__(self, data: bytes) -> None:
        self.append(data)


@asynccontextmanager
async def link_to(url: str, topic: str = TOPIC, connector: BrokerConnector | None = None) -> AsyncIterator[Any]:
    inbox = Inbox()
    link = await (connector or MqttConnector(SystemNetwork())).connect(url, topic, inbox)
    try:
        yield link, inbox
    finally:
        await link.close()


@asynccontextmanager
async def server(
    behaviour: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
) -> AsyncIterator[tuple[str, list[int]]]:
    """A TCP server that does as told; yields its URL and the number of connections, kept up to date."""
    seen = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen[0] += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await behaviour(reader, writer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"mqtt://127.0.0.1:{listening.sockets[0].getsockname()[1]}", seen


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_what_is_published_arrives_at_the_subscriber_alone(mosquitto: Any) -> None:
    url = mosquitto().url
    async with link_to(url) as (_, inbox), link_to(url, "warpgate/2/other") as (sender, others):
        envelope = bytes(range(256)) * 16
        sender.publish(TOPIC, envelope)
        await until(lambda: inbox)
        assert inbox == [envelope]
        assert not others


async def test_the_round_trip_is_measured(mosquitto: Any) -> None:
    async with link_to(mosquitto().url) as (link, _):
        assert 0 < link.rtt < 0.5


async def test_retained_junk_and_packets_too_large_do_not_arrive_and_do_no_harm(mosquitto: Any) -> None:
    broker = mosquitto()
    async with link_to(broker.url, "warpgate/2/other") as (vandal, _):
        vandal._client.publish(TOPIC, b"junk", retain=True)
    async with link_to(broker.url) as (_, inbox), link_to(broker.url, "warpgate/2/other") as (sender, _):
        sender.publish(TOPIC, bytes(100_000))
        sender.publish(TOPIC, b"after")
        await until(lambda: inbox)
        assert inbox == [b"after"]


async def test_what_a_broker_retains_is_not_wanted_and_not_read() -> None:
    """Anybody can leave something on our topic that each new subscriber would be given."""
    async with fake_broker() as (url, broker), link_to(url) as (_, inbox):
        assert broker.came.endswith(TOPIC.encode() + b"\x20")  # MQTT 5 section 3.8.3.1: retain handling 2, QoS 0
        head = len(TOPIC).to_bytes(2, "big") + TOPIC.encode() + b"\0"
        for flags, body in ((0x31, b"old"), (0x30, b"new")):
            broker.sock.send(bytes((flags, len(head + body))) + head + body)
        await until(lambda: inbox)
        assert inbox == [b"new"]


async def test_a_publish_is_with_the_kernel_when_it_returns() -> None:
    """Not one turn of the loop lies between `publish` and the other end of the connection."""
    async with fake_broker() as (url, broker), link_to(url) as (link, _):
        link.publish("warpgate/2/peer", b"envelope")
        broker.sock.setblocking(False)
        assert b"envelope" in broker.sock.recv(4096)


async def test_a_broker_that_takes_nothing_costs_bounded_memory() -> None:
    async with fake_broker() as (url, _), link_to(url) as (link, _):
        for _ in range(4000):
            link.publish("warpgate/2/peer", bytes(4096))
        assert link.dropped > 0
        assert link._wire.unsent < 80 * 1024


async def test_a_packet_too_large_from_a_broker_that_should_know_better_ends_the_link() -> None:
    async with fake_broker() as (url, broker), link_to(url) as (link, inbox):
        broker.sock.send(b"\x30\xff\xff\xff\x7f" + bytes(1000))
        assert "too large" in await asyncio.wait_for(link.closed(), 5)
        assert not inbox


@pytest.mark.parametrize("packet", [b"\x34\x07\x00\x01x\x00\x01\x00m", b"\x62\x02\x00\x01", b"\xf0\x00"])
async def test_an_acknowledged_delivery_nobody_asked_for_ends_the_link(packet: bytes) -> None:
    """paho keeps each QoS 2 message until a PUBREL comes: 800 MB in seconds, of a broker that sends none."""
    async with fake_broker() as (url, broker), link_to(url) as (link, inbox):
        broker.sock.send(packet)
        assert "broker" in await asyncio.wait_for(link.closed(), 2)
        assert not link._client._in_messages
        assert not inbox


@pytest.mark.parametrize("size", [0, 40, 4000])
def test_a_flood_is_read_no_faster_than_its_ration(size: int) -> None:
    now, taken, ration = 0.0, 0, TokenBucket(READ_RATE, READ_BURST, 0.0)
    while now < 10.0:
        if delay := ration.wait(now):
            now += delay
        else:
            ration.overdraw(max(size, SMALLEST))
            taken += 1
    assert taken * max(size, SMALLEST) <= READ_BURST + 10.1 * READ_RATE
    assert taken * max(size, SMALLEST) >= 10 * READ_RATE


async def test_a_flood_of_empty_packets_stays_with_the_broker() -> None:
    async with fake_broker() as (url, broker), link_to(url) as (link, _):
        calls = 0
        read = link._client.loop_read

        def counted() -> Any:
            nonlocal calls
            calls += 1
            return read()

        link._client.loop_read = counted
        began = time.monotonic()
        with suppress(BlockingIOError):
            while True:
                broker.sock.send(b"\xd0\x00" * 50_000)
        await until(lambda: link._waking is not None)
        assert calls * SMALLEST <= READ_BURST + (time.monotonic() - began) * READ_RATE + 2 * SMALLEST
        assert len(link._wire.inbound) <= 512 * 1024


async def test_an_end_is_told_with_its_reason(mosquitto: Any) -> None:
    broker = mosquitto()
    async with link_to(broker.url) as (link, _):
        ended = asyncio.ensure_future(link.closed())
        broker.kill()
        assert "closed the connection" in await asyncio.wait_for(ended, 5)
        link.publish(TOPIC, b"into the void")
        assert link.dropped == 1


async def test_brokers_of_the_old_version_are_asked_again_in_theirs() -> None:
    versions: list[int] = []

    async def old_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readexactly(2):
            body = await reader.readexactly(head[1])
            if head[0] >> 4 == 1:
                versions.append(body[6])
                writer.write(bytes((0x20, 2, 0, 0 if body[6] == 4 else 1)))
            elif head[0] >> 4 == 8:
                writer.write(bytes((0x90, 3, *body[:2], 0)))

    connector = MqttConnector(SystemNetwork())
    async with server(old_broker) as (url, _):
        for _ in range(2):
            async with link_to(url, connector=connector) as (link, _):
                assert link.rtt > 0
    assert versions == [5, 4, 4], "once refused, the old version is asked for at once"


async def test_a_broker_that_wants_to_be_waited_for_is_and_is_known_as_such() -> None:
    """Messages that it may not have taken are given to the link that comes of it."""
    packets: list[list[int]] = []

    async def formal_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packets.append(seen := [])
        while head := await reader.readexactly(2):
            body = await reader.readexactly(head[1])
            seen.append(head[0] >> 4)
            if seen == [1]:
                await asyncio.sleep(0.05)
                if reader._buffer:  # type: ignore[attr-defined]
                    return
                writer.write(b"\x20\x03\x00\x00\x00")
            elif head[0] >> 4 == 8:
                writer.write(struct.pack("!BBHBB", 0x90, 4, *struct.unpack_from("!H", body), 0, 0))

    connector = MqttConnector(SystemNetwork())
    async with server(formal_broker) as (url, _):
        for _ in range(2):
            opened: list[Any] = []
            link = await connector.connect(url, TOPIC, Inbox(), on_open=opened.append)
            assert link is opened[-1]
            await link.close()
    assert [seen[:2] for seen in packets] == [[1], [1, 8], [1, 8]]


async def test_what_is_to_be_said_leaves_with_the_first_words() -> None:
    """One round trip for the broker's answers, and none for messages."""
    came: list[bytes] = []

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not came or b"envelope" not in came[-1]:
            came.append((came[-1] if came else b"") + await reader.read(4096))
        at = came[-1].index(b"\x82")  # SUBSCRIBE
        writer.write(b"\x20\x03\x00\x00\x00" + b"\x90\x04" + came[-1][at + 2 : at + 4] + b"\x00\x00")
        await reader.read()

    async with server(broker) as (url, _):
        connector = MqttConnector(SystemNetwork())
        async with asyncio.timeout(5):
            link = await connector.connect(
                url, TOPIC, Inbox(), on_open=lambda link: link.publish("warpgate/2/peer", b"envelope")
            )
        await link.close()


async def test_a_subscription_that_a_broker_has_overheard_is_repeated() -> None:
    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")
        again = await reader.readexactly(4)
        writer.write(b"\x90\x04" + again[2:4] + b"\x00\x00")
        await reader.read()

    async with server(broker) as (url, _), asyncio.timeout(5), link_to(url) as (link, _):
        assert link.rtt < 0.5


async def test_a_refused_subscription_is_an_error() -> None:
    async with fake_broker(suback=0x87) as (url, _):
        with pytest.raises(ServiceError, match="refused the subscription: Not authorized"):
            await MqttConnector(SystemNetwork()).connect(url, TOPIC, Inbox())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(64),
        b"\x20\xff\xff\xff\xff\xff",
        b"\x20\x02\x00\x05",
        b"\x20\x03\x00\x00\x00\xe0\x01\x87",  # accepted, and ended at once
        b"\x20\x03\x00\x00\x00\x90\x04\x00\x01\x00\x05\xe0\x01\x87",  # and answers what nobody has asked
    ],
)
async def test_whatever_is_not_a_broker_is_an_error(answer: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)

    async with server(babble) as (url, _):
        with pytest.raises(WarpgateError):
            async with asyncio.timeout(5), link_to(url):
                pass


async def test_nobody_there() -> None:
    with pytest.raises(NetworkError, match="refused"):
        await MqttConnector(SystemNetwork()).connect(f"mqtt://127.0.0.1:{free_port()}", TOPIC, Inbox())
    with pytest.raises(ConfigError):
        await MqttConnector(SystemNetwork()).connect("http://127.0.0.1", TOPIC, Inbox())


async def test_a_broker_that_never_answers_delays_neither_the_loop_nor_giving_up() -> None:
    async with server(silence) as (url, seen):
        opening = asyncio.ensure_future(MqttConnector(SystemNetwork()).connect(url, TOPIC, Inbox()))
        await until(lambda: seen[0])
        longest = await longest_turn(0.1)
        started = time.monotonic()
        opening.cancel()
        await asyncio.wait([opening])
        assert time.monotonic() - started < 0.1
        assert longest < 0.1


async def longest_turn(seconds: float) -> float:
    loop, longest = asyncio.get_running_loop(), 0.0
    end = last = loop.time()
    end += seconds
    while last < end:
        await asyncio.sleep(0)
        longest, last = max(longest, loop.time() - last), loop.time()
    return longest


async def test_closing_is_prompt_when_the_broker_has_stopped_reading() -> None:
    async with fake_broker() as (url, _), link_to(url) as (link, _):
        for _ in range(4000):
            link.publish("warpgate/2/peer", bytes(4096))
        started = time.monotonic()
        await link.close()
        assert time.monotonic() - started < 0.1


async def test_tls(mosquitto: Any, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    broker = mosquitto(f"certfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem\n")
    url = broker.url.replace("mqtt:", "mqtts:")
    trusting = MqttConnector(SystemNetwork(), Trust(str(tmp_path / "cert.pem")))
    async with link_to(url, connector=trusting) as (link, inbox):
        link.publish(TOPIC, b"to myself")
        await until(lambda: inbox)
    with pytest.raises(ServiceError, match="certificate"):
        async with link_to(url):
            pass


async def test_a_node_s_file_of_authorities_is_for_brokers_too(mosquitto: Any, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    broker = mosquitto(f"certfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem\n")
    settings = Config(brokers=(broker.url.replace("mqtt:", "mqtts:"),), stun=(), interfaces=("lo",), port_map=False)
    seen: list[Event] = []
    trusting = replace(settings, ca_file=str(tmp_path / "cert.pem"))
    for config, told in ((trusting, BrokerConnected), (settings, ServerFailed)):
        async with Node(config, identity=Identity.generate(), observer=seen.append):
            await until(partial(_has, seen, told))


def _has(events: list[Event], kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for event in events)


async def test_cancelling_at_any_moment_leaves_no_connection_open(mosquitto: Any) -> None:
    url = mosquitto().url
    connector = MqttConnector(SystemNetwork())
    async with link_to(url, connector=connector):
        pass
    for turns in range(12):
        opening = asyncio.ensure_future(connector.connect(url, TOPIC, Inbox()))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled():
            await opening.result().close()
        await asyncio.sleep(0)
    loop: Any = asyncio.get_running_loop()
    await until(lambda: len(loop._selector.get_map()) <= 1)


def make_certificate(directory: Path) -> None:
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=broker"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {directory}/key.pem -out {directory}/cert.pem".split(),
        check=True,
        capture_output=True,
    )


class FakeBroker:
    """Accepts one client, answers its CONNECT and SUBSCRIBE, and then does not read any more."""

    def __init__(self) -> None:
        self.sock: Any = None
        self.came = b""


@asynccontextmanager
async def fake_broker(suback: int = 0) -> AsyncIterator[tuple[str, FakeBroker]]:
    loop = asyncio.get_running_loop()
    broker = FakeBroker()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def serve() -> None:
            broker.sock, _ = await loop.sock_accept(listening)
            broker.sock.setblocking(False)
            while b"\x82" not in broker.came:
                broker.came += await loop.sock_recv(broker.sock, 4096)
            came = broker.came
            await loop.sock_sendall(broker.sock, b"\x20\x03\x00\x00\x00")
            (mid,) = struct.unpack_from("!H", came, came.index(b"\x82") + 2)
            await loop.sock_sendall(broker.sock, struct.pack("!BBHBB", 0x90, 4, mid, 0, suback))

        serving = asyncio.ensure_future(serve())
        try:
            yield f"mqtt://127.0.0.1:{listening.getsockname()[1]}", broker
        finally:
            serving.cancel()
            if broker.sock is not None:
                broker.sock.close()


async def test_nothing_is_loaded_for_a_broker_whose_name_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Offline no link is opened: the MQTT library and the certificates would cost the start for nothing."""
    connector, loads = MqttConnector(SystemNetwork()), []

    async def resolve(host: str, port: int) -> Any:
        await asyncio.sleep(0)
        raise NetworkError(f"resolve {host!r}: nobody answers")

    monkeypatch.setattr(SystemNetwork, "resolve", lambda self, host, port: resolve(host, port))
    monkeypatch.setattr(MqttConnector, "_load", lambda self, broker: loads.append(broker) or asyncio.sleep(0))
    for url in ("mqtt://broker.example", "mqtts://broker.example", "wss://broker.example/mqtt"):
        with pytest.raises(NetworkError, match="nobody answers"):
            await connector.connect(url, TOPIC, Inbox())
    assert loads == []
