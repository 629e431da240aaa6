"""One allocation on one TURN server, alive: the machine, its carrier, and the virtual sockets on its relayed endpoints.

It belongs to those who use it: each socket and each relayed stream holds a share (`retain`), and when the last one
is dropped the allocation is given back to the server, in the background.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence

from warpgate.errors import NetworkError, ServiceError
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr
from warpgate.model.scope import unreachable
from warpgate.model.turn_server import Credentials
from warpgate.net.driver import MachineDriver
from warpgate.net.network import DatagramReceiver, TakeRun, each_alone
from warpgate.proto.turn import SERVER_ERRORS, State, TurnClient
from warpgate.proto.turn_auth import LongTermAuth
from warpgate.proto.turn_events import (
    Allocated,
    AllocationEnded,
    AllocationFailed,
    ConnectRefused,
    DataReceived,
    PeerConnected,
    TurnEvent,
)
from warpgate.proto.turn_wire import RelayRequest
from warpgate.services.relay_carrier import Carrier, OnBroken, OnFrame, OnRefused, Route

# UDP and IPv6 headers, and what a Send indication adds to a datagram (RFC 8656 section 11.1), with some room.
OVERHEAD = 100
UNSUPPORTED_FAMILY = 440
QUOTA_REACHED = 486  # RFC 8656 section 7.2: the client's own; what an earlier run of its has left expires
LARGEST_DATAGRAM = 65507 - OVERHEAD

MakeCarrier = Callable[[OnFrame, OnBroken, OnRefused], Carrier]
TcpEvent = PeerConnected | ConnectRefused


class Redirected(ServiceError):
    """The server named another one to ask (RFC 8489 section 10)."""

    def __init__(self, failure: AllocationFailed, alternate: Endpoint) -> None:
        super().__init__(failure.reason)
        self.alternate = alternate
        self.domain = failure.domain


class NoSuchFamily(ServiceError):
    """The server relays for none of the addresses that were asked for first (RFC 8656 section 7.2, error 440)."""


class Allocation:
    """Life: constructed (asks at once), `ready`, used, dropped. `on_lost` is told when the server ends it."""

    def __init__(
        self,
        route: Route,
        credentials: Credentials,
        wanted: RelayRequest,
        make_carrier: MakeCarrier,
        on_lost: Callable[[Allocation, str], None],
    ) -> None:
        """Holds one share for whoever made it. NetworkError when there is no way to the server."""
        loop = asyncio.get_running_loop()
        self.route = route
        self.relayed: tuple[Endpoint, ...] = ()
        self.mapped: Endpoint | None = None
        self.heard = False  # whether a peer was, by it
        self.on_tcp: Callable[[TcpEvent], None] | None = None
        self.ended: asyncio.Future[None] = loop.create_future()
        self._spoke: asyncio.Future[None] = loop.create_future()  # the server, since that was last asked for
        self._on_lost = on_lost
        self._shares = 1
        self._dead = False
        self._taken = True
        self._lingering: set[asyncio.Task[None]] = set()
        self._receivers: dict[int, DatagramReceiver] = {}
        self._answer: asyncio.Future[None] = loop.create_future()
        self._carrier = make_carrier(self._received, self._broken, self._nobody_listens)
        self._client = TurnClient(
            credentials,
            wanted,
            loop.time(),
            reliable=self._carrier.reliable,
            new_transaction_id=lambda: secrets.token_bytes(12),
        )
        self._driver: MachineDriver[TurnEvent, bytes] = MachineDriver(self._client, self._transmit, self._happened)

    @property
    def auth(self) -> LongTermAuth:
        """The log-in, also good for data connections (RFC 6062 section 4.3)."""
        return self._client.auth

    @property
    def alive(self) -> bool:
        return self._client.state is State.READY and not self._dead

    async def ready(self) -> None:
        """Until it is allocated; ServiceError with the server's reason, Redirected. Drops our share on any failure."""
        try:
            self._driver.drain()
            await asyncio.shield(self._answer)
        except BaseException:
            self.drop()
            raise

    def ask(self) -> None:
        """Ask the server whether it is still there; where nobody listens any more, its machine says so."""
        self._client.renew(self._driver.now())
        self._driver.drain()

    async def answering(self) -> None:
        """Until the server answers what it is asked, now if nothing was; ServiceError when it is over."""
        if self._spoke.done():
            self._spoke = asyncio.get_running_loop().create_future()
        if not self._client.asking:
            self.ask()
        await asyncio.wait([self._spoke, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            raise ServiceError(f"the allocation at {self.route.endpoint} is over")

    # -- sharing -------------------------------------------------------------------------------------------------

    def retain(self) -> None:
        self._shares += 1

    def drop(self) -> None:
        """One share less; with the last one the server is told."""
        self._shares -= 1
        if self._shares == 0 and not self._dead:
            self._client.close(self._driver.now())
            self._driver.drain()

    def linger(self, work: Coroutine[None, None, None]) -> None:
        """Keep a share until this is done; whoever closes everything waits for it a little."""
        self.retain()
        task = asyncio.get_running_loop().create_task(work, name="relayed stream closes")
        self._lingering.add(task)
        task.add_done_callback(self._lingered)

    def _lingered(self, task: asyncio.Task[None]) -> None:
        self._lingering.discard(task)
        self.drop()

    async def finish(self, patience: float) -> None:
        """Give it back whoever still has a share, after what lingers; over in twice `patience` at the latest."""
        if self._lingering:
            await asyncio.wait(self._lingering, timeout=patience)
        for task in tuple(self._lingering):
            task.cancel()
        self._client.close(self._driver.now())
        self._driver.drain()
        if not self.ended.done():
            await asyncio.wait([self.ended], timeout=patience)
        self._over("closed", lost=False)

    def socket(self, relayed: Endpoint, receiver: DatagramReceiver) -> RelaySocket:
        """What peers send to this relayed endpoint goes to the receiver, in the family's own socket. Takes a share."""
        self.retain()
        self._receivers[relayed.ip.version] = receiver
        return RelaySocket(self, relayed)

    # -- for sockets and streams ---------------------------------------------------------------------------------

    def send(self, data: bytes, peer: Endpoint) -> bool:
        """False when it was not taken: too long, no room (see `writable`), or the allocation is gone."""
        if not self.alive or len(data) > LARGEST_DATAGRAM or self._carrier.full(len(data)):
            return False
        self._client.send(data, peer, self._driver.now())
        self._driver.drain()
        return self._taken

    def _transmit(self, frame: bytes) -> None:
        self._taken = self._carrier.send(frame)

    def permit(self, ip: IPAddress) -> None:
        self._client.permit(ip, self._driver.now())
        self._driver.drain()

    def connect(self, peer: Endpoint) -> None:
        """Over a TCP relay; the outcome goes to `on_tcp`."""
        self._client.connect(peer, self._driver.now())
        self._driver.drain()

    async def writable(self) -> None:
        if not self.alive:
            raise NetworkError(f"the relay {self.route.endpoint} does not relay for us any more")
        await self._carrier.writable()

    def forget(self, relayed: Endpoint) -> None:
        self._receivers.pop(relayed.ip.version, None)

    # -- the server's side ---------------------------------------------------------------------------------------

    def _received(self, frame: bytes) -> bool:
        before = self._client.of_use
        self._driver.receive(frame)
        if self._client.of_use == before:
            return False
        if not self._spoke.done():
            self._spoke.set_result(None)
        return True

    def _allocated(self, relayed: tuple[Endpoint, ...], mapped: Endpoint | None) -> None:
        server = self.route.endpoint
        told = {endpoint: unreachable(endpoint, server.ip) for endpoint in relayed}
        self.relayed = tuple(endpoint for endpoint, why in told.items() if why is None)
        self.mapped = mapped
        if self.relayed:
            self._settle(None)
        else:  # whoever waits drops the last share, which gives the allocation back
            why = next(why for why in told.values() if why is not None)
            self._settle(ServiceError(f"{server}: it relays where nobody gets to: {why}"))

    def _broken(self, reason: str) -> None:
        """The stream to the server is gone, and with it the allocation (RFC 8656 section 3.1)."""
        self._settle(ServiceError(f"{self.route.endpoint}: {reason}"))
        self._over(reason)

    def _nobody_listens(self) -> None:
        """Nobody listens where the server was, its machine says."""
        self._client.refused(self._driver.now())
        self._driver.drain()

    def _happened(self, event: TurnEvent) -> None:
        match event:
            case DataReceived(peer=peer, data=data):
                self.heard = True
                receiver = self._receivers.get(peer.ip.version)
                if receiver is not None:
                    receiver(data, peer.sockaddr)
            case Allocated(relayed=relayed, mapped=mapped):
                self._allocated(relayed, mapped)
            case AllocationFailed(reason=reason, code=code, alternate=alternate):
                failure = f"{self.route.endpoint}: {reason}"
                kind = NoSuchFamily if code == UNSUPPORTED_FAMILY else ServiceError
                passing = code == QUOTA_REACHED or code in SERVER_ERRORS
                self._settle(kind(failure, passing=passing) if alternate is None else Redirected(event, alternate))
                self._over(reason)
            case AllocationEnded(reason=reason, lost=lost):
                self._over(reason, lost=lost)
            case PeerConnected() | ConnectRefused():
                self.heard |= isinstance(event, PeerConnected)
                if self.on_tcp is not None:
                    self.on_tcp(event)

    def _settle(self, failure: ServiceError | None) -> None:
        if self._answer.done():
            return
        if failure is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(failure)
            self._answer.exception()  # a caller that was cancelled does not look at it

    def _over(self, reason: str, *, lost: bool = True) -> None:
        if self._dead:
            return
        was_used = bool(self.relayed) and self._shares > 0
        self._dead = True
        self._driver.close()
        self._carrier.close()
        self.on_tcp = None
        if not self.ended.done():
            self.ended.set_result(None)
        if lost and was_used:
            self._on_lost(self, reason)


class RelaySocket:
    """A `UdpSocket` whose local endpoint is on the relay: a base for connectivity checks, and what a pipe sends by."""

    def __init__(self, allocation: Allocation, relayed: Endpoint) -> None:
        self._allocation = allocation
        self.local = relayed
        self._open = True

    def send(self, data: bytes, to: SockAddr, ttl: int | None = None) -> bool:
        """With a `ttl` it is not sent: a relay cannot see to it that a datagram dies on the way."""
        peer = Endpoint.from_sockaddr(to)
        if not self._open or ttl is not None or peer.family is not self.local.family:
            return False
        return self._allocation.send(data, peer)

    def send_all(self, datagrams: Sequence[bytes], to: SockAddr) -> int:
        return each_alone(self.send, datagrams, to)

    def gather(self, take_run: TakeRun) -> None:
        """A relay wraps each datagram in a message of its own."""

    async def writable(self) -> None:
        if not self._open:
            raise NetworkError(f"the relayed socket {self.local} is closed")
        await self._allocation.writable()

    def detach(self, remote: Endpoint) -> socket.socket:
        """NetworkError: what reaches the relay reaches this machine inside TURN messages."""
        raise NetworkError(f"a relayed path to {remote} has no OS socket of its own")

    def watch_refusals(self, remote: Endpoint, on_refused: Callable[[], object]) -> None:
        """The relay is told, not we."""

    def close(self) -> None:
        """Idempotent."""
        if self._open:
            self._open = False
            self._allocation.forget(self.local)
            self._allocation.drop()
