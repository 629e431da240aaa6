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
from warpgate_testing.internet import MemoryInternet, PathSpec
from warpgate_testing.servers import MemoryBroker, MemoryBrokers, MemoryStun

EPOCH = 1_800_000_000.0  # when the virtual clock began, in Unix seconds
STUN_IPS = ("203.0.113.1", "203.0.113.2")
STUN, STUN_ALTERNATE = f"{STUN_IPS[0]}:3478", f"{STUN_IPS[1]}:3479"
BROKER = "mqtt://203.0.113.8:1883"
SETTLED = 8.0  # the tests of RFC 5780 that end in silence are over by then


class Pair:
    """`async with Pair("eim-apdf", "public") as pair`: nodes `pair.a` and `pair.b` are up and know their NATs.

    The kinds are those of `warpgate lab kinds`. `delay` is one way between any two sites, and to the broker, in
    seconds. At the end everything must be closed: AssertionError with what is not.
    """

    def __init__(self, kind_a: str, kind_b: str, *, delay: float = 0.02, seed: int = 0) -> None:
        self.internet = MemoryInternet(seed, PathSpec(delay=delay))
        self.events: dict[str, list[Event]] = {"a": [], "b": []}
        self._rng = random.Random(seed)
        self._broker = MemoryBroker(BROKER, one_way=delay, rng=random.Random(seed))
        self._stun_host = self.internet.host("stun", *STUN_IPS)
        self.a = self._node("a", kind_a, 1)
        self.b = self._node("b", kind_b, 2)

    def _node(self, name: str, kind: str, number: int) -> Node:
        network, _ = self.internet.site(name, kind, number)
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
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.a.close()
        await self.b.close()
        await self._stun.close()
        if kind is None and (left := self.internet.open_sockets()):
            raise AssertionError(f"still open: {', '.join(map(str, left))}")
