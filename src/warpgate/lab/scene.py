"""One connect between two sites, played in the lab and written down: what the demo draws.

All hosts share the machine's monotonic clock, so that what both sides saw can be put on one time line.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from warpgate.lab.host import Host
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab
from warpgate.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """Something one side saw, `at` seconds after the initiator began."""

    at: float
    side: str
    event: str
    plugin: str
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of the two is: its own address and, behind a NAT, the one that others see."""

    name: str
    kind: str
    host: str
    outside: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What happened: `mappings`: new ones in both routers together, during the attempt."""

    places: tuple[Place, Place]
    result: Connected
    moments: tuple[Moment, ...]
    mappings: int


async def play(kind_a: str, kind_b: str, mode: str, names: tuple[str, str] = ("alice", "bob")) -> Scene:
    """Build the lab, start real nodes in real processes, connect, and tell. ServiceError, ConfigError."""
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab())
        server = lab.add_host("server", ipv4=2)
        hosts = [lab.add_host(name, behind=kind) for name, kind in zip(names, (kind_a, kind_b), strict=True)]
        broker, stun = await start_mosquitto(server), await start_coturn(server)
        nodes = [await stack.enter_async_context(await SteeredNode.launch(host)) for host in hosts]
        for node in nodes:
            await node.start(brokers=[broker.mqtt_url], stun=[str(stun.endpoint)])
            await node.trace()
        before = _mappings(hosts)
        result = await nodes[0].connect(nodes[1].address, mode=mode)
        mappings = _mappings(hosts) - before
        traces = [await node.trace() for node in nodes]
        places = [
            Place(host.name, kind, str(host.ipv4), _outside(host.routers))
            for host, kind in zip(hosts, (kind_a, kind_b), strict=True)
        ]
        return Scene((places[0], places[1]), result, _moments(names, traces), mappings)


def _mappings(hosts: Sequence[Host]) -> int:
    """How many mappings the NATs in front of these hosts have made so far."""
    counted = [router.counters().nat for host in hosts for router in host.routers]
    return sum(nat.mappings_created for nat in counted if nat is not None)


def _outside(routers: Sequence[Any]) -> str:
    external = [str(ip) for router in routers if router.nat is not None for ip in router.nat.external]
    return external[-1] if external else ""


def _moments(names: tuple[str, str], traces: Sequence[Sequence[dict[str, Any]]]) -> tuple[Moment, ...]:
    starts = [row["now"] for row in traces[0] if row["event"] in ("PluginStarted", "PluginSkipped")]
    start = min(starts, default=0.0)
    moments = [
        Moment(row["now"] - start, name, row["event"], row.get("plugin", ""), _text(row))
        for name, trace in zip(names, traces, strict=True)
        for row in trace
        if row["now"] >= start  # what a node says when it has started is no part of the attempt
    ]
    return tuple(sorted(moments, key=lambda moment: moment.at))


def _text(row: dict[str, Any]) -> str:
    for key in ("text", "reason", "kind"):
        if row.get(key):
            return str(row[key])
    return f"{row['local']} -> {row['remote']}" if "remote" in row and "local" in row else ""
