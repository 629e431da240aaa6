"""Whole nodes at two sites of an internet in memory, in virtual time, and the question that ends every test: is
anything left open?

Everybody is 20 ms from everybody, so with the names of the README: r = 20 ms, R = 40 ms, and a signal that goes
through a broker takes s = 40 ms.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, Self, TypeVar
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.config import Config, Timing
from warpgate.core.context import Sources
from warpgate.core.node import Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.search.links import TcpLink
from warpgate.core.search.session import Session
from warpgate.errors import PipeClosed
from warpgate.events import Event
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.identity import Identity
from warpgate.plugins.registry import REGISTRY, Registry
from warpgate.proto.check import CheckEvent
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, MemoryRouter, OpenSocket, PathSpec
from warpgate_testing.servers import MemoryBroker, MemoryBrokers, MemoryStun

T = TypeVar("T")
Options = dict[str, Any]

# What `connect` is asked for, and who then wins the punch.
OVER_UDP: Options = {"mode": Mode.DATAGRAM}
OVER_TCP: Options = {"mode": Mode.STREAM, "transport": Transport.TCP}
BOTH_WAYS = [pytest.param(OVER_UDP, id="udp"), pytest.param(OVER_TCP, id="tcp")]

# What `warpgate connect` asks for, too.
LASTING: Options = {"durable": True}
ALL_WAYS = [*BOTH_WAYS, pytest.param(LASTING, id="durable")]

EPOCH = 1_800_000_000.0  # when the virtual clock began, in Unix seconds
HOP = 0.02
R = 2 * HOP
S = 2 * HOP  # one way, over a broker

STUN = "203.0.113.1:3478"
STUN_2 = "203.0.113.2:3479"
URLS = ("mqtt://203.0.113.8:1883", "mqtt://203.0.113.9:1883")
# The RFC 5780 tests that end in silence (retransmissions up to 5 s) are over by then.
FINGERPRINTED = 8.0


@cache
def identity(name: str) -> Identity:
    """The same key in every run: ports and node ids are then the same, too."""
    secret = int.from_bytes(name.encode(), "big") + 1
    return Identity(ec.derive_private_key(secret, ec.SECP256R1()))


class Seat:
    """One node, its host, and everything it said."""

    def __init__(
        self, world: World, name: str, network: MemoryNetwork, config: Config, registry: Registry, *, key: str = ""
    ) -> None:
        """`key`: whose identity it has, another process of that one's."""
        self.name = name
        self.network = network
        self.events: list[Event] = []
        self.loop_errors = world.loop_errors
        # Whatever a node draws at random is the same in every run; its wall clock is the virtual one, perhaps off.
        self.clock_error = 0.0
        sources = Sources(
            random.Random(f"{name} {world.rng.random()}").randbytes,
            lambda: EPOCH + asyncio.get_running_loop().time() + self.clock_error,
        )
        self.node = Node(
            config,
            identity=identity(key or name),
            network=network,
            brokers=MemoryBrokers(*world.brokers),
            observer=self.events.append,
            registry=registry,
            sources=sources,
        )

    @property
    def run(self) -> Any:
        """White box: its books of sessions must be empty in the end."""
        return self.node._run

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.node.status().counts)

    def said(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def signals(self) -> Counter[str]:
        """What it sent over brokers, by kind."""
        return Counter(event.kind for event in self.events if type(event).__name__ == "SignalSent")


class World:
    """`async with World("eim", "edm") as world`: nodes `world.a` and `world.b` are up and know their NATs."""

    def __init__(
        self,
        kind_a: str = "eim",
        kind_b: str = "eim",
        *,
        seed: int = 0,
        loss: float = 0.0,
        brokers: int = 1,
        lag: Callable[[], float] | None = None,
        config_a: Config | None = None,
        config_b: Config | None = None,
        registry: Registry = REGISTRY,
        settle: float = FINGERPRINTED,
        v6: bool = False,
        neighbours: bool = False,
    ) -> None:
        """Kinds as in `lab.kinds`. `v6`: the sites have IPv6 as well. `neighbours`: b is in a's network."""
        self.rng = random.Random(seed)
        self.internet = MemoryInternet(seed=seed, path=PathSpec(delay=HOP))
        self.loss = loss
        self.loop_errors: list[dict[str, Any]] = []
        self._stack = ExitStack()
        self._settle = settle
        self.brokers = [
            MemoryBroker(url, one_way=HOP, rng=random.Random(seed), **({} if lag is None else {"lag": lag}))
            for url in URLS[:brokers]
        ]
        self.routers: dict[str, MemoryRouter] = {}
        base = Config(brokers=tuple(URLS[:brokers]), stun=(STUN,))
        self.stun_host = self.internet.host("stun", "203.0.113.1", "203.0.113.2")
        hosts = {"a": self._site("a", kind_a, 1, v6)}
        if neighbours:
            hosts["b"] = self.internet.host("b", "192.168.1.3", behind=self.routers["a"])
        else:
            hosts["b"] = self._site("b", kind_b, 2, v6)
        self.hosts = hosts
        self.a = Seat(self, "a", hosts["a"], _merged(base, config_a), registry)
        self.b = Seat(self, "b", hosts["b"], _merged(base, config_b), registry)

    def _site(self, name: str, kind: str, number: int, v6: bool) -> MemoryNetwork:
        host, router = self.internet.site(name, kind, number, v6=v6)
        if router is not None:
            self.routers[name] = router
        return host

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.loop_errors.append(context))
        # What a node draws for itself (keepalive jitter, back-off) must not differ from run to run either.
        self._stack.enter_context(
            mock.patch(
                "warpgate.core.assembly.random",
                SimpleNamespace(Random=lambda: random.Random(self.rng.random())),
            )
        )
        self.stun = MemoryStun(self.stun_host, Endpoint.parse(STUN), Endpoint.parse(STUN_2))
        await asyncio.gather(self.a.node.start(), self.b.node.start())
        await asyncio.sleep(self._settle)
        if self.loss:
            self.lose(self.loss)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                await self.finish()
            else:
                await self.close()

    def lose(self, loss: float) -> None:
        """On every path, from now on."""
        places: list[Any] = [self.stun_host]
        places += [self.routers.get(name, host) for name, host in self.hosts.items()]
        for one in places:
            for other in places:
                if one is not other:
                    self.internet.set_path(one, other, PathSpec(delay=HOP, loss=loss))

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- ending ----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await self.a.node.close()
        await self.b.node.close()
        await self.stun.close()

    def listeners(self) -> set[tuple[str, str, Endpoint]]:
        """What belongs to nodes that run, and to the STUN server."""
        own = {("stun", "udp", Endpoint.of(ip, port)) for ip in ("203.0.113.1", "203.0.113.2") for port in (3478, 3479)}
        own.add(("stun", "listener", Endpoint.parse(STUN)))
        for seat in (self.a, self.b):
            if seat.node._running is not None:
                for at in seat.node.address.attachments:
                    base = Endpoint(at.host, seat.node.port)
                    own |= {(seat.name, "udp", base), (seat.name, "listener", base)}
        return own

    def strays(self) -> list[OpenSocket]:
        """Sockets that no listener, STUN connection or server accounts for: pipes, and leaks."""
        own = self.listeners()
        return [
            entry
            for entry in self.internet.open_sockets()
            if (entry.host, entry.kind, entry.local) not in own
            and entry.host != "stun"
            and not self._kept(entry)
            and not (entry.remote is not None and entry.remote.port in (3478, 3479))
        ]

    def _kept(self, entry: OpenSocket) -> bool:
        """A socket of a pipe that is over, in case its peer comes again."""
        return any(
            entry.host == seat.name and seat.node._running is not None and entry.local in seat.run.udp.kept
            for seat in (self.a, self.b)
        )

    async def quiet(self, patience: float = Timing().responder_patience + 10.0) -> None:
        """Wait (virtually) until sessions and sockets of attempts are gone; fails when they stay."""
        for _ in range(int(patience / 0.25)):
            if not self.leftovers():
                return
            await asyncio.sleep(0.25)
        assert self.leftovers() == []

    def leftovers(self) -> list[object]:
        """Sessions, checks and sockets that outlive their attempts. Empty once all pipes are closed."""
        found: list[object] = list(self.strays())
        for seat in (self.a, self.b):
            if seat.node._running is not None:
                found += [("session", seat.name, key) for key in seat.run.sessions.ids]
                found += [("checks", seat.name, key) for key in seat.run.udp.sessions]
        return found

    async def finish(self) -> None:
        """Close both nodes and the servers: no socket, task, broker client or loop error may be left."""
        await self.close()
        self.assert_closed()

    def assert_closed(self) -> None:
        assert self.internet.open_sockets() == ()
        current = asyncio.current_task()
        assert [str(task) for task in asyncio.all_tasks() if task is not current] == []
        assert [broker.clients for broker in self.brokers] == [0] * len(self.brokers)
        assert self.loop_errors == [], self.loop_errors  # no test module: pytest would not say which


class Indifferent:
    """Owns sessions that are made by hand, and does nothing about them."""

    def check_event(self, event: CheckEvent) -> None: ...

    def knowledge_changed(self) -> None: ...

    def refused(self, reason: str) -> None: ...

    def keep_link(self, link: TcpLink) -> bool:
        return False

    def tcp_may_come(self) -> bool:
        return False


def hosted_by(seat: Seat, number: int, peer_key: bytes) -> Session:
    """A session that a peer might have begun with this node."""
    return Session(
        seat.run.equipment,
        Indifferent(),
        bytes([number]) * 16,
        peer_key,
        bytes(32),
        initiator=False,
        mode=Mode.DATAGRAM,
        remote=None,
    )


def _merged(base: Config, wanted: Config | None) -> Config:
    """`wanted` with the world's servers unless it names its own."""
    if wanted is None:
        return base
    return replace(
        wanted,
        brokers=base.brokers if wanted.brokers is None else wanted.brokers,
        stun=base.stun if wanted.stun is None else wanted.stun,
    )


def virtual(main: Callable[[], Coroutine[Any, Any, T]], limit: float = 600.0) -> T:
    """Run in virtual time."""
    return run_virtual(main(), limit=limit)


async def exchange(one: Pipe, other: Pipe) -> None:
    """Both directions carry data."""
    for sender, receiver, data in ((one, other, b"to the responder"), (other, one, b"to the initiator")):
        await sender.send(data)
        assert await receiver.recv(timeout=5.0) == data


async def connected(world: World, address: NodeAddress | None = None, **options: Any) -> tuple[Pipe, Pipe, float]:
    """a connects to b, by another address than b has now if given: both ends, and the seconds that a's user waited."""
    began = world.now
    pipe = await world.a.node.connect(world.b.node.address if address is None else address, **options)
    seconds = world.now - began
    async with asyncio.timeout(10):
        other = await world.b.node.accept()
    assert pipe.session == other.session
    assert (pipe.peer, other.peer) == (world.b.node.node_id, world.a.node.node_id)
    return pipe, other, seconds


async def ends(pipe: Pipe, patience: float = 90.0) -> bool:
    """Whether receiving comes to an end (EOF or PipeClosed) in time."""
    try:
        async with asyncio.timeout(patience):
            while True:
                data = await pipe.recv()
                if not data and pipe.mode is Mode.STREAM:
                    return True
    except PipeClosed:
        return True
    except TimeoutError:
        return False
