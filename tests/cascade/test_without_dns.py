"""What a node knows of servers from another day, another network, another process: addresses, and newer lists."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cascade_world import EPOCH, virtual

from warpgate.config import Config
from warpgate.core import server_lists
from warpgate.core.context import Sources
from warpgate.core.node import Node
from warpgate.events import Event, ServerListFetched
from warpgate.lab.spec import NatSpec
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity
from warpgate.model.server_list import signed
from warpgate.services.defaults import ListKeys
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, PathSpec
from warpgate_testing.servers import MemoryBrokers, MemoryStun

NAME, AT = "stun.test", "203.0.113.1"


def wanderer(network: MemoryNetwork) -> Node:
    """Its identity, and so what it remembers, is on disk."""
    return Node(
        Config(brokers=(), stun=(f"{NAME}:3478",), port_map=False),
        network=network,
        brokers=MemoryBrokers(),
        sources=Sources(wall_clock=lambda: EPOCH + asyncio.get_running_loop().time()),
    )


def test_what_a_process_learnt_helps_the_next_one_in_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path))

    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.02))
        server = internet.host("stun", AT)
        stun = MemoryStun(server, Endpoint.of(AT, 3478), None)
        home = internet.host("home", "192.168.1.2", behind=internet.router("h", ("198.51.100.1",), NatSpec()))
        train = internet.host("train", "172.18.0.2", behind=internet.router("t", ("198.51.100.2",), NatSpec()))
        async with wanderer(train) as stranger:
            assert stranger.address.attachments[0].reflexive is None, "nobody has ever known the name"
        internet.name(NAME, AT)
        async with wanderer(home) as node:
            assert str(node.address.attachments[0].reflexive) == "198.51.100.1"
        internet._names.clear()
        async with wanderer(train) as node:
            assert str(node.address.attachments[0].reflexive) == "198.51.100.2"
        await stun.close()

    virtual(main)
    networks = json.loads((tmp_path / "servers.json").read_text())
    assert [host["ips"] for network in networks for host in network["hosts"]] == [[AT], [AT]]


def test_a_list_that_was_fetched_is_used_by_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path))
    key, place, events = Identity.generate(), "https://lists.example.com/servers.toml", list[Event]()
    text = f'sequence = 9\nexpires = 2099-01-01\nbrokers = ["mqtts://b.example.com"]\nstun = ["{AT}:3478"]\n'

    async def fetch(network: object, asked: str, trust: object) -> bytes:
        assert asked == place
        return signed(text.encode(), key)

    monkeypatch.setattr(server_lists, "fetch_list", fetch)
    monkeypatch.setattr(server_lists, "list_keys", lambda: ListKeys((key.public_key,), (place,)))

    def node_at(network: MemoryNetwork, **settings: object) -> Node:
        return Node(
            Config(brokers=(), port_map=False, **settings),  # type: ignore[arg-type]
            network=network,
            brokers=MemoryBrokers(),
            observer=events.append,
            sources=Sources(wall_clock=lambda: EPOCH + asyncio.get_running_loop().time()),
        )

    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.02))
        stun = MemoryStun(internet.host("stun", AT), Endpoint.of(AT, 3478), None)
        home = internet.host("home", "192.168.1.2", behind=internet.router("h", ("198.51.100.1",), NatSpec()))
        async with node_at(home) as node:
            assert node.address.attachments[0].reflexive is None, "no server of the package is in this internet"
            await asyncio.sleep(server_lists.FIRST_HIGH)
            assert ServerListFetched(place, 9) in events
        async with node_at(home) as node:
            assert str(node.address.attachments[0].reflexive) == "198.51.100.1"
        async with node_at(home, server_lists=()) as node:
            assert node.address.attachments[0].reflexive is None, "one switch"
        await stun.close()

    virtual(main, limit=2000)
