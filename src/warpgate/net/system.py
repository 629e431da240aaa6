"""The real network: kernel sockets on whatever asyncio loop runs (the stock selector loop, uvloop)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from warpgate.errors import AddressError, NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net import tcp, udp
from warpgate.net.interfaces import InterfaceWatcher, default_gateways, enumerate_interfaces
from warpgate.net.network import Acceptor, DatagramReceiver, Gateway, Interface
from warpgate.net.sockets import address_family, network_error
from warpgate.net.threads import in_thread

# connect() on UDP needs some port to ask for a route; discard (RFC 863), and nothing is sent anyway.
_DISCARD_PORT = 9


class SystemNetwork:
    """Stateless: who opens something owns it. Sockets belong to the running loop."""

    def interfaces(self) -> tuple[Interface, ...]:
        return enumerate_interfaces()

    def gateways(self) -> tuple[Gateway, ...]:
        return default_gateways()

    def watch_interfaces(self, on_change: Callable[[], object]) -> InterfaceWatcher:
        return InterfaceWatcher(on_change)

    def open_udp(self, local: Endpoint, receiver: DatagramReceiver) -> udp.SystemUdpSocket:
        try:
            return udp.SystemUdpSocket(udp.bind_udp(local), receiver)
        except OSError as error:
            raise network_error(f"open UDP {local}", error) from error

    def listen_tcp(self, local: Endpoint, acceptor: Acceptor) -> tcp.SystemTcpListener:
        try:
            return tcp.SystemTcpListener(tcp.listen(local), acceptor)
        except OSError as error:
            raise network_error(f"listen on TCP {local}", error) from error

    async def dial_tcp(self, remote: Endpoint, local: Endpoint | None = None) -> tcp.SystemTcpStream:
        return await tcp.dial(remote, local)

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        try:
            return (Endpoint.of(host, port),)
        except AddressError:
            pass
        try:
            found = await in_thread(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA cannot express
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
