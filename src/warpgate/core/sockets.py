"""The node's listening sockets: one TCP and one UDP socket per interface address, all on one port number."""

from __future__ import annotations

import contextlib

from warpgate.core.engine import Engine
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Interface, TcpListener

# How far to look when the identity's own port is taken (another process of the same identity, usually).
PORT_TRIES = 64
# Docker bridges and the like can be many; an address has room for so many, and each costs keepalives.
MAX_ATTACHMENTS = 8


def usable_interfaces(found: tuple[Interface, ...], only: tuple[str, ...] | None) -> tuple[Interface, ...]:
    """Those asked for; else all but loopback; loopback when there is nothing else (offline)."""
    if only is not None:
        return tuple(interface for interface in found if interface.name in only)[:MAX_ATTACHMENTS]
    outside = tuple(interface for interface in found if not interface.ip.is_loopback)
    return (outside or found)[:MAX_ATTACHMENTS]


class Sockets:
    """Opens and closes them as interfaces come and go; the port number stays."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listeners: dict[IPAddress, TcpListener] = {}
        self.port = 0

    def open(self, interfaces: tuple[Interface, ...], port: int, exact: bool) -> None:
        """Bind everything on `port`, or (unless `exact`) the next free one. NetworkError when there is none."""
        addresses = [interface.ip for interface in interfaces]
        for candidate in range(port, port + (1 if exact else PORT_TRIES)):
            with contextlib.ExitStack() as undo:
                chosen = candidate
                try:
                    for ip in addresses:
                        chosen = self._open_one(Endpoint(ip, chosen), undo)
                except NetworkError:
                    if exact or candidate == port + PORT_TRIES - 1:
                        raise
                    continue
                undo.pop_all()
                self.port = chosen
                return

    def _open_one(self, endpoint: Endpoint, undo: contextlib.ExitStack) -> int:
        """UDP first: nobody can share it, so it is also what keeps two processes off one TCP port. Returns the port."""
        base = self._engine.hub.open(endpoint).base
        undo.callback(self._engine.hub.close_port, base)
        fixed = Endpoint(endpoint.ip, base.port)
        listener = self._engine.network.listen_tcp(fixed, self._engine.strangers.accept)
        undo.callback(listener.close)
        self._listeners[endpoint.ip] = listener
        undo.callback(self._listeners.pop, endpoint.ip, None)
        return base.port

    def update(self, interfaces: tuple[Interface, ...]) -> None:
        """Follow a change of interfaces. Pipes on addresses that stay live on; one that cannot be bound is left out."""
        wanted = {interface.ip for interface in interfaces}
        removed = set(self._listeners) - wanted
        for ip in removed:
            self._listeners.pop(ip).close()
            self._engine.discovery.remove(Endpoint(ip, self.port))
            self._engine.hub.close_port(Endpoint(ip, self.port))
        for ip in wanted - set(self._listeners):
            with contextlib.suppress(NetworkError), contextlib.ExitStack() as undo:
                self._open_one(Endpoint(ip, self.port), undo)
                undo.pop_all()
                self._engine.discovery.add(self._engine.hub.port(Endpoint(ip, self.port)).socket, self.port)

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
