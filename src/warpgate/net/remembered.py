"""A resolver that is helped out by what names have led to before: DNS is often what is missing after a move."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress

# A resolver near enough to be of use has answered by then; one that is dead takes 5 to 30 s to say so.
PATIENCE = 0.5
# Names whose late answers are kept; a node's servers are a few dozen at most.
LATE_KEPT = 64

Resolve = Callable[[str, int], Awaitable[tuple[Endpoint, ...]]]


class RememberedNames:
    """`resolve` is as `Network.resolve`. `recall` gives the addresses that a name has had, the best first; `heard` is
    told what is made of a name.
    """

    def __init__(
        self,
        resolve: Resolve,
        recall: Callable[[str], Sequence[IPAddress]],
        heard: Callable[[str, tuple[IPAddress, ...]], None],
    ) -> None:
        self._resolve = resolve
        self._recall = recall
        self._heard = heard
        self._asking: set[asyncio.Task[tuple[Endpoint, ...]]] = set()
        self._late: dict[str, tuple[IPAddress, ...]] = {}

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        """The resolver's word, at once if it comes soon. When it fails, or is silent for `PATIENCE`: what is
        remembered, behind what it last said too late to be heard. NetworkError when there is nothing.
        """
        known = self._recall(host)
        if not known:
            return self._told(host, await self._resolve(host, port))
        asking = asyncio.ensure_future(self._ask(host, port))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        done, _ = await asyncio.wait({asking}, timeout=PATIENCE)
        if done and (found := asking.result()):
            self._late.pop(host, None)
            return found
        if not done:
            asking.add_done_callback(lambda task: self._too_late(host, task))
        ips = tuple(dict.fromkeys((*self._late.get(host, ()), *known)))
        self._heard(host, ips)
        return tuple(Endpoint(ip, port) for ip in ips)

    def close(self) -> None:
        """Nobody waits any more."""
        for asking in self._asking:
            asking.cancel()

    async def _ask(self, host: str, port: int) -> tuple[Endpoint, ...]:
        try:
            return self._told(host, await self._resolve(host, port))
        except NetworkError:
            return ()

    def _told(self, host: str, found: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        self._heard(host, tuple(endpoint.ip for endpoint in found))
        return found

    def _too_late(self, host: str, asking: asyncio.Task[tuple[Endpoint, ...]]) -> None:
        """What is remembered may be stale, and the resolver always this slow: the next attempt has its answer first."""
        if asking.cancelled() or not (found := asking.result()):
            return
        if host in self._late or len(self._late) < LATE_KEPT:
            self._late[host] = tuple(endpoint.ip for endpoint in found)
