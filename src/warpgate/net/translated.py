"""A network seen through a NAT64: IPv4 for programs on a host that has none (as 464XLAT, RFC 6877, without a kernel).

Interfaces with IPv6 alone get an IPv4 address of RFC 7335's range, valid in this process only. What is opened there is
an IPv6 socket that speaks to the addresses which stand for IPv4 ones (RFC 6052); whoever uses it sees IPv4 at both
ends. So nothing else has to know: STUN tells the IPv4 endpoint that the NAT64 maps, punches go there and from there,
and brokers and relays are reached by their IPv4 addresses. Without a prefix this is the network itself.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr
from warpgate.model.scope import UNIQUE_LOCAL, carries
from warpgate.model.translation import SERVICE_CONTINUITY, Nat64Prefix
from warpgate.net.network import (
    Acceptor,
    DatagramReceiver,
    Gateway,
    Interface,
    Network,
    TakeRun,
    TcpListener,
    TcpStream,
    UdpSocket,
    Watch,
)
from warpgate.net.remembered import Resolve

# Peers of one socket whose addresses are remembered in both forms; a punch has a few dozen.
REMEMBERED = 1024


class TranslatedNetwork:
    """`prefix` may be set and changed at any time; sockets that are open keep the one they were opened with."""

    def __init__(self, inner: Network, resolve: Resolve | None = None) -> None:
        """`resolve` None: as the network itself does."""
        self.inner = inner
        self._resolve = inner.resolve if resolve is None else resolve
        self.prefix: Nat64Prefix | None = None
        self._behind: dict[IPAddress, IPv6Address] = {}  # our IPv4 addresses, and what is behind each

    # -- what there is -------------------------------------------------------------------------------------------

    def interfaces(self) -> tuple[Interface, ...]:
        found = self.inner.interfaces()
        if self.prefix is None:
            self._behind.clear()
            return found
        lacking = without_ipv4(found)
        indices = {interface.ip: interface.index for interface in found}
        wanted = set(lacking.values())
        self._behind = {own: ip for own, ip in self._behind.items() if ip in wanted}
        taken = {interface.ip for interface in found}
        added = []
        for name, ip in lacking.items():
            own = self._own_address(ip, taken)
            if own is not None:
                self._behind[own] = ip
                added.append(Interface(name, own, own.max_prefixlen, indices[ip]))
        return (*found, *added)

    def _own_address(self, ip: IPv6Address, taken: set[IPAddress]) -> IPAddress | None:
        """The one it has had, or a free one; None when the range is used up (six uplinks)."""
        for own, behind in self._behind.items():
            if behind == ip:
                return own
        free = (own for own in SERVICE_CONTINUITY.hosts() if own not in taken and own not in self._behind)
        return next(free, None)

    def gateways(self) -> tuple[Gateway, ...]:
        return self.inner.gateways()

    def watch_interfaces(self, on_change: Callable[[], object]) -> Watch:
        return self.inner.watch_interfaces(on_change)

    def resolvers(self) -> tuple[Endpoint, ...]:
        return self.inner.resolvers()

    def route_source(self, remote: Endpoint) -> IPAddress | None:
        source = self.inner.route_source(remote)
        if source is not None or self.prefix is None or not isinstance(remote.ip, IPv4Address):
            return source
        if not carries(self.prefix, remote.ip):
            return None
        behind = self.inner.route_source(Endpoint(self.prefix.embed(remote.ip), remote.port))
        own = [own for own, ip in self._behind.items() if ip == behind] or list(self._behind)
        return own[0] if own and behind is not None else None

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        """A server that a DNS64 gave an IPv6 address is told by its IPv4 one: it is the same, and says so itself."""
        found = await self._resolve(host, port)
        prefix = self.prefix
        if prefix is None:
            return found
        return tuple(dict.fromkeys(_as_ipv4(endpoint, prefix) for endpoint in found))

    # -- opening -------------------------------------------------------------------------------------------------

    def open_udp(self, local: Endpoint, receiver: DatagramReceiver) -> UdpSocket:
        behind = self._behind.get(local.ip)
        if behind is None or self.prefix is None:
            return self.inner.open_udp(local, receiver)
        return _TranslatedUdp(self.inner, local.ip, Endpoint(behind, local.port), receiver, self.prefix)

    def listen_tcp(self, local: Endpoint, acceptor: Acceptor) -> TcpListener:
        behind, prefix = self._behind.get(local.ip), self.prefix
        if behind is None or prefix is None:
            return self.inner.listen_tcp(local, acceptor)

        def accepted(stream: TcpStream) -> None:
            remote = _as_ipv4(stream.remote, prefix)
            if remote.family is stream.remote.family:
                stream.abort()  # this port is for IPv4; IPv6 has one of its own
            else:
                acceptor(_TranslatedStream(stream, Endpoint(local.ip, stream.local.port), remote))

        return _TranslatedListener(self.inner.listen_tcp(Endpoint(behind, local.port), accepted), local.ip)

    async def dial_tcp(
        self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None
    ) -> TcpStream:
        prefix = self.prefix
        if prefix is None or not isinstance(remote.ip, IPv4Address):
            return await self.inner.dial_tcp(remote, local, first_ttl)
        if local is None and self.inner.route_source(remote) is None:
            own = self.route_source(remote)
            local = None if own is None else Endpoint(own, 0)
        if local is None or local.ip not in self._behind:
            return await self.inner.dial_tcp(remote, local, first_ttl)
        if not carries(prefix, remote.ip):
            raise NetworkError(f"connect to {remote}: not to be reached through the NAT64 prefix {prefix}")
        target = Endpoint(prefix.embed(remote.ip), remote.port)
        stream = await self.inner.dial_tcp(target, Endpoint(self._behind[local.ip], local.port), first_ttl)
        return _TranslatedStream(stream, Endpoint(local.ip, stream.local.port), remote)


def without_ipv4(interfaces: tuple[Interface, ...]) -> dict[str, IPv6Address]:
    """The interfaces that have IPv6 and no IPv4, each with the address to translate behind: a global one if any."""
    with_ipv4 = {interface.name for interface in interfaces if interface.ip.version == 4}
    found: dict[str, IPv6Address] = {}
    for interface in sorted(interfaces, key=lambda interface: interface.ip in UNIQUE_LOCAL):
        ip = interface.ip
        if isinstance(ip, IPv6Address) and not ip.is_loopback and interface.name not in with_ipv4:
            found.setdefault(interface.name, ip)
    return found


def _as_ipv4(endpoint: Endpoint, prefix: Nat64Prefix) -> Endpoint:
    ip = prefix.extract(endpoint.ip) if isinstance(endpoint.ip, IPv6Address) else None
    return endpoint if ip is None else Endpoint(ip, endpoint.port)


class _TranslatedUdp:
    """An IPv6 socket that looks like an IPv4 one."""

    def __init__(
        self,
        network: Network,
        own: IPAddress,
        behind: Endpoint,
        receiver: DatagramReceiver,
        prefix: Nat64Prefix,
    ) -> None:
        self._receiver = receiver
        self._prefix = prefix
        self._outer = lru_cache(REMEMBERED)(self._embedded)
        self._inner = lru_cache(REMEMBERED)(self._extracted)
        self._socket = network.open_udp(behind, self._received)
        self.local = Endpoint(own, self._socket.local.port)

    def send(self, data: bytes, to: SockAddr, ttl: int | None = None) -> bool:
        host = self._outer(to[0])
        return host is not None and self._socket.send(data, (host, to[1]), ttl)

    def send_all(self, datagrams: Sequence[bytes], to: SockAddr) -> int:
        host = self._outer(to[0])
        return 0 if host is None else self._socket.send_all(datagrams, (host, to[1]))

    def gather(self, take_run: TakeRun) -> None:
        def take(datagrams: list[bytes], source: SockAddr) -> bool:
            host = self._inner(source[0])
            return host is not None and take_run(datagrams, (host, source[1]))

        self._socket.gather(take)

    async def writable(self) -> None:
        await self._socket.writable()

    def detach(self, remote: Endpoint) -> socket.socket:
        """An IPv6 socket, connected to the address that stands for `remote`."""
        host = self._outer(str(remote.ip))
        if host is None:
            raise NetworkError(f"{remote} is not to be reached through the NAT64 prefix {self._prefix}")
        return self._socket.detach(Endpoint(IPv6Address(host), remote.port))

    def watch_refusals(self, remote: Endpoint, on_refused: Callable[[], object]) -> Watch | None:
        host = self._outer(str(remote.ip))
        if host is None:
            return None
        return self._socket.watch_refusals(Endpoint(IPv6Address(host), remote.port), on_refused)

    def close(self) -> None:
        self._socket.close()

    def _received(self, data: bytes, source: SockAddr) -> None:
        host = self._inner(source[0])
        if host is not None:  # else IPv6 traffic, which has a socket of its own
            self._receiver(data, (host, source[1]))

    def _embedded(self, host: str) -> str | None:
        ip = Endpoint.of(host, 0).ip
        if not isinstance(ip, IPv4Address) or not carries(self._prefix, ip):
            return None
        return str(self._prefix.embed(ip))

    def _extracted(self, host: str) -> str | None:
        ip = Endpoint.of(host, 0).ip
        inner = self._prefix.extract(ip) if isinstance(ip, IPv6Address) else None
        return None if inner is None else str(inner)


class _TranslatedListener:
    def __init__(self, listener: TcpListener, own: IPAddress) -> None:
        self._listener = listener
        self.local = Endpoint(own, listener.local.port)

    def close(self) -> None:
        self._listener.close()


class _TranslatedStream:
    """An IPv6 connection under the names that its ends have in IPv4."""

    def __init__(self, stream: TcpStream, local: Endpoint, remote: Endpoint) -> None:
        self.local = local
        self.remote = remote
        self.recv = stream.recv  # as they are: what a pipe does most must not cost a second call
        self.send = stream.send
        self.stalled = stream.stalled
        self.unacknowledged = stream.unacknowledged
        self.write_eof = stream.write_eof
        self.abort = stream.abort
        self.close = stream.close
        self.detach = stream.detach
