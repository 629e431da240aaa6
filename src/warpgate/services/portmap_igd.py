"""Port mapping by UPnP: keeps mapped at the gateway what nothing better maps, and clears up after earlier runs."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.services.portmap_board import Board, Mapped, Remembered
from warpgate.services.upnp import Igd, Pinholes, find

STORED_AS = "upnp"
# A device once found is asked directly for that long; then it is searched again (Tailscale trusts it 10 min).
PRESENCE_TRUST = 600.0


class IgdClient:
    """Life: `serve` as a task of the owner, again after it has failed; `release` after that was cancelled."""

    def __init__(self, board: Board, lease: int, rng: random.Random) -> None:
        self._board = board
        self._lease = lease
        self._rng = rng
        self._igd: Igd | Pinholes | None = None
        self._found_at = 0.0
        self._renewals: dict[Transport, float] = {}

    @property
    def present(self) -> bool:
        """Whether a gateway answered when it was last asked."""
        return self._igd is not None

    async def serve(self) -> None:
        """For ever. ServiceError when there is no such gateway, or it does nothing for us."""
        while True:
            while not (self._board.missing or self._renewals or self._stale()):
                await self._board.moved()
            igd = await self._device()
            for left in self._stale():
                with suppress(ServiceError):  # gone already, most likely
                    await igd.unmap(left.transport, left.external_port)
                self._board.settle(left)
            for transport in self._board.missing:
                await self._map(igd, transport)
            await self._pause()
            await self._renew()

    async def release(self) -> None:
        """Delete what is mapped by us. ServiceError when the gateway does not do it."""
        igd, self._igd = self._igd, None
        for transport in tuple(self._renewals):
            mapped = self._board.get(transport)
            if igd is not None and mapped is not None:
                await igd.unmap(transport, mapped.external.port)
                self._drop(transport)

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
        if self._igd is None or now > self._found_at + PRESENCE_TRUST:
            self._igd = None
            route = self._board.route
            self._igd = await find(route, self._rng)
            self._found_at = now
        return self._igd

    async def _map(self, igd: Igd | Pinholes, transport: Transport) -> None:
        internal = self._board.internal()
        lease = await igd.map(transport, internal, self._first_choice(transport), self._lease)
        if not await self._offer(igd, transport, lease.external_port, lease.lifetime):
            other = self._board.get(transport)
            # Where both protocols lead to one table, deleting the same port would delete the other's mapping.
            if other is None or other.external.port != lease.external_port:
                await igd.unmap(transport, lease.external_port)

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

    async def _offer(self, igd: Igd | Pinholes, transport: Transport, port: int, lifetime: float) -> bool:
        board = self._board
        gateway = str(board.route.gateway.ip)
        external = Endpoint(await igd.external_ip(), port)
        mapped = Mapped(transport, board.internal(), external, igd.name, gateway, lifetime)
        if not board.offer(mapped, Remembered(STORED_AS, gateway, transport, board.internal(), port)):
            return False
        for left in board.earlier:
            if (left.protocol, left.transport, left.external_port) == (STORED_AS, transport, port):
                board.settle(left)
        # A permanent lease is looked after as well: a router that restarts may forget it.
        now = asyncio.get_running_loop().time()
        self._renewals[transport] = now + (lifetime or self._lease) / 2
        return True

    async def _pause(self) -> None:
        """Until a renewal is due, or something else has changed."""
        due = min(self._renewals.values(), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._board.moved()

    async def _renew(self) -> None:
        for transport, due in tuple(self._renewals.items()):
            mapped = self._board.get(transport)
            if mapped is None:
                del self._renewals[transport]
                continue
            if asyncio.get_running_loop().time() < due:
                continue
            try:
                await self._renew_one(mapped)
            except ServiceError:
                # It may have restarted, and listen elsewhere: search before giving up.
                self._igd = None
                try:
                    await self._renew_one(mapped)
                except ServiceError:
                    self._drop(transport)
                    raise

    async def _renew_one(self, mapped: Mapped) -> None:
        igd = await self._device()
        lease = await igd.renew(mapped.transport, mapped.internal, mapped.external.port, self._lease)
        await self._offer(igd, mapped.transport, lease.external_port, lease.lifetime)

    def renew_soon(self) -> None:
        """The network may have changed: ask the gateway again."""
        now = asyncio.get_running_loop().time()
        self._igd = None
        self._renewals = dict.fromkeys(self._renewals, now)
        self._board.nudge()

    def _drop(self, transport: Transport) -> None:
        self._renewals.pop(transport, None)
        mapped = self._board.get(transport)
        if mapped is not None:
            self._board.withdraw(transport, mapped.protocol)
