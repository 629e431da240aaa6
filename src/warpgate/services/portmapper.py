"""Port mapping: makes the node's listening ports reachable through routers that cooperate.

Per route (one of our addresses and its default gateway) PCP or NAT-PMP is spoken to the gateway, and UPnP IGD
with what they leave unmapped; the first to map a transport keeps it. All of it goes on in the background:
`mapped` says what there is, `on_change` when that changes. Nothing is sent where there is no gateway.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from warpgate.errors import NetworkError, ServiceError
from warpgate.events import Observer, PortMapped, PortUnmapped, ServerFailed
from warpgate.model.endpoint import IPAddress, Transport
from warpgate.net.network import Interface, Network
from warpgate.services.portmap_board import Board, LeaseStore, Mapped, Route, routes_of
from warpgate.services.portmap_gateway import GatewayClient
from warpgate.services.portmap_igd import IgdClient

# Absence is trusted this long at first (Tailscale's portmapper: 5 s), as the network may just be coming up;
# asking doubles its pause up to the 10 minutes for which presence is trusted.
ABSENCE_TRUST = 5.0
PRESENCE_TRUST = 600.0
# PCP answers within milliseconds where it is spoken. Only after that is UPnP looked for: it multicasts, and one
# mapping takes half a dozen requests.
HEAD_START = 0.3
# A laptop visits many networks; permanent leases left there are deleted when it comes back.
MOST_REMEMBERED = 32
MOST_TOLD = 64  # reasons why a gateway does nothing; it may find new ones for ever
# What a close waits for in all; `Node.close` promises a second.
CLOSE_PATIENCE = 0.8


class PortMapper:
    """Life: `follow` (again after each change of interfaces or gateways), `close`."""

    def __init__(
        self,
        network: Network,
        port: int,
        store: LeaseStore,
        emit: Observer,
        on_change: Callable[[], None],
        random_bytes: Callable[[int], bytes],
        rng: random.Random,
        lease: int,
    ) -> None:
        """`port` is the node's, TCP and UDP. `lease` in seconds is asked for and renewed at its half."""
        self._network = network
        self._port = port
        self._store = store
        self._emit = emit
        self._on_change = on_change
        self._random_bytes = random_bytes
        self._rng = rng
        self._lease = lease
        self._elsewhere = self._saved = store.load()  # left by earlier runs, or on routes that are gone
        self._told: dict[tuple[str, str, str], None] = {}
        self._behind: dict[IPAddress, IPAddress] = {}
        self._closed = False
        self._mappers: dict[Route, _RouteMapper] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._known: dict[tuple[IPAddress, Transport], Mapped] = {}

    def follow(self, interfaces: Sequence[Interface]) -> None:
        """Map on the routes that these interfaces have now, anew where they look the same; drop the others."""
        routes = routes_of(interfaces, self._network)
        for route in [route for route in self._mappers if route not in routes]:
            mapper = self._mappers.pop(route)
            self._elsewhere += mapper.board.to_remember
            self._end(mapper.abandon())
        for route in routes:
            if route in self._mappers:
                self._mappers[route].look_again()
            else:
                self._mappers[route] = self._mapper(route)
        self._changed()

    @property
    def routes(self) -> tuple[Route, ...]:
        return tuple(self._mappers)

    def mapped(self, ip: IPAddress, transport: Transport) -> Mapped | None:
        """What reaches our listening port at `ip`, None as long as nothing is mapped."""
        return self._known.get((ip, transport))

    @property
    def mappings(self) -> tuple[Mapped, ...]:
        return tuple(self._known.values())

    def behind(self, ip: IPAddress) -> IPAddress | None:
        """The private external address of the gateway of `ip`, where that is why nothing is mapped."""
        return self._behind.get(ip)

    async def close(self) -> None:
        """Delete all mappings; takes at most 0.8 s. What could not be deleted stays remembered."""
        mappers, self._mappers = tuple(self._mappers.values()), {}
        self._closed = True
        tasks = [asyncio.ensure_future(mapper.release()) for mapper in mappers]
        tasks += self._ending
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_PATIENCE)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        self._save([mapper.board for mapper in mappers])

    def _mapper(self, route: Route) -> _RouteMapper:
        gateway = str(route.gateway.ip)
        earlier = tuple(left for left in self._elsewhere if left.gateway == gateway and left.internal.ip == route.ip)
        self._elsewhere = tuple(left for left in self._elsewhere if left not in earlier)
        board = Board(route, self._port, earlier, self._changed)
        refused = partial(self._refused, gateway)
        return _RouteMapper(self._network, board, self._lease, self._random_bytes, self._rng, refused)

    def _end(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _refused(self, gateway: str, protocol: str, reason: str) -> None:
        """Say it once: it is asked again for ever."""
        if (gateway, protocol, reason) not in self._told:
            self._told[gateway, protocol, reason] = None
            if len(self._told) > MOST_TOLD:
                del self._told[next(iter(self._told))]
            self._emit(ServerFailed("port mapping", f"{gateway} ({protocol})", reason))

    def _changed(self) -> None:
        if self._closed:
            return
        boards = [mapper.board for mapper in self._mappers.values()]
        self._save(boards)
        known = {(mapped.internal.ip, mapped.transport): mapped for board in boards for mapped in board.mapped}
        behind = {board.route.ip: board.behind for board in boards if board.behind is not None and not board.mapped}
        if (known, behind) == (self._known, self._behind):
            return
        self._behind = behind
        before, self._known = self._known, known
        for key, mapped in known.items():
            if before.get(key) != mapped:
                self._told = {told: None for told in self._told if told[0] != mapped.gateway}
                self._emit(_news(mapped))
        for key, mapped in before.items():
            if key not in known:
                self._emit(PortUnmapped(mapped.transport.value, str(mapped.internal), str(mapped.external)))
        self._on_change()

    def _save(self, boards: Sequence[Board]) -> None:
        leases = [lease for board in boards for lease in board.to_remember]
        leases += self._elsewhere[-MOST_REMEMBERED:]
        if (remembered := tuple(leases)) != self._saved:
            self._saved = remembered
            self._store.save(remembered)


def _news(mapped: Mapped) -> PortMapped:
    return PortMapped(
        mapped.protocol,
        mapped.gateway,
        mapped.transport.value,
        str(mapped.internal),
        str(mapped.external),
        mapped.lifetime,
    )


class _RouteMapper:
    """Two tasks for one route: PCP or NAT-PMP, and UPnP."""

    def __init__(
        self,
        network: Network,
        board: Board,
        lease: int,
        random_bytes: Callable[[int], bytes],
        rng: random.Random,
        on_refusal: Callable[[str, str], None],
    ) -> None:
        self.board = board
        self._refused = on_refusal
        told = partial(on_refusal, "PCP")
        self._open = partial(GatewayClient, network, board, lease, random_bytes, rng, told)
        self._client: GatewayClient | None = None
        self._igd = IgdClient(network, board, lease, rng)
        self._woken = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._gateway()), asyncio.ensure_future(self._upnp())]

    async def _gateway(self) -> None:
        pause = ABSENCE_TRUST
        while True:
            try:
                client = self._client = self._open()
            except NetworkError as error:  # the interface has just gone: the watcher will tell
                self._refused("PCP", str(error))
            else:
                await client.silent()
                client.close()
                self._client = None
                self._refused("PCP", "answers neither PCP nor NAT-PMP")
            pause = await self._wait(pause)

    async def _upnp(self) -> None:
        await asyncio.sleep(HEAD_START)
        pause = ABSENCE_TRUST
        while True:
            try:
                await self._igd.serve()
            except ServiceError as error:
                self._refused("UPnP", str(error))
            pause = await self._wait(ABSENCE_TRUST if self._igd.useful else pause, self._igd.renewal_in())

    async def _wait(self, pause: float, at_most: float = math.inf) -> float:
        """Until `pause` or `at_most` is over, or the network changed; returns the next pause."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(pause, at_most)):
                await self._woken.wait()
        return ABSENCE_TRUST if self._woken.is_set() else min(2 * pause, PRESENCE_TRUST)

    def look_again(self) -> None:
        """Something about the network changed, though this route looks the same."""
        self._woken.set()
        asyncio.get_running_loop().call_soon(self._woken.clear)
        self._igd.renew_soon()
        if self._client is not None:
            self._client.renew()

    async def release(self) -> None:
        """Delete what is mapped, and stop."""
        await self._stop()
        client, self._client = self._client, None
        work = [self._igd.release()] + ([] if client is None else [client.release()])
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, ServiceError):
                self._refused("UPnP", str(result))
            elif isinstance(result, BaseException):
                raise result

    async def abandon(self) -> None:
        """The route is gone, and with it the way to delete anything."""
        await self._stop()
        self._igd.abandon()
        if self._client is not None:
            self._client.close()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
