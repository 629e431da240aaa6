"""Brokers that somebody else's address names: what they resolve to decides, when they are called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from warpgate import Config, ConnectFailed, Identity, Node
from warpgate.events import Event, ServerFailed
from warpgate.model.address import Attachment, Listening, NodeAddress
from warpgate.model.broker import BrokerRef

QUIET = Config(brokers=(), stun=(), port=0, port_map=False, interfaces=("lo",))


@asynccontextmanager
async def local_service() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Something of this machine's that is no broker: its port, and what it was sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


def address_naming(*brokers: str) -> str:
    """Of a peer that is not there."""
    nowhere = Attachment(ip_address("127.0.0.1"), None, Listening(9), Listening(9))
    peer = Identity.generate().public_key
    return NodeAddress(peer, tuple(BrokerRef.of(broker) for broker in brokers), (nowhere,)).to_text()


async def connect_in_vain(config: Config, address: str) -> list[Event]:
    events: list[Event] = []
    async with Node(config, identity=Identity.generate(), observer=events.append) as node:
        with pytest.raises(ConnectFailed):
            await node.connect(address, timeout=1.0)
    return events


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_address_does_not_lead_us_to_services_of_this_machine(host: str) -> None:
    async with local_service() as (port, heard):
        broker = f"mqtt://{host}:{port}"
        events = await connect_in_vain(QUIET, address_naming(broker))
    assert heard == []
    failures = [event for event in events if isinstance(event, ServerFailed)]
    assert {failure.server for failure in failures} == {broker}
    assert all("is this machine's own address" in failure.reason for failure in failures)


async def test_a_broker_of_our_own_settings_may_be_anywhere() -> None:
    async with local_service() as (port, heard):
        broker = f"mqtt://127.0.0.1:{port}"
        own = Config(brokers=(broker,), stun=(), port=0, port_map=False, interfaces=("lo",))
        await connect_in_vain(own, address_naming(broker))
    assert heard
