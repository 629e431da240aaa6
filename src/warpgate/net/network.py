"""The seam between the program and the outside: every socket is opened through a `Network`.

Implementations: `net.system.SystemNetwork` (the real one), `warpgate_testing.MemoryNetwork` (in memory, virtual time).
Errors are mapped here, once: an implementation raises NetworkError for whatever the system or the path refuses.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from typing import Protocol

from warpgate.errors import NetworkError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr

DatagramReceiver = Callable[[bytes, SockAddr], None]
# Two or more datagrams, all of one sender, in order. False: nothing was taken, they are to come one by one.
TakeRun = Callable[[list[bytes], SockAddr], bool]


@dataclass(frozen=True, slots=True)
class Interface:
    """One usable address of one network interface: `prefix` is its on-link prefix length in bits.

    `index` is the system's number for the interface: another one when it went away and was made anew. `spare`: what is
    open on it goes on, and nothing new is opened there (RFC 4862 section 5.5.4), or there are others enough.
    """

    name: str
    ip: IPAddress
    prefix: int
    index: int = field(default=0, compare=False)
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Gateway:
    """A router with a default route through `interface`. A link-local IPv6 address carries its scope."""

    interface: str
    ip: IPAddress


class UdpSocket(Protocol):
    """A bound, unconnected UDP socket. What is received goes to the receiver given at opening, as (data, sockaddr)."""

    @property
    def local(self) -> Endpoint: ...

    def send(self, data: bytes, to: SockAddr, ttl: int | None = None) -> bool:
        """Send now, or return False when the kernel's buffer is full or the send fails (datagrams may be lost).

        `ttl` sets the IPv4 TTL / IPv6 hop limit of this datagram alone.
        """

    def send_all(self, datagrams: Sequence[bytes], to: SockAddr) -> int:
        """Send in order until one is not taken, as `send` would; how many were."""

    def gather(self, take_run: TakeRun) -> None:
        """From now on offer together what arrives together, where the system tells: a bulk of data costs half as much
        so, and single datagrams a little more.
        """

    async def writable(self) -> None:
        """Wait until the kernel takes datagrams again."""

    def detach(self, remote: Endpoint) -> socket.socket:
        """A new non-blocking OS socket on our endpoint, connected to `remote`: it gets that flow from now on."""

    def watch_refusals(self, remote: Endpoint, on_refused: Callable[[], object]) -> Watch | None:
        """Call `on_refused` whenever the machine at `remote` says that nobody listens there (ICMP port unreachable).

        None where the system does not tell. It is a hint: anybody who knows both endpoints can forge it.
        """

    def close(self) -> None: ...


def each_alone(send: Callable[[bytes, SockAddr], bool], datagrams: Sequence[bytes], to: SockAddr) -> int:
    """`send_all` of a socket that has no quicker way."""
    for done, data in enumerate(datagrams):
        if not send(data, to):
            return done
    return len(datagrams)


class TcpStream(Protocol):
    """A connected TCP socket. `recv` and `send` raise NetworkError when the connection breaks."""

    @property
    def local(self) -> Endpoint: ...

    @property
    def remote(self) -> Endpoint: ...

    async def recv(self, limit: int) -> bytes:
        """At least one byte and at most `limit`; b"" at end of stream."""

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Returns when the kernel has taken all of it (back-pressure)."""

    def stalled(self) -> float:
        """Seconds for which the peer has acknowledged nothing although data is in flight; 0.0 when none is.

        A peer that merely does not read (closed window) is not stalled: it answers the kernel's probes.
        """

    def unacknowledged(self) -> int:
        """Bytes sent, also those that wait in our kernel, that the peer's has not acknowledged; 0 where unknown."""

    def write_eof(self) -> None:
        """Half-close: the peer's recv returns b"" after what was sent."""

    def abort(self) -> None:
        """Reset at once (RST), synchronously; idempotent."""

    def close(self) -> None:
        """Close in an orderly way (FIN), synchronously; idempotent."""

    def detach(self) -> socket.socket:
        """Hand over the non-blocking OS socket; this object is unusable afterwards."""


async def read_exactly(recv: Callable[[int], Awaitable[bytes]], count: int, gone: NetworkError) -> bytes:
    """So many bytes by `recv`, and none beyond; raises `gone` when the stream ends before."""
    data = b""
    while len(data) < count:
        more = await recv(count - len(data))
        if not more:
            raise gone
        data += more
    return data


class TcpListener(Protocol):
    """A listening TCP socket; accepted connections went to the acceptor given at opening."""

    @property
    def local(self) -> Endpoint: ...

    def close(self) -> None: ...


Acceptor = Callable[[TcpStream], None]


class Watch(Protocol):
    """Something that goes on until it is closed."""

    def close(self) -> None: ...


class Network(Protocol):
    """What the program may ask of the machine."""

    def interfaces(self) -> tuple[Interface, ...]:
        """Addresses of interfaces that are up, loopback included, link-local and multicast excluded."""

    def gateways(self) -> tuple[Gateway, ...]:
        """Routers with a default route, preferred ones first; () where the machine does not tell."""

    def watch_interfaces(self, on_change: Callable[[], object]) -> Watch:
        """Call `on_change` shortly after `interfaces` or the routes have changed, until the watch is closed."""

    def open_udp(self, local: Endpoint, receiver: DatagramReceiver) -> UdpSocket:
        """Bind (port 0: any). NetworkError when the port is taken."""

    def listen_tcp(self, local: Endpoint, acceptor: Acceptor) -> TcpListener:
        """Listen so that `dial_tcp(..., local=<same endpoint>)` still works beside it. NetworkError when taken."""

    async def dial_tcp(
        self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None
    ) -> TcpStream:
        """Connect; `local` binds first, sharing the port with our listener and other connections of ours.

        `first_ttl` sets the IPv4 TTL / IPv6 hop limit of the first SYN, whose death on the way is no failure: the
        connection may come from the other side, or by the SYN's repetition after a second. Linux only; no limit else.
        The SYN leaves before the first suspension. Cancelling aborts the socket synchronously. NetworkError on refusal.
        """

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        """Literal addresses answer at once, names through the system's resolver; NetworkError when there is none."""

    def resolvers(self) -> tuple[Endpoint, ...]:
        """The name servers that `resolve` asks, for questions that it does not know; () where that is not told."""

    def route_source(self, remote: Endpoint) -> IPAddress | None:
        """The local address the system would use to reach `remote`, None when it has no route. Sends nothing."""
