"""The node's listening sockets: one TCP and one UDP socket per interface address, all on one port number.

The exception is an address that comes later and on which the number is taken, or that stands for another one (behind a
NAT64, IPv4 and IPv6 share one address of the machine's): it has the next free one.
"""

from __future__ import annotations

import contextlib

from warpgate.core.search.equipment import Equipment
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Interface, Network, TcpListener
from warpgate.net.uplinks import by_use

# How far to look when the identity's own port is taken (another process of the same identity, usually).
PORT_TRIES = 64
HIGHEST_PORT = 65535
# Docker bridges and the like can be many; an address has room for so many, and each costs keepalives. Those that lead
# out stay.
MAX_ATTACHMENTS = 8


def usable_interfaces(network: Network, only: tuple[str, ...] | None) -> tuple[Interface, ...]:
    """Those asked for; else all but loopback; loopback when there is nothing else (offline). By use, see `by_use`."""
    found = by_use((interface for interface in network.interfaces() if not interface.spare), network)
    if only is not None:
        return tuple(interface for interface in found if interface.name in only)[:MAX_ATTACHMENTS]
    outside = tuple(interface for interface in found if not interface.ip.is_loopback)
    return (outside or found)[:MAX_ATTACHMENTS]


class Sockets:
    """Opens and closes them as interfaces come and go; the port number stays."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._listeners: dict[IPAddress, TcpListener] = {}
        self.port = 0
        # Our addresses, each with the number of its interface: the usable ones, and others that are still in use.
        self.held: dict[IPAddress, int] = {}

    def endpoint(self, ip: IPAddress) -> Endpoint:
        """Where we listen on this address; the node's port where we do not (yet)."""
        listener = self._listeners.get(ip)
        return Endpoint(ip, self.port) if listener is None else listener.local

    def open(self, interfaces: tuple[Interface, ...], port: int, exact: bool) -> None:
        """Bind everything on `port`, or (unless `exact`) the next free one; 0: on any. NetworkError when there is none.

        What is free over UDP may be taken over TCP: any port means another try.
        """
        self.held = {interface.ip: interface.index for interface in interfaces}
        candidates = [port] if exact and port else [port + more if port else 0 for more in range(PORT_TRIES)]
        for tried, candidate in enumerate(candidates, start=1):
            with contextlib.ExitStack() as undo:
                chosen = candidate
                try:
                    for ip in self.held:
                        chosen = self._open_one(Endpoint(ip, chosen), undo)
                except NetworkError:
                    if tried == len(candidates):
                        raise
                    continue
                undo.pop_all()
                self.port = chosen
                return

    def _open_one(self, endpoint: Endpoint, undo: contextlib.ExitStack) -> int:
        """UDP first: nobody can share it, so it is also what keeps two processes off one TCP port. Returns the port."""
        base = self._equipment.udp.open(endpoint).base
        undo.callback(self._equipment.udp.close_port, base)
        fixed = Endpoint(endpoint.ip, base.port)
        listener = self._equipment.context.network.listen_tcp(fixed, self._equipment.accept)
        undo.callback(listener.close)
        self._listeners[endpoint.ip] = listener
        undo.callback(self._listeners.pop, endpoint.ip, None)
        return base.port

    def in_use(self, ip: IPAddress) -> bool:
        """Whether something beside the listeners is open on it, over UDP."""
        return any(port.base.ip == ip and port.in_use for port in self._equipment.udp.ports)

    def update(self, interfaces: tuple[Interface, ...], gone: frozenset[IPAddress]) -> None:
        """Follow a change of interfaces: what was open on `gone` addresses is closed, though they may be back by now.

        Pipes on addresses that stay live on; one that cannot be bound is left out.
        """
        self._equipment.udp.kept.vanished(gone)
        for ip in gone & set(self._listeners):
            listener = self._listeners.pop(ip)
            self._equipment.discovery.remove(listener.local)
            self._equipment.udp.close_port(listener.local)
            listener.close()
        for interface in interfaces:
            if interface.ip not in self._listeners:
                self._open_later(interface.ip)

    def _open_later(self, ip: IPAddress) -> None:
        for port in range(self.port, min(self.port + PORT_TRIES, HIGHEST_PORT + 1)):
            with contextlib.suppress(NetworkError), contextlib.ExitStack() as undo:
                self._open_one(Endpoint(ip, port), undo)
                undo.pop_all()
                local = self.endpoint(ip)
                self._equipment.discovery.add(self._equipment.udp.port(local).socket, local.port)
                return

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
