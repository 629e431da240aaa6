"""The relay's sockets: UDP and TCP for clients and for peers; what is relayed is decided by `proto.relay_server`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import field
from functools import partial

from warpgate.errors import NetworkError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, IPAddress, SockAddr, Transport
from warpgate.model.scope import IPNetwork
from warpgate.net.driver import MachineDriver
from warpgate.net.network import Network, TcpListener, TcpStream, UdpSocket
from warpgate.proto.relay_admission import Admission
from warpgate.proto.relay_limits import PeerPolicy, RelayLimits
from warpgate.proto.relay_server import RelayServer
from warpgate.proto.relay_state import (
    Allocation,
    Call,
    ClosePorts,
    DialPeer,
    DropCall,
    JoinStreams,
    OpenPorts,
    Path,
    RelayEvent,
    RelayOutput,
    ToClient,
)
from warpgate.server.metrics import Reading
from warpgate.server.relay_client import ClientStream
from warpgate.server.relay_pump import join

SALT_SIZE = 32
# RFC 8656 section 7.2: "the range 49152-65535".
PORTS = range(49152, 65536)
PORT_TRIES = 64
CONNECTIONS = 4096
CONNECTIONS_PER_SOURCE = 256
# Without an allocation, and not joined: a node dials a data connection ahead, while its peer is still being told.
IDLE = 30.0
SWEEP = 5.0
DIAL_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """`local` is bound, clients are told `announced`: another one behind a one-to-one NAT."""

    local: IPAddress
    announced: IPAddress


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """`addresses`: one a family, for peers. `own`: every address of this machine. `allowed`: see `PeerPolicy`."""

    secret: str = field(repr=False)
    addresses: Mapping[Family, RelayAddress]
    own: frozenset[IPAddress]
    allowed: tuple[IPNetwork, ...] = ()
    limits: RelayLimits = field(default_factory=RelayLimits)
    ports: range = PORTS


class RelayService:
    """Serves from `open` to `close`."""

    def __init__(self, network: Network, settings: RelaySettings, wall_clock: Callable[[], float]) -> None:
        """Made by `open`."""
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._settings = settings
        salt = secrets.token_bytes(SALT_SIZE)
        announced = {family: each.announced for family, each in settings.addresses.items()}
        self.machine = RelayServer(
            Admission(settings.secret, salt=salt, wall_clock=wall_clock),
            announced,
            PeerPolicy(settings.own | frozenset(announced.values()), settings.allowed),
            self._loop.time(),
            salt=salt,
            limits=settings.limits,
        )
        self._driver: MachineDriver[RelayEvent, RelayOutput] = MachineDriver(
            self.machine, self._transmit, self._happened
        )
        self._inside = {each.announced: each.local for each in settings.addresses.values()}
        self._outside = {each.local: each.announced for each in settings.addresses.values()}
        self._udp: list[UdpSocket | None] = []
        self._listeners: list[TcpListener] = []
        self._streams: dict[int, ClientStream] = {}
        self._sources: Counter[bytes] = Counter()
        self._numbered = 0
        self._sockets: dict[Allocation, dict[Family, UdpSocket]] = {}
        self._doors: dict[Allocation, list[TcpListener]] = {}
        self._peers: dict[Call, TcpStream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    @classmethod
    def open(
        cls,
        network: Network,
        places: Sequence[Endpoint],
        settings: RelaySettings,
        *,
        datagrams: bool = True,
        wall_clock: Callable[[], float] = time.time,
    ) -> RelayService:
        """Binds UDP (with `datagrams`) and TCP on all `places` or on none: NetworkError when one is taken."""
        self = cls(network, settings, wall_clock)
        try:
            for index, place in enumerate(places):
                receive = partial(self._datagram, index)
                self._udp.append(network.open_udp(place, receive) if datagrams else None)
                self._listeners.append(network.listen_tcp(place, partial(self.accept, index)))
        except NetworkError:
            self._stop_listening()
            raise
        self._sweep()
        return self

    @property
    def takes_datagrams(self) -> bool:
        """From clients; otherwise another program has the UDP port."""
        return any(sock is not None for sock in self._udp)

    @property
    def connections(self) -> int:
        """Of clients, open now."""
        return len(self._streams)

    def readings(self) -> tuple[Reading, ...]:
        """For `Metrics.others`."""
        counters, machine = self.machine.counters, self.machine
        return (
            ("relay_allocations", "gauge", "Allocations on the relay now.", len(machine.allocations)),
            ("relay_calls", "gauge", "Relayed TCP connections now.", len(machine.calls)),
            ("relay_connections", "gauge", "Connections of relay clients now.", self.connections),
            ("relay_allocated_total", "counter", "Allocations made.", counters.allocated),
            ("relay_challenged_total", "counter", "Requests asked to log in.", counters.challenged),
            ("relay_refused_total", "counter", "Requests answered with an error.", counters.refused),
            ("relay_limited_total", "counter", "Requests of sources over their rate.", counters.limited),
            ("relay_ignored_total", "counter", "What came to the relay and is nothing.", counters.ignored),
            ("relay_to_peers_bytes_total", "counter", "Bytes relayed to peers.", counters.bytes_to_peers),
            (
                "relay_to_clients_bytes_total",
                "counter",
                "Bytes relayed to clients.",
                counters.bytes_to_clients,
            ),
            ("relay_over_rate_total", "counter", "Datagrams over a rate.", counters.dropped_rate),
            ("relay_not_permitted_total", "counter", "Datagrams not permitted.", counters.dropped_permission),
        )

    async def close(self) -> None:
        """Idempotent."""
        self._stop_listening()
        self._driver.close()
        for allocation in tuple(self.machine.allocations.values()):
            self._close_ports(ClosePorts(allocation))
        for client in tuple(self._streams.values()):
            client.abort()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _stop_listening(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for sock in self._udp:
            if sock is not None:
                sock.close()
        for listener in self._listeners:
            listener.close()

    # -- clients -------------------------------------------------------------------------------------------------

    def _datagram(self, place: int, data: bytes, source: SockAddr) -> None:
        self._driver.receive(data, Path(place, source[0], source[1]))

    def accept(self, place: int, stream: TcpStream, early: bytes = b"") -> None:
        """A client's connection, and what was read from it already; taken over, or dropped when there are too many."""
        source = stream.remote.ip.packed[:8]
        if len(self._streams) >= CONNECTIONS or self._sources[source] >= CONNECTIONS_PER_SOURCE:
            stream.abort()
            return
        self._sources[source] += 1
        self._numbered += 1
        path = Path(place, str(stream.remote.ip), stream.remote.port, self._numbered)
        client = self._streams[path.stream] = ClientStream(stream, self._loop.time())
        self._spawn(self._serve(client, path, early, source))

    async def _serve(self, client: ClientStream, path: Path, early: bytes, source: bytes) -> None:
        try:
            await client.read(early, lambda frame: self._driver.receive(frame, path))
            if client.call is not None:
                await self._carry(client, client.call)
        finally:
            del self._streams[path.stream]
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]
            client.abort()
            if client.call is None:
                self.machine.gone(path)
                self._driver.drain()

    async def _carry(self, client: ClientStream, call: Call) -> None:
        """Bytes of a joined pair, until both have ended."""
        peer = self._peers.get(call)
        if peer is None:  # it ended while it waited
            return

        async def spend(size: int, *, to_peer: bool) -> None:
            wait = self.machine.stream_wait(call, size, self._loop.time(), to_peer=to_peer)
            if wait:
                await asyncio.sleep(wait)

        try:
            await client.flush()
            await join(client.stream, peer, client.leftover, spend)
        finally:
            self._drop(call)

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)
        now = self._loop.time()
        busy = {path.stream for path in self.machine.allocations}
        for number, client in self._streams.items():
            if number in busy or client.call is not None:
                client.since = now
            elif now >= client.since + IDLE:
                client.abort()

    # -- the machine's wishes ------------------------------------------------------------------------------------

    def _transmit(self, output: RelayOutput) -> None:
        if isinstance(output, ToClient):
            path = output.path
            if path.stream:
                client = self._streams.get(path.stream)
                if client is not None:
                    client.send(output.data)
            elif (sock := self._udp[path.place]) is not None:
                sock.send(output.data, (path.host, path.port))
            return
        family = Family.V6 if ":" in output.peer[0] else Family.V4
        port = self._sockets.get(output.allocation, {}).get(family)
        if port is not None:
            port.send(output.data, output.peer)

    def _happened(self, event: RelayEvent) -> None:
        match event:
            case OpenPorts(allocation=allocation):
                self.machine.opened(allocation, self._open_ports(allocation))
            case ClosePorts():
                self._close_ports(event)
            case DialPeer(call=call):
                self._spawn(self._dial(call))
            case JoinStreams(path=path, call=call):
                client = self._streams.get(path.stream)
                if client is not None:
                    client.call = call
            case DropCall(call=call):
                self._drop(call)

    def _open_ports(self, allocation: Allocation) -> dict[Family, int]:
        """Random ones: whoever could foresee them could be there before."""
        opened: dict[Family, int] = {}
        for family in allocation.families:
            ip = self._settings.addresses[family].local
            for port in random.SystemRandom().sample(self._settings.ports, min(PORT_TRIES, len(self._settings.ports))):
                with contextlib.suppress(NetworkError):
                    self._open_port(allocation, family, Endpoint(ip, port))
                    opened[family] = port
                    break
        return opened

    def _open_port(self, allocation: Allocation, family: Family, local: Endpoint) -> None:
        if allocation.transport is Transport.TCP:
            listener = self._network.listen_tcp(local, partial(self._called, allocation))
            self._doors.setdefault(allocation, []).append(listener)
        else:
            receive = partial(self._from_peer, allocation)
            self._sockets.setdefault(allocation, {})[family] = self._network.open_udp(local, receive)

    def _close_ports(self, event: ClosePorts) -> None:
        allocation = event.allocation
        if event.family is not None:
            self._sockets[allocation].pop(event.family).close()
            return
        for sock in self._sockets.pop(allocation, {}).values():
            sock.close()
        for listener in self._doors.pop(allocation, []):
            listener.close()
        for call in tuple(allocation.calls.values()):
            self._drop(call)

    # -- peers ---------------------------------------------------------------------------------------------------

    def _from_peer(self, allocation: Allocation, data: bytes, source: SockAddr) -> None:
        self.machine.from_peer(allocation, data, source, self._loop.time())
        self._driver.drain()

    def _called(self, allocation: Allocation, stream: TcpStream) -> None:
        remote = stream.remote
        peer = Endpoint(self._outside.get(remote.ip, remote.ip), remote.port)
        call = self.machine.called(allocation, peer, self._loop.time())
        if call is None:
            stream.abort()
            return
        self._peers[call] = stream
        self._driver.drain()

    async def _dial(self, call: Call) -> None:
        peer = Endpoint(self._inside.get(call.peer.ip, call.peer.ip), call.peer.port)
        local = Endpoint(
            self._settings.addresses[peer.family].local,
            call.allocation.relayed[peer.family].port,
        )
        try:
            async with asyncio.timeout(DIAL_PATIENCE):
                stream = await self._network.dial_tcp(peer, local)
        except (NetworkError, TimeoutError):
            self.machine.dialled(call, self._loop.time(), connected=False)
        else:
            if call.number not in self.machine.calls:
                stream.abort()
                return
            self._peers[call] = stream
            self.machine.dialled(call, self._loop.time(), connected=True)
        self._driver.drain()

    def _drop(self, call: Call) -> None:
        stream = self._peers.pop(call, None)
        if stream is not None:
            stream.abort()
        if call.path is not None:
            client = self._streams.get(call.path.stream)
            if client is not None:
                client.abort()
        self.machine.ended(call)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work, name="relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
