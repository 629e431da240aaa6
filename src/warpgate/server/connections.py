"""How many connections a name server keeps open, in all and to one network; aiohttp counts neither."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import cast

from warpgate.server.limits import Limits, network_of
from warpgate.server.metrics import Metrics


class Doorkeeper:
    """Stands between the listening socket and the HTTP protocol. Counts no networks where all clients are one proxy."""

    def __init__(self, limits: Limits, metrics: Metrics, *, behind_proxy: bool) -> None:
        self._most = limits.connections
        self._most_each = None if behind_proxy else limits.connections_per_network
        self._metrics = metrics
        self._open: Counter[str] = Counter()

    def admit(self, network: str) -> bool:
        """If so, `leave` must follow."""
        full = self._metrics.connections >= self._most
        if full or (self._most_each is not None and self._open[network] >= self._most_each):
            self._metrics.connections_refused += 1
            return False
        self._metrics.connections += 1
        self._open[network] += 1
        return True

    def leave(self, network: str) -> None:
        self._metrics.connections -= 1
        self._open[network] -= 1
        if not self._open[network]:
            del self._open[network]


class CountedConnection(asyncio.Protocol):
    """Passes everything on to the protocol it makes, once it is let in; else closes without a word."""

    def __init__(self, door: Doorkeeper, make: Callable[[], asyncio.Protocol]) -> None:
        self._door = door
        self._make = make
        self._network = ""
        self._inner: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._network = network_of(peer[0] if peer else "")
        if not self._door.admit(self._network):
            cast("asyncio.Transport", transport).abort()
            return
        self._inner = self._make()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is not None:
            self._inner.connection_lost(exc)
            self._inner = None
            self._door.leave(self._network)
