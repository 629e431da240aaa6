"""The signal channel over real brokers on loopback: they die, come back, or never answer."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from services_kit import free_port, until

from warpgate.config import Timing
from warpgate.events import Event, ServerFailed
from warpgate.net.system import SystemNetwork
from warpgate.services.mqtt import MqttConnector
from warpgate.services.signaling import SignalChannel

ME, YOU = "warpgate/2/me", "warpgate/2/you"


class Node:
    def __init__(self, topic: str, urls: Sequence[str]) -> None:
        self.received: list[bytes] = []
        self.events: list[Event] = []
        self.channel = SignalChannel(
            MqttConnector(SystemNetwork()),
            topic,
            urls,
            home=2,
            timing=Timing(),
            on_envelope=self.received.append,
            emit=self.events.append,
            rng=random.Random(1),
        )

    @property
    def homes(self) -> set[str]:
        return {ref.url for ref in self.channel.brokers}


@asynccontextmanager
async def node(topic: str, *urls: str) -> AsyncIterator[Node]:
    running = Node(topic, urls)
    running.channel.start()
    try:
        yield running
    finally:
        before = time.monotonic()
        await running.channel.close()
        assert time.monotonic() - before < 0.1, "closing is prompt, whatever the brokers do"


@pytest.fixture
def black_hole() -> Any:
    """A socket that completes TCP handshakes (in the backlog) and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"mqtt://127.0.0.1:{listening.getsockname()[1]}"


async def test_envelopes_go_out_on_every_common_broker(mosquitto: Any) -> None:
    urls = (mosquitto().url, mosquitto().url)
    async with node(ME, *urls) as me, node(YOU, *urls) as you:
        await until(lambda: me.homes == you.homes == set(urls))
        assert me.channel.publish(urls, YOU, b"offer") == 2
        await until(lambda: len(you.received) == 2)
        assert set(you.received) == {b"offer"}
        assert you.channel.publish(urls[:1], ME, b"answer") == 1
        await until(lambda: me.received == [b"answer"])


async def test_a_killed_broker_costs_nothing_and_is_used_again_when_it_is_back(mosquitto: Any) -> None:
    one, two = mosquitto(), mosquitto()
    async with node(ME, one.url, two.url) as me, node(YOU, one.url, two.url) as you:
        await until(lambda: len(me.homes) == len(you.homes) == 2)
        one.kill()
        await until(lambda: me.homes == you.homes == {two.url})
        me.channel.publish([one.url, two.url], YOU, b"by the other")
        await until(lambda: you.received == [b"by the other"])
        one.start()
        await until(lambda: len(me.homes) == len(you.homes) == 2)
        assert me.channel.publish([one.url], YOU, b"by the old one") == 1
        await until(lambda: you.received[-1] == b"by the old one")


async def test_a_peers_broker_is_connected_to_on_demand(mosquitto: Any) -> None:
    mine, yours = mosquitto().url, mosquitto().url
    async with node(ME, mine) as me, node(YOU, yours) as you:
        await until(lambda: me.homes and you.homes)
        assert me.channel.publish([yours], YOU, b"offer") == 0
        await until(lambda: you.received == [b"offer"])
        assert you.channel.publish([yours], ME, b"answer") == 1
        await until(lambda: me.received == [b"answer"])


async def test_a_black_hole_delays_nobody(mosquitto: Any, black_hole: str) -> None:
    good = mosquitto().url
    async with node(ME, black_hole, good) as me:
        before = time.monotonic()
        assert await me.channel.first_home(5)
        assert time.monotonic() - before < 1
        assert me.homes == {good}
        assert me.channel.publish([black_hole, good], ME, b"to myself") == 1
        await until(lambda: me.received)


async def test_a_broker_that_takes_no_subscription_is_none_however_well_it_connects(mosquitto: Any) -> None:
    """Seen in the field: TCP and CONNACK were fine, and nothing else worked."""

    async def half_dead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(half_dead, "127.0.0.1", 0) as server:
        ill = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        good = mosquitto().url
        async with node(ME, ill, good) as me:
            assert await me.channel.first_home(5)
            assert me.homes == {good}


async def test_only_a_black_hole(black_hole: str) -> None:
    async with node(ME, black_hole) as me:
        before = time.monotonic()
        assert not await me.channel.first_home(0.1)
        assert 0.1 <= time.monotonic() - before < 0.3


async def test_nothing_there_is_known_at_once() -> None:
    async with node(ME, f"mqtt://127.0.0.1:{free_port()}") as me:
        before = time.monotonic()
        assert not await me.channel.first_home(5)
        assert time.monotonic() - before < 0.1
        assert any(isinstance(event, ServerFailed) for event in me.events)


def test_on_uvloop(mosquitto: Any) -> None:
    url = mosquitto().url

    async def story() -> None:
        async with node(ME, url) as me, node(YOU, url) as you:
            await until(lambda: me.homes and you.homes)
            assert me.channel.publish([url], YOU, b"offer") == 1
            await until(lambda: you.received == [b"offer"])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def test_the_client_library_is_not_imported_before_a_broker_is_dialled() -> None:
    check = "import sys, warpgate.services.signaling, warpgate.services.mqtt; sys.exit('paho' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_program_ends_at_once_although_a_broker_never_answers(black_hole: str) -> None:
    """asyncio.run waits for the loop's executor: nothing of ours may sit there."""
    script = f"""
import asyncio, random
from warpgate.config import Timing
from warpgate.net.system import SystemNetwork
from warpgate.services.mqtt import MqttConnector
from warpgate.services.signaling import SignalChannel
async def main():
    channel = SignalChannel(MqttConnector(SystemNetwork()), "t", [{black_hole!r}], home=1, timing=Timing(),
        on_envelope=print, emit=lambda event: None, rng=random.Random(1))
    channel.start()
    await asyncio.sleep(0.2)
    await channel.close()
asyncio.run(main(), debug=True)
"""
    before = time.monotonic()
    ended = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert time.monotonic() - before < 3
    assert "rror" not in ended.stderr
