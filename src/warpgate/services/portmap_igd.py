"""Port mapping by UPnP: keeps mapped at the gateway what nothing better maps, and clears up after earlier runs."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import suppress

from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.net.network import Network
from warpgate.proto.igd import MOST_SERVICES, Service
from warpgate.services.portmap_board import Board, Mapped, Outside, Remembered, judge
from warpgate.services.upnp import ActionRefused, Igd, Pinholes, find

STORED_AS = "upnp"
FAMILY = "UPnP"  # what the names of its versions begin with
# A device once found is asked directly for that long; then it is searched again (Tailscale trusts it 10 min).
PRESENCE_TRUST = 600.0


class IgdClient:
    """Life: `serve` as a task of the owner, again after it has failed; `release` after that was cancelled."""

    def __init__(self, network: Network, board: Board, lease: int, rng: random.Random) -> None:
        self._network = network
        self._board = board
        self._lease = lease
        self._rng = rng
        # What was found last; it is asked for deletions even if it was not found again when that was due.
        self._igd: Igd | Pinholes | None = None
        self._search_at = 0.0
        # What did nothing for us: the router may have another service that does. When none does, all have their turn
        # again: what is mended, or was out of order while the network came up, is found.
        self._in_vain: set[Service] = set()
        self._renewals: dict[Transport, float] = {}
        # Whether anything was mapped or renewed since `serve` began.
        self.useful = False

    def renewal_in(self) -> float:
        """Seconds until a lease is to be renewed; infinite when there is none."""
        due = min(self._renewals.values(), default=math.inf)
        return due - asyncio.get_running_loop().time()

    async def serve(self) -> None:
        """For ever. ServiceError when there is no such gateway, or it does not do all that is to be done.

        One transport that fails does not keep the other from being renewed.
        """
        self.useful = False
        while True:
            while not (self._board.missing or self._renewals or self._stale()):
                await self._board.moved()
            igd = await self._device()
            for left in self._stale():
                if await self._unmapped(igd, left.transport, left.internal, left.external_port):
                    self._board.settle(left)
            await self._clear_doubts(igd)
            failures = await self._renew_due() + await self._map_missing()
            if failures:
                if not self._renewals:
                    if igd.service in self._in_vain or len(self._in_vain) >= MOST_SERVICES:
                        self._in_vain.clear()
                    self._in_vain.add(igd.service)
                    self._search_at = 0.0
                raise failures[0]
            await self._pause()

    async def release(self) -> None:
        """Delete what is mapped by us, or may be. ServiceError when the gateway does not do it."""
        igd, self._igd = self._igd, None
        if igd is None:
            return
        work = [self._clear_doubts(igd)] + [self._delete(igd, transport) for transport in self._renewals]
        try:
            for result in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        finally:
            igd.abandon()
            gateway, internal = str(self._board.route.gateway.ip), self._board.internal()
            for transport, port in igd.doubtful:  # for the next run to clear up
                self._board.earlier += (Remembered(STORED_AS, gateway, transport, internal, port),)

    def abandon(self) -> None:
        """The route is gone, and with it the way to delete anything."""
        if self._igd is not None:
            self._igd.abandon()

    async def _delete(self, igd: Igd | Pinholes, transport: Transport) -> None:
        mapped = self._ours(transport)
        if mapped is not None:
            await igd.unmap(transport, mapped.internal, mapped.external.port)
        self._drop(transport)

    def _ours(self, transport: Transport) -> Mapped | None:
        """What is mapped by UPnP; the other protocol may have taken it over."""
        mapped = self._board.get(transport)
        return mapped if mapped is not None and mapped.protocol.startswith(FAMILY) else None

    async def _clear_doubts(self, igd: Igd | Pinholes) -> None:
        """What was asked for and not answered must not stay; but one that is known to be ours by now does."""
        for transport, port in tuple(igd.doubtful):
            mapped = self._board.get(transport)
            if (mapped is not None and mapped.external.port == port) or await self._unmapped(
                igd, transport, self._board.internal(), port
            ):
                igd.doubtful.discard((transport, port))

    async def _unmapped(self, igd: Igd | Pinholes, transport: Transport, internal: Endpoint, port: int) -> bool:
        """Whether nothing more can be done about it: it is gone, or the gateway will not have it deleted."""
        try:
            await igd.unmap(transport, internal, port)
        except ActionRefused:
            pass
        except ServiceError:
            return False
        return True

    def _stale(self) -> tuple[Remembered, ...]:
        """What an earlier run left and nobody uses now. A permanent lease would stay for ever."""
        return tuple(
            left
            for left in self._board.earlier
            if left.protocol == STORED_AS and not self._in_use(left) and left.internal != self._wanted(left)
        )

    def _in_use(self, left: Remembered) -> bool:
        mapped = self._board.get(left.transport)
        return mapped is not None and mapped.external.port == left.external_port

    def _wanted(self, left: Remembered) -> Endpoint | None:
        """Its internal endpoint if that is to be mapped still: then it is renewed, not deleted."""
        return self._board.internal() if left.transport in self._board.missing else None

    async def _device(self) -> Igd | Pinholes:
        now = asyncio.get_running_loop().time()
        if self._igd is None or now >= self._search_at:
            igd = await find(self._network, self._board.route, self._rng, self._in_vain)
            if self._igd is not None:
                igd.doubtful |= self._igd.doubtful
            self._igd, self._search_at = igd, now + PRESENCE_TRUST
        return self._igd

    async def _map_missing(self) -> list[ServiceError]:
        failures = []
        for transport in self._board.missing:
            try:
                await self._map(await self._device(), transport)
            except ServiceError as error:
                failures.append(error)
        return failures

    async def _map(self, igd: Igd | Pinholes, transport: Transport) -> None:
        # Asked first: where the gateway is not connected, nothing is to be left mapped.
        outside = await self._outside(igd)
        internal = self._board.internal()
        lease = await igd.map(transport, internal, self._first_choice(transport), self._lease)
        if not self._offer(igd, transport, Endpoint(outside, lease.external_port), lease.lifetime):
            other = self._board.get(transport)
            # Where both protocols lead to one table, deleting the same port would delete the other's mapping.
            if other is None or other.external.port != lease.external_port:
                await igd.unmap(transport, internal, lease.external_port)

    async def _outside(self, igd: Igd | Pinholes) -> IPAddress:
        """The gateway's external address. ServiceError where nobody outside could use it."""
        ip = await igd.external_ip()
        verdict = judge(ip, self._board.route.ip)
        if verdict is Outside.PRIVATE and ip is not None:
            self._board.is_behind(ip)
        if verdict is not Outside.USABLE or ip is None:
            raise ServiceError(f"{igd.name}: {verdict.value}" + (f" ({ip})" if ip is not None else ""))
        return ip

    def _first_choice(self, transport: Transport) -> int:
        """The external port of an earlier run, else our own port number."""
        for left in self._board.earlier:
            if (left.protocol, left.transport, left.internal) == (
                STORED_AS,
                transport,
                self._board.internal(),
            ):
                return left.external_port
        return self._board.port

    def _offer(self, igd: Igd | Pinholes, transport: Transport, external: Endpoint, lifetime: float) -> bool:
        board, port = self._board, external.port
        gateway = str(board.route.gateway.ip)
        mapped = Mapped(transport, board.internal(), external, igd.name, gateway, lifetime)
        if not board.offer(mapped, Remembered(STORED_AS, gateway, transport, board.internal(), port)):
            return False
        for left in board.earlier:
            if (left.protocol, left.transport, left.external_port) == (STORED_AS, transport, port):
                board.settle(left)
        # A permanent lease is looked after as well: a router that restarts may forget it.
        now = asyncio.get_running_loop().time()
        self._renewals[transport] = now + (lifetime or self._lease) / 2
        self.useful = True
        return True

    async def _pause(self) -> None:
        """Until a renewal is due, or something else has changed."""
        due = min(self._renewals.values(), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._board.moved()

    async def _renew_due(self) -> list[ServiceError]:
        failures = []
        for transport, due in tuple(self._renewals.items()):
            mapped = self._ours(transport)
            if mapped is None:
                del self._renewals[transport]
            elif due <= asyncio.get_running_loop().time():
                try:
                    await self._renew(mapped)
                except ServiceError as error:
                    self._drop(transport)
                    failures.append(error)
        return failures

    async def _renew(self, mapped: Mapped) -> None:
        try:
            await self._renew_one(mapped)
        except ServiceError:
            # It may have restarted, and listen elsewhere: search before giving up.
            self._search_at = 0.0
            await self._renew_one(mapped)

    async def _renew_one(self, mapped: Mapped) -> None:
        igd, transport = await self._device(), mapped.transport
        try:
            outside = await self._outside(igd)
            asked = self._lease if mapped.lifetime else 0
            lease = await igd.renew(transport, mapped.internal, mapped.external.port, asked)
        except ServiceError:
            igd.doubtful.add((transport, mapped.external.port))
            raise
        igd.doubtful.discard((transport, mapped.external.port))
        self._offer(igd, transport, Endpoint(outside, lease.external_port), lease.lifetime)

    def renew_soon(self) -> None:
        """The network may have changed: ask the gateway again."""
        now = asyncio.get_running_loop().time()
        self._search_at = now
        self._renewals = dict.fromkeys(self._renewals, now)
        self._board.nudge()

    def _drop(self, transport: Transport) -> None:
        self._renewals.pop(transport, None)
        mapped = self._ours(transport)
        if mapped is not None:
            self._board.withdraw(transport, mapped.protocol)
