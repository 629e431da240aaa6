"""The real network: kernel sockets on whatever asyncio loop runs (the stock selector loop, uvloop)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from warpgate.errors import AddressError, NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net import tcp, udp
from warpgate.net.devices import Devices
from warpgate.net.interfaces import InterfaceWatcher, default_gateways, usable
from warpgate.net.network import Acceptor, DatagramReceiver, Gateway, Interface, TcpListener
from warpgate.net.sockets import address_family, network_error
from warpgate.net.threads import in_thread
from warpgate.platform import INTERFACES

# connect() on UDP needs some port to ask for a route; discard (RFC 863), and nothing is sent anyway.
_DISCARD_PORT = 9
DNS_PORT = 53


class SystemNetwork:
    """Who opens something owns it. Sockets belong to the running loop, and stay on the interface of their address as
    far as `interfaces` told of it when it was last asked.

    Not with `follow_routes`, which is for servers: a client may ask an address of ours by any interface (one of the
    loopback's or of another network's), and the answer takes the way that leads back to it.
    """

    def __init__(self, *, follow_routes: bool = False) -> None:
        self._devices = Devices()
        self._follow_routes = follow_routes

    def interfaces(self) -> tuple[Interface, ...]:
        assigned = INTERFACES.assigned()
        if not self._follow_routes:
            self._devices.learn(assigned)
        return usable(assigned)

    def gateways(self) -> tuple[Gateway, ...]:
        return default_gateways()

    def resolvers(self) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(ip, DNS_PORT) for ip in INTERFACES.resolvers())

    def watch_interfaces(self, on_change: Callable[[], object]) -> InterfaceWatcher:
        return InterfaceWatcher(on_change)

    def open_udp(self, local: Endpoint, receiver: DatagramReceiver) -> udp.SystemUdpSocket:
        try:
            return udp.SystemUdpSocket(udp.bind_udp(local, self._devices.of(local.ip)), receiver)
        except OSError as error:
            raise network_error(f"open UDP {local}", error) from error

    def listen_tcp(self, local: Endpoint, acceptor: Acceptor) -> TcpListener:
        try:
            listener = tcp.SystemTcpListener(tcp.listen(local), acceptor)
        except OSError as error:
            raise network_error(f"listen on TCP {local}", error) from error
        device = self._devices.of(local.ip)
        beside = None if device is None else tcp.listen_beside(listener.local, device)
        return listener if beside is None else _Listeners(listener, tcp.SystemTcpListener(beside, acceptor))

    async def dial_tcp(
        self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None
    ) -> tcp.SystemTcpStream:
        source = self.route_source(remote) if local is None else local.ip
        device = None if source is None else self._devices.to(source, remote)
        return await tcp.dial(remote, local, device, first_ttl)

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        try:
            return (Endpoint.of(host, port),)
        except AddressError:
            pass
        try:
            found = await in_thread(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:  # a label that IDNA cannot express, or a NUL
            reason = error.strerror if isinstance(error, OSError) else "not a host name"
            raise NetworkError(f"resolve {host!r}: {reason}") from error
        return tuple(dict.fromkeys(Endpoint.of(str(entry[4][0]), port) for entry in found))

    def route_source(self, remote: Endpoint) -> IPAddress | None:
        with socket.socket(address_family(remote.family), socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((str(remote.ip), remote.port or _DISCARD_PORT))
                return Endpoint.from_sockaddr(sock.getsockname()).ip
            except OSError:
                return None


class _Listeners:
    """Two sockets on one endpoint, as one."""

    def __init__(self, anywhere: TcpListener, on_device: TcpListener) -> None:
        self._anywhere = anywhere
        self._on_device = on_device

    @property
    def local(self) -> Endpoint:
        return self._anywhere.local

    def close(self) -> None:
        self._on_device.close()
        self._anywhere.close()
