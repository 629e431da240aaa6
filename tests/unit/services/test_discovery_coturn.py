"""Discovery against the real coturn on loopback, which has two addresses there (RFC 5780), over kernel sockets."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from services_kit import free_port, until

from warpgate.config import Timing
from warpgate.events import Event
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Filtering, Mapping
from warpgate.net.network import UdpSocket
from warpgate.net.system import SystemNetwork
from warpgate.services.discovery import Discovery

FIRST, SECOND, OURS = "127.0.0.1", "127.0.0.2", "127.0.0.3"

pytestmark = pytest.mark.skipif(shutil.which("turnserver") is None, reason="needs coturn")


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[int]:
    """Its port; the other one is the next."""
    port = free_port()
    command = f"turnserver -n --stun-only --no-tls --no-dtls --no-cli --no-stdout-log --log-file {tmp_path}/log"
    command += f" --pidfile {tmp_path}/pid --listening-port {port} --alt-listening-port {port + 1}"
    command += f" --listening-ip {FIRST} --listening-ip {SECOND}"
    process = subprocess.Popen(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for ip in (FIRST, SECOND):
            wait_for_listener(ip, port)
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for_listener(ip: str, port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((ip, port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "coturn did not come up"
            time.sleep(0.01)


class Owner:
    def __init__(self, *servers: str, port: int = 0) -> None:
        self.network = SystemNetwork()
        self.events: list[Event] = []
        self.discovery = Discovery(self.network, servers, Timing(), self.events.append, lambda: None, random.Random(1))
        self.sock = self.open(port)
        self.local = self.sock.local
        self.listener = self.network.listen_tcp(self.local, lambda stream: stream.abort())
        self.discovery.add(self.sock, self.local.port)
        self.task = asyncio.ensure_future(self.discovery.run())

    def open(self, port: int) -> UdpSocket:
        sock: UdpSocket = self.network.open_udp(
            Endpoint.of(OURS, port), lambda data, source: self.discovery.receive(sock, data, source) and None
        )
        return sock

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self.discovery.close()
        self.sock.close()
        self.listener.close()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_everything_is_learnt_from_a_real_server(
    coturn: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def story() -> None:
        me = Owner(f"{FIRST}:{coturn}", f"{SECOND}:{coturn}")
        try:
            began = time.monotonic()
            await me.discovery.first(1.5)
            assert time.monotonic() - began < 0.5
            learnt = me.discovery.learnt(me.local)
            assert (str(learnt.reflexive), learnt.udp_mapped, learnt.tcp_mapped) == (
                OURS,
                me.local.port,
                me.local.port,
            )
            await until(lambda: me.discovery.learnt(me.local).nat.filtering is Filtering.EIF)
            assert me.discovery.learnt(me.local).nat.mapping is Mapping.NONE
            fresh = me.open(0)
            assert await me.discovery.map_udp(fresh) == fresh.local
            fresh.close()
            mapped, stream = await me.discovery.map_tcp(Endpoint.of(OURS, 0))
            assert mapped == stream.local
            stream.abort()
        finally:
            await me.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(story())


async def test_a_node_that_starts_again_finds_its_port_free_to_dial_the_same_server(coturn: int) -> None:
    port = free_port()
    for _ in range(2):
        me = Owner(f"{FIRST}:{coturn}", port=port)
        await me.discovery.first(5)
        assert me.discovery.learnt(me.local).tcp_mapped == port
        await me.close()
        await asyncio.sleep(0)
