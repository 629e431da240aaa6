"""What the demo draws, played in the lab and written down: a connect between two sites, and a move of one of them.

All hosts share the machine's monotonic clock, so that what both sides saw can be put on one time line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from warpgate.lab.host import Host
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab
from warpgate.lazy_dataclass import dataclass

# Of a scene with a move, seconds.
BEFORE, AFTER = 1.0, 2.0


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


@dataclass(frozen=True, slots=True)
class MoveScene:
    """A durable pipe whose listener changes networks: all times in seconds since counters began to go over it.

    `places`: the initiator, the listener before and after `moved_at`; `seconds`: the whole; `sent`, `received`:
    counters; `gaps`: when interruptions ended, and how long each was; `fault`: what was wrong with the stream, ""
    nothing.
    """

    places: tuple[Place, Place, Place]
    opened: Connected
    moved_at: float
    seconds: float
    sent: int
    received: int
    fault: str
    gaps: tuple[tuple[float, float], ...]
    moments: tuple[Moment, ...]

    @property
    def whole(self) -> bool:
        """Nothing was lost, repeated or out of order."""
        return self.opened.ok and not self.fault and self.received == self.sent > 0


async def play(kind_a: str, kind_b: str, mode: str, names: tuple[str, str] = ("alice", "bob")) -> Scene:
    """Build the lab, start real nodes in real processes, connect, and tell. ServiceError, ConfigError."""
    async with AsyncExitStack() as stack:
        _, hosts, nodes = await _set_up(stack, names, (kind_a, kind_b))
        before = _mappings(hosts)
        result = await nodes[0].connect(nodes[1].address, mode=mode)
        mappings = _mappings(hosts) - before
        traces = [await node.trace() for node in nodes]
        places = [_place(host, kind) for host, kind in zip(hosts, (kind_a, kind_b), strict=True)]
        return Scene((places[0], places[1]), result, _moments(names, traces, _start(traces)), mappings)


async def play_move(kind_a: str, kind_b: str, elsewhere: str, names: tuple[str, str] = ("alice", "bob")) -> MoveScene:
    """The same with a durable pipe and a stream of counters over it, each echoed; after a second the listener's
    interface is taken away, and it gets another one, in a network of kind `elsewhere`.
    """
    async with AsyncExitStack() as stack:
        lab, hosts, nodes = await _set_up(stack, names, (kind_a, kind_b))
        alice, bob = hosts
        places = _place(alice, kind_a), _place(bob, kind_b)
        opened = await nodes[0].connect(nodes[1].address, durable=True, keep=True)
        if not opened.ok:
            return MoveScene((*places, places[1]), opened, 0.0, 0.0, 0, 0, opened.error, (), ())
        began = time.monotonic()
        await nodes[0].count(0)
        await asyncio.sleep(BEFORE)
        moved_at = time.monotonic() - began
        lab.move(bob, elsewhere)
        await asyncio.sleep(AFTER)
        counted = await nodes[0].counted(began, stop=True)
        traces = [await node.trace() for node in nodes]
        return MoveScene(
            (*places, _place(bob, elsewhere)),
            opened,
            moved_at,
            BEFORE + AFTER,
            counted.sent,
            counted.received,
            counted.fault,
            tuple((ended - began, seconds) for ended, seconds in counted.gaps),
            _moments(names, traces, began),
        )


async def _set_up(
    stack: AsyncExitStack, names: tuple[str, str], kinds: tuple[str, str]
) -> tuple[Lab, list[Host], list[SteeredNode]]:
    """Servers, hosts and nodes, which end with the stack; what the nodes have said so far is read."""
    lab = await stack.enter_async_context(Lab())
    server = lab.add_host("server", ipv4=2)
    hosts = [lab.add_host(name, behind=kind) for name, kind in zip(names, kinds, strict=True)]
    broker, stun = await start_mosquitto(server), await start_coturn(server)
    nodes = [await stack.enter_async_context(await SteeredNode.launch(host)) for host in hosts]
    for node in nodes:
        await node.start(brokers=[broker.mqtt_url], stun=[str(stun.endpoint)])
        await node.trace()
    return lab, hosts, nodes


def _place(host: Host, kind: str) -> Place:
    return Place(host.name, kind, str(host.ipv4), _outside(host.routers))


def _mappings(hosts: Sequence[Host]) -> int:
    """How many mappings the NATs in front of these hosts have made so far."""
    counted = [router.counters().nat for host in hosts for router in host.routers]
    return sum(nat.mappings_created for nat in counted if nat is not None)


def _outside(routers: Sequence[Any]) -> str:
    external = [str(ip) for router in routers if router.nat is not None for ip in router.nat.external]
    return external[-1] if external else ""


def _start(traces: Sequence[Sequence[dict[str, Any]]]) -> float:
    starts = [row["now"] for row in traces[0] if row["event"] in ("PluginStarted", "PluginSkipped")]
    return min(starts, default=0.0)


def _moments(names: tuple[str, str], traces: Sequence[Sequence[dict[str, Any]]], start: float) -> tuple[Moment, ...]:
    moments = [
        Moment(row["now"] - start, name, row["event"], row.get("plugin", ""), _text(row))
        for name, trace in zip(names, traces, strict=True)
        for row in trace
        if row["now"] >= start  # what a node says when it has started is no part of the scene
    ]
    return tuple(sorted(moments, key=lambda moment: moment.at))


def _text(row: dict[str, Any]) -> str:
    for key in ("text", "reason", "kind"):
        if row.get(key):
            return str(row[key])
    return f"{row['local']} -> {row['remote']}" if "remote" in row and "local" in row else ""
