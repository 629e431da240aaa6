"""Two nodes at two sites, with a STUN server and a broker between them."""

from __future__ import annotations

import asyncio
import random
from typing import Self

from warpgate.config import Config
from warpgate.core.context import Sources
from warpgate.core.node import Node
from warpgate.events import Event
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, MemoryRouter, PathSpec
from warpgate_testing.servers import MemoryBroker, MemoryBrokers, MemoryStun

EPOCH = 1_800_000_000.0  # when the virtual clock began, in Unix seconds
STUN_IPS = ("203.0.113.1", "203.0.113.2")
STUN, STUN_ALTERNATE = f"{STUN_IPS[0]}:3478", f"{STUN_IPS[1]}:3479"
BROKER = "mqtt://203.0.113.8:1883"
REPEATED = 0.24  # TCP repeats what was lost after 200 ms and a round trip (Linux's TCP_RTO_MIN)
SETTLED = 8.0  # the tests of RFC 5780 that end in silence are over by then


class Pair:
    """`async with Pair("eim-apdf", "public") as pair`: nodes `pair.a` and `pair.b` are up and know their NATs.

    The kinds are those of `warpgate lab kinds`. `delay` is one way between any two sites, and to the broker, in
    seconds. `loss`: of each site's own link, in each direction, from when both are up; a signal that meets it is late,
    since brokers are spoken to over TCP. At the end everything must be closed: AssertionError with what is not.
    """

    def __init__(self, kind_a: str, kind_b: str, *, delay: float = 0.02, loss: float = 0.0, seed: int = 0) -> None:
        self.internet = MemoryInternet(seed, PathSpec(delay=delay))
        self.events: dict[str, list[Event]] = {"a": [], "b": []}
        self._rng = random.Random(seed)
        self._delay, self._loss = delay, loss
        self._broker = MemoryBroker(BROKER, one_way=delay, rng=random.Random(seed), lag=self._lag)
        self._sites: list[MemoryNetwork | MemoryRouter] = []
        self._stun_host = self.internet.host("stun", *STUN_IPS)
        self.a = self._node("a", kind_a, 1)
        self.b = self._node("b", kind_b, 2)

    def _node(self, name: str, kind: str, number: int) -> Node:
        network, router = self.internet.site(name, kind, number)
        self._sites.append(router or network)
        return Node(
            Config(brokers=(BROKER,), stun=(STUN,)),
            identity=Identity.generate(),
            network=network,
            brokers=MemoryBrokers(self._broker),
            observer=self.events[name].append,
            sources=Sources(self._rng.randbytes, lambda: EPOCH + asyncio.get_running_loop().time()),
        )

    async def __aenter__(self) -> Self:
        self._stun = MemoryStun(self._stun_host, Endpoint.parse(STUN), Endpoint.parse(STUN_ALTERNATE))
        await asyncio.gather(self.a.start(), self.b.start())
        await asyncio.sleep(SETTLED)
        one, other = self._sites
        self._lose(one, other, 1 - (1 - self._loss) ** 2)
        for site in self._sites:
            self._lose(site, self._stun_host, self._loss)
        return self

    def _lose(self, one: MemoryNetwork | MemoryRouter, other: MemoryNetwork | MemoryRouter, loss: float) -> None:
        self.internet.set_path(one, other, PathSpec(delay=self._delay, loss=loss))

    def _lag(self) -> float:
        """There and on: a link each."""
        return sum(REPEATED for _ in self._sites if self._rng.random() < self._loss)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.a.close()
        await self.b.close()
        await self._stun.close()
        if kind is None and (left := self.internet.open_sockets()):
            raise AssertionError(f"still open: {', '.join(map(str, left))}")
