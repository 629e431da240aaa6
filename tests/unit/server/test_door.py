"""The TLS door in virtual time: how many may stand in it, for how long, and how often one place may knock."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from warpgate.errors import NetworkError
from warpgate.lab.certificate import write_certificate
from warpgate.model.endpoint import Endpoint
from warpgate.net.tls import server_context
from warpgate.server import door
from warpgate.server.door import HANDSHAKE_BURST, HANDSHAKE_RATE, PATIENCE, Door
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork

PLACE = Endpoint.parse("203.0.113.5:443")


@pytest.fixture
def context(tmp_path):
    return server_context(*write_certificate(tmp_path, [ip_address("203.0.113.5")]))


def opened(internet: MemoryInternet, context) -> Door:
    host = internet.host("server", "203.0.113.5")
    return Door.open(host, [PLACE], context, salt=b"s", relay=None, services={})


async def knock(client: MemoryNetwork, times: int) -> list:
    """Connections that say nothing."""
    streams = []
    for _ in range(times):
        try:
            streams.append(await client.dial_tcp(PLACE))
        except NetworkError:
            continue
    await asyncio.sleep(1.0)
    return streams


def test_connections_that_say_nothing_are_few_of_one_source_and_in_all_and_short(context, monkeypatch) -> None:
    monkeypatch.setattr(door, "CONNECTIONS", 6)
    monkeypatch.setattr(door, "CONNECTIONS_PER_SOURCE", 4)

    async def main() -> None:
        internet = MemoryInternet(seed=0)
        served = opened(internet, context)
        streams = await knock(internet.host("mallory", "198.51.100.66"), 10)
        assert (len(served._tasks), served._refused) == (4, 6)
        for number in range(4):
            streams += await knock(internet.host("other", f"198.51.100.{number + 1}"), 1)
        assert (len(served._tasks), served._refused) == (6, 8)
        await asyncio.sleep(PATIENCE)
        assert len(served._tasks) == 0
        for stream in streams:
            stream.abort()
        await served.close()

    run_virtual(main())


def test_who_knocks_without_end_costs_ten_handshakes_a_second(context) -> None:
    async def main() -> None:
        internet = MemoryInternet(seed=0)
        served = opened(internet, context)
        mallory = internet.host("mallory", "198.51.100.66")
        for _ in range(30):
            for stream in await asyncio.gather(*(mallory.dial_tcp(PLACE) for _ in range(10))):
                stream.abort()
        await asyncio.sleep(1.0)
        assert served._refused >= 300 - HANDSHAKE_BURST - HANDSHAKE_RATE * asyncio.get_running_loop().time() > 50
        streams = await knock(internet.host("other", "198.51.100.1"), 1)
        assert len(served._tasks) == 1
        streams[0].abort()
        await served.close()

    run_virtual(main())
