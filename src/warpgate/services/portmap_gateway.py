"""Port mapping by PCP and NAT-PMP: one socket and one machine towards one gateway."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from warpgate.model.endpoint import Endpoint, SockAddr, Transport
from warpgate.net.driver import MachineDriver
from warpgate.net.network import Network, UdpSocket
from warpgate.proto.machine import Transmit
from warpgate.proto.portmap import PortMapClient
from warpgate.proto.portmap_events import AllReleased, Granted, Lost, PortMapEvent, Refused, Silent, Wish
from warpgate.proto.portmap_wire import NONCE_SIZE, SERVER_PORT
from warpgate.services.portmap_board import Board, Mapped, Outside, Remembered, judge

STORED_AS = "pcp"
# How long a close waits for deletions to be acknowledged: a gateway is one hop away, and three were sent by then.
RELEASE_PATIENCE = 0.6


class GatewayClient:
    """Life: made (asks at once), `silent` ends when nobody answers, `release` or `close`."""

    def __init__(
        self,
        network: Network,
        board: Board,
        lease: int,
        random_bytes: Callable[[int], bytes],
        rng: random.Random,
        on_refusal: Callable[[str], None],
    ) -> None:
        """NetworkError when no socket can be had."""
        self._board = board
        self._on_refusal = on_refusal
        self._nothing_said: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._protocols: dict[Transport, str] = {}
        self._wishes = tuple(self._wish(transport, random_bytes) for transport in Transport)
        gateway = board.route.gateway.ip
        self._to: SockAddr = (str(gateway), SERVER_PORT)  # a link-local gateway's scope is in its text
        self._socket: UdpSocket = network.open_udp(Endpoint(board.route.ip, 0), self._received)
        self._machine = PortMapClient(
            self._socket.local,
            Endpoint.of(gateway, SERVER_PORT),
            self._wishes,
            lease,
            rng.random(),
            asyncio.get_running_loop().time(),
            self._stale(),
        )
        self._driver: MachineDriver[PortMapEvent, Transmit] = MachineDriver(
            self._machine, self._transmit, self._happened
        )
        self._machine.handle_timeout(self._driver.now())
        self._driver.drain()

    async def silent(self) -> None:
        """Until it is clear that nobody speaks PCP or NAT-PMP there."""
        await self._nothing_said

    def renew(self) -> None:
        self._machine.renew(self._driver.now())
        self._driver.drain()

    async def release(self) -> None:
        """Delete what is mapped, wait a little for the acknowledgement, close."""
        try:
            self._machine.release(self._driver.now())
            self._driver.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_PATIENCE):
                    await self._released
        finally:
            self.close()

    def close(self) -> None:
        """Without a goodbye; idempotent."""
        self._driver.close()
        self._socket.close()
        for transport, protocol in self._protocols.items():
            self._board.withdraw(transport, protocol)

    def _wish(self, transport: Transport, random_bytes: Callable[[int], bytes]) -> Wish:
        """With the nonce of an earlier run where there is one: only that may renew or delete what it left."""
        port = self._board.port
        for left in self._board.earlier:
            if left.protocol == STORED_AS and (left.transport, left.internal.port) == (transport, port):
                return Wish(transport, port, left.nonce, left.external_port)
        return Wish(transport, port, random_bytes(NONCE_SIZE), port)

    def _stale(self) -> tuple[Wish, ...]:
        return tuple(
            Wish(left.transport, left.internal.port, left.nonce)
            for left in self._board.earlier
            if left.protocol == STORED_AS and left.internal.port != self._board.port
        )

    def _received(self, data: bytes, source: SockAddr) -> None:
        self._driver.receive(data, Endpoint.from_sockaddr(source))

    def _transmit(self, transmit: Transmit) -> None:
        self._socket.send(transmit.data, self._to)

    def _happened(self, event: PortMapEvent) -> None:
        match event:
            case Granted():
                self._granted(event)
            case Lost(wish=wish):
                self._board.withdraw(wish.transport, self._protocols.get(wish.transport, ""))
            case Refused(wish=wish, reason=reason, dialect=dialect):
                self._board.withdraw(wish.transport, dialect.value)
                self._on_refusal(f"{dialect.value} refuses {wish.transport.value.upper()}: {reason}")
            case Silent():
                if not self._nothing_said.done():
                    self._nothing_said.set_result(None)
            case AllReleased():
                if not self._released.done():
                    self._released.set_result(None)

    def _granted(self, event: Granted) -> None:
        wish, board = event.wish, self._board
        gateway = str(board.route.gateway.ip)
        internal = board.internal()
        verdict = judge(event.external.ip, internal.ip)
        if verdict is Outside.PRIVATE:
            board.is_behind(event.external.ip)
        if verdict is not Outside.USABLE:
            board.withdraw(wish.transport, event.dialect.value)
            self._on_refusal(f"{event.dialect.value}: {verdict.value} ({event.external.ip})")
            self._machine.decline(wish, self._driver.now())
            self._driver.drain()
            return
        mapped = Mapped(wish.transport, internal, event.external, event.dialect.value, gateway, event.lifetime)
        remembered = Remembered(STORED_AS, gateway, wish.transport, internal, event.external.port, wish.nonce)
        if board.offer(mapped, remembered):
            self._protocols[wish.transport] = mapped.protocol
            return
        other = board.get(wish.transport)
        # Where both protocols lead to one table, deleting the same port would delete the other's mapping.
        if other is None or other.external.port != event.external.port:
            self._machine.drop(wish, self._driver.now())
            self._driver.drain()
