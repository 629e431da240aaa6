"""A host's kernel in memory: port tables, demultiplexing, and the `Network` seam on top."""

from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address

from warpgate.errors import AddressError, NetworkError
from warpgate.lab.flow import ACK, SYN, Flow, Protocol
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, IPAddress
from warpgate.net.network import Acceptor, DatagramReceiver, Gateway, Interface
from warpgate.net.sockets import network_error
from warpgate_testing.segment import TcpSegment, reset_for
from warpgate_testing.sockets import (
    MemoryTcpListener,
    MemoryTcpStream,
    MemoryUdpSocket,
    TcpEnd,
    system_error,
)
from warpgate_testing.tcp import State
from warpgate_testing.wire import DEFAULT_TTL, Host, Packet, Realm, Wire

EPHEMERAL = range(32768, 61000)  # net.ipv4.ip_local_port_range

_LOOPBACK = {
    Family.V4: Interface("lo", IPv4Address("127.0.0.1"), 8),
    Family.V6: Interface("lo", IPv6Address("::1"), 128),
}
_ON_LINK = {Family.V4: 24, Family.V6: 64}


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """One socket that a program has not closed. `kind`: udp, listener, dial, stream."""

    host: str
    kind: str
    local: Endpoint
    remote: Endpoint | None = None

    def __str__(self) -> str:
        return f"{self.host}: {self.kind} {self.local}" + (f" to {self.remote}" if self.remote else "")


class MemoryWatch:
    """One program that wants to know when the host is moved."""

    def __init__(self, watches: list[MemoryWatch], on_change: Callable[[], object]) -> None:
        self._watches = watches
        self.on_change = on_change
        watches.append(self)

    def close(self) -> None:
        if self in self._watches:
            self._watches.remove(self)


class MemoryNetwork:
    """The `Network` of one host in a `MemoryInternet`."""

    def __init__(
        self,
        name: str,
        addresses: tuple[IPAddress, ...],
        realm: Realm,
        wire: Wire,
        rng: random.Random,
        names: Mapping[str, tuple[IPAddress, ...]],
    ) -> None:
        self.host = Host(name, addresses, realm, self._deliver)
        realm.members.append(self.host)
        self._wire = wire
        self._rng = rng
        self._names = names
        self._udp: dict[Endpoint, MemoryUdpSocket] = {}
        self._listeners: dict[Endpoint, MemoryTcpListener] = {}
        self._ends: dict[tuple[Endpoint, Endpoint], TcpEnd] = {}
        self._dial_failures: deque[str] = deque()
        self._watches: list[MemoryWatch] = []
        # Who is asked to map ports. The model routers do not do that: a host of the same realm may.
        self.default_gateways: tuple[IPAddress, ...] = ()
        self.spare: frozenset[IPAddress] = frozenset()  # deprecated, or temporary ones beyond a few

    # -- the seam --------------------------------------------------------------------------------------------

    def interfaces(self) -> tuple[Interface, ...]:
        addresses = self.host.addresses
        families = sorted({Family(ip.version) for ip in addresses} | {Family.V4})
        own = tuple(Interface("eth0", ip, _ON_LINK[Family(ip.version)], spare=ip in self.spare) for ip in addresses)
        return tuple(_LOOPBACK[family] for family in families) + own

    def gateways(self) -> tuple[Gateway, ...]:
        return tuple(Gateway("eth0", ip) for ip in self.default_gateways)

    def resolvers(self) -> tuple[Endpoint, ...]:
        """None: names of this internet are looked up without questions."""
        return ()

    def watch_interfaces(self, on_change: Callable[[], object]) -> MemoryWatch:
        """Called by `move`."""
        return MemoryWatch(self._watches, on_change)

    def open_udp(self, local: Endpoint, receiver: DatagramReceiver) -> MemoryUdpSocket:
        try:
            local = self._bindable(local, list(self._udp))
        except OSError as error:
            raise network_error(f"open UDP {local}", error) from error
        sock = self._udp[local] = MemoryUdpSocket(self, local, receiver)
        return sock

    def listen_tcp(self, local: Endpoint, acceptor: Acceptor) -> MemoryTcpListener:
        try:
            local = self._bindable(local, list(self._listeners))
        except OSError as error:
            raise network_error(f"listen on TCP {local}", error) from error
        listener = self._listeners[local] = MemoryTcpListener(self, local, acceptor)
        return listener

    async def dial_tcp(
        self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None
    ) -> MemoryTcpStream:
        origin = "" if local is None else f" from {local}"
        try:
            if self._dial_failures:
                raise NetworkError(f"connect to {remote}{origin}: {self._dial_failures.popleft()}")
            end = TcpEnd(self, self._dial_source(remote, local), remote)
            self._ends[end.local, remote] = end
            end.ttl = first_ttl or DEFAULT_TTL
            end.settle()
            end.ttl = DEFAULT_TTL
            await self._opened(end)
        except OSError as error:
            raise network_error(f"connect to {remote}{origin}", error) from error
        return MemoryTcpStream(end)

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        try:
            return (Endpoint.of(host, port),)
        except AddressError:
            pass
        if host not in self._names:
            raise NetworkError(f"resolve {host!r}: name or service not known")
        return tuple(Endpoint(ip, port) for ip in self._names[host])

    def route_source(self, remote: Endpoint) -> IPAddress | None:
        if remote.ip.is_loopback:
            return _LOOPBACK[remote.family].ip
        if not self.host.up:
            return None
        own = [ip for ip in self.host.addresses if ip.version == remote.ip.version]
        return remote.ip if remote.ip in own else next(iter(own), None)

    # -- for tests -------------------------------------------------------------------------------------------

    def fail_next_dial(self, reason: str) -> None:
        """The next `dial_tcp` raises NetworkError with this reason and sends nothing; calls queue up."""
        self._dial_failures.append(reason)

    def open_sockets(self) -> tuple[OpenSocket, ...]:
        """Closed ones whose last bytes the kernel is still delivering do not count."""
        name = self.host.name
        found = [OpenSocket(name, "udp", local) for local in self._udp]
        found += [OpenSocket(name, "listener", local) for local in self._listeners]
        for end in self._ends.values():
            if not end.connection.detached and end.listener is None:
                found.append(OpenSocket(name, "dial" if end.opening else "stream", end.local, end.remote))
        return tuple(found)

    def move(self, realm: Realm, *addresses: IPAddress) -> None:
        """The cable goes into another socket: what is bound to an address that is gone hears and says nothing more.

        Programs that watch are told. Use `MemoryInternet.move`.
        """
        self.host.realm.members.remove(self.host)
        self.host.realm, self.host.addresses = realm, addresses
        realm.members.append(self.host)
        for watch in tuple(self._watches):
            watch.on_change()

    def crash(self) -> None:
        """All sockets vanish and nothing is told; what arrives from now on is lost, until `boot`."""
        self.host.up = False
        for sock in list(self._udp.values()):
            sock.close()
        for listener in list(self._listeners.values()):
            listener.close()
        for end in list(self._ends.values()):
            end.connection.vanish()
            end.settle()
            end.wake()

    def boot(self) -> None:
        """Up again, with no memory of its connections: their segments are answered with RST."""
        self.host.up = True

    # -- what sockets need (sockets.Kernel) ------------------------------------------------------------------

    def now(self) -> float:
        return self._wire.now()

    def transmit(self, packet: Packet) -> None:
        self._wire.send(self.host, packet)

    def forget(self, closed: MemoryUdpSocket | MemoryTcpListener | TcpEnd) -> None:
        if isinstance(closed, MemoryUdpSocket):
            del self._udp[closed.local]
        elif isinstance(closed, MemoryTcpListener):
            del self._listeners[closed.local]
        elif self._ends.get((closed.local, closed.remote)) is closed:
            del self._ends[closed.local, closed.remote]

    # -- binding ---------------------------------------------------------------------------------------------

    def _bindable(self, local: Endpoint, taken: list[Endpoint]) -> Endpoint:
        """With a port chosen if it has none; OSError as bind(2)."""
        ip = local.ip
        if not (ip.is_unspecified or ip.is_loopback or ip in self.host.addresses):
            raise system_error(errno.EADDRNOTAVAIL)
        busy = {
            other.port
            for other in taken
            if other.family is local.family and (other.ip == ip or ip.is_unspecified or other.ip.is_unspecified)
        }
        if local.port == 0:
            return Endpoint(ip, self._free_port(busy))
        if local.port in busy:
            raise system_error(errno.EADDRINUSE)
        return local

    def _free_port(self, busy: set[int]) -> int:
        dialled = {local.port for local, _ in self._ends}
        for _ in range(64):
            port = self._rng.choice(EPHEMERAL)
            if port not in busy and port not in dialled:
                return port
        for port in EPHEMERAL:
            if port not in busy and port not in dialled:
                return port
        raise system_error(errno.EADDRNOTAVAIL)

    def _dial_source(self, remote: Endpoint, local: Endpoint | None) -> Endpoint:
        route = self.route_source(remote)
        if route is None or (local is not None and local.family is not remote.family):
            raise system_error(errno.ENETUNREACH)
        if local is None:
            local = Endpoint(route, 0)
        elif local.ip.is_unspecified:
            local = Endpoint(route, local.port)
        elif local.ip.is_loopback != remote.ip.is_loopback:
            raise system_error(errno.EINVAL)
        elif not (local.ip.is_loopback or local.ip in self.host.addresses):
            raise system_error(errno.EADDRNOTAVAIL)
        if local.port == 0:
            local = Endpoint(local.ip, self._free_port({endpoint.port for endpoint in self._listeners} | {remote.port}))
        if (local, remote) in self._ends or local == remote:
            raise system_error(errno.EADDRNOTAVAIL)
        return local

    async def _opened(self, end: TcpEnd) -> None:
        try:
            while end.opening:
                await end.wait()
        except BaseException:
            end.connection.abort()
            end.settle()
            raise
        if end.connection.state is State.CLOSED:
            raise system_error(end.connection.failure or errno.ECONNABORTED)

    # -- arrivals --------------------------------------------------------------------------------------------

    def _deliver(self, packet: Packet) -> None:
        flow, payload = packet.flow, packet.payload
        if not isinstance(payload, TcpSegment):
            sock = self._udp.get(flow.destination) or self._udp.get(_wildcard(flow.destination))
            if sock is not None:
                sock.receive(payload, flow.source)
            return
        end = self._ends.get((flow.destination, flow.source))
        if end is None and payload.flags & (SYN | ACK) == SYN:
            end = self._accepted(flow)
        if end is not None:
            end.receive(payload)
        elif (answer := reset_for(payload)) is not None:
            self.transmit(Packet(Flow(Protocol.TCP, flow.destination, flow.source), answer))

    def _accepted(self, flow: Flow) -> TcpEnd | None:
        local = flow.destination
        listener = self._listeners.get(local) or self._listeners.get(_wildcard(local))
        if listener is None:
            return None
        end = self._ends[local, flow.source] = TcpEnd(self, local, flow.source, listener)
        return end


def _wildcard(local: Endpoint) -> Endpoint:
    return Endpoint(IPv4Address(0) if local.ip.version == 4 else IPv6Address(0), local.port)
