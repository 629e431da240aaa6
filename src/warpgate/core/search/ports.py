"""The UDP sockets of one session besides the node's own, and the pairs of endpoints that led to its peer before."""

from __future__ import annotations

from typing import Protocol

from warpgate.core.search.equipment import Equipment
from warpgate.core.search.links import UdpLink
from warpgate.core.udp.demultiplexer import SessionChecks
from warpgate.errors import NetworkError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.net.threads import in_thread


class SessionPorts:
    """They are the session's until `close`, but for one that a pipe or a path has taken along."""

    def __init__(self, equipment: Equipment) -> None:
        self._udp = equipment.udp
        self._discovery = equipment.discovery
        self._opened: list[Endpoint] = []  # which bases
        self._kept: Endpoint | None = None

    def open(self, near: Endpoint) -> Endpoint:
        """A fresh one on the interface of `near`; its base. NetworkError."""
        return self.adopt(self._udp.open(Endpoint(near.ip, 0)).base)

    def adopt(self, base: Endpoint) -> Endpoint:
        """This one of the demultiplexer's was opened for this session."""
        self._opened.append(base)
        return base

    def drop(self, base: Endpoint) -> None:
        """It is not needed after all."""
        self._opened.remove(base)
        self._udp.close_port(base)

    def give(self, base: Endpoint, heir: SessionPorts) -> None:
        """It is another session's from now on."""
        self._opened.remove(base)
        heir.adopt(base)

    def can_be_mapped(self, near: Endpoint) -> bool:
        """Whether a server could tell what it sees of a socket on this interface."""
        return self._discovery.answered(near)

    async def map(self, base: Endpoint) -> Endpoint:
        """What the outside sees of one, asked now. ServiceError when no server answers."""
        return await self._discovery.map_udp(self._udp.port(base).socket)

    def keep(self, base: Endpoint) -> bool:
        """Whether it was opened for this session, or one before: the pipe on it takes it along."""
        if base not in self._opened and not self._udp.kept.take(base):
            return False
        self._kept = base
        return True

    def close(self) -> None:
        for base in self._opened:
            if base != self._kept:
                self._udp.close_idle(base)


class Reached(Protocol):
    """What the pairs found before need of their session."""

    @property
    def equipment(self) -> Equipment: ...
    @property
    def ports(self) -> SessionPorts: ...
    @property
    def checks(self) -> SessionChecks: ...
    @property
    def initiator(self) -> bool: ...
    @property
    def invited(self) -> bool: ...
    @property
    def peer_key(self) -> bytes: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def remote(self) -> NodeAddress: ...
    def note(self, plugin: str, text: str) -> None: ...
    def refuse_target(self, endpoint: Endpoint) -> str | None: ...


class FoundBefore:
    """The pairs by which this peer was reached before, or is by now, that no address tells; implements the plugins'
    `try_found`.
    """

    def __init__(self, session: Reached) -> None:
        self._session = session
        self._pairs: set[tuple[Endpoint, Endpoint]] = set()  # being tried

    def check(self, plugin: str) -> bool:
        """Check each once; whether there are any."""
        session = self._session
        for base, remote in self._bound() if session.initiator else ():
            self._pairs.add((base, remote))
            session.note(plugin, f"trying {base} -> {remote}, by which the peer was reached before")
            session.checks.probe(base, remote, plugin, None, None)
        return bool(self._pairs)

    def _bound(self) -> list[tuple[Endpoint, Endpoint]]:
        """New ones that can be tried; what has to be bound for them is. Streams share a pair with others; datagrams
        carry no label.
        """
        session, alone = self._session, self._session.mode is Mode.DATAGRAM
        udp, found = session.equipment.udp, session.equipment.found.of(session.peer_key)
        own = _listening(session.equipment.context.address) if found else set()
        addresses = {endpoint.ip for endpoint in own}
        pairs = []
        for base, remote in found:
            taken = alone and udp.owner(base, remote) is not None
            if taken or (base, remote) in self._pairs or base.ip not in addresses or session.refuse_target(remote):
                continue
            if base not in own and base not in udp.kept and (alone or not udp.has(base)):
                try:
                    session.ports.adopt(udp.open(base).base)
                except NetworkError:
                    continue  # somebody's, or that of a pipe of ours
            pairs.append((base, remote))
        return pairs

    def remember(self, link: UdpLink) -> None:
        """It was chosen. What the addresses tell need not be remembered, and what a peer made us look for is not."""
        session, context = self._session, self._session.equipment.context
        told = {
            *_listening(session.remote),
            *(at.reflexive_endpoint(Transport.UDP) for at in session.remote.attachments),
        }
        known = link.local in _listening(context.address) and link.remote in told
        if session.invited and not link.relayed and not known:
            write = session.equipment.found.found(session.peer_key, link.local, link.remote)
            context.tasks.spawn("found pairs", in_thread(write, daemon=False))


def _listening(address: NodeAddress) -> set[Endpoint]:
    """The UDP sockets of its own that it tells of."""
    endpoints = (at.host_endpoint(Transport.UDP) for at in address.attachments)
    return {endpoint for endpoint in endpoints if endpoint is not None}
