"""The node's side of port mapping: when to do it, and what of it goes into the address."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from warpgate.core.context import Context
from warpgate.core.disk.lease_store import lease_store
from warpgate.core.disk.store import kept_at
from warpgate.events import DoubleNatFound
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, LearntBy, Listening
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.scope import Scope, scope_of
from warpgate.net.network import Interface
from warpgate.services.portmap_board import Mapped, routes_of

if TYPE_CHECKING:
    from warpgate.services.portmapper import PortMapper

# A gateway may name another address each time.
MOST_DOUBLE_NATS = 16


@dataclass(frozen=True, slots=True)
class PortMapStatus:
    """Which gateways are asked, and what they map now, announced or not."""

    gateways: tuple[str, ...] = ()
    mappings: tuple[Mapped, ...] = ()
    double_nats: tuple[DoubleNatFound, ...] = ()


class PortMapping:
    """Life: `follow` when the sockets are open and after each change, `close`. Nothing is done before there is a
    gateway to ask, so a node that uses only loopback sends nothing and touches no file."""

    def __init__(self, context: Context, on_change: Callable[[], None], rng: random.Random, store: str = "") -> None:
        """`store`: what the file of this port's mappings has behind the node's id."""
        self._context = context
        self._store = store
        self._on_change = on_change
        self._rng = rng
        self._mapper: PortMapper | None = None
        self._double: set[DoubleNatFound] = set()
        self._led: dict[tuple[IPAddress, Transport], IPAddress] = {}  # the last external address that led to ours

    def follow(self, interfaces: Sequence[Interface], port: int) -> None:
        """Map `port` on these interfaces, in the background."""
        context = self._context
        if not context.config.port_map:
            return
        if self._mapper is None:
            if not routes_of(interfaces, context.network):
                return
            from warpgate.services.portmapper import PortMapper  # noqa: PLC0415 - a seventh of what a node loads

            self._mapper = PortMapper(
                context.network,
                port,
                lease_store(kept_at("leases", f"{context.identity.node_id}{self._store}.json")),
                context.emit,
                self._on_change,
                context.random_bytes,
                self._rng,
                context.config.timing.port_map_lease,
            )
        self._mapper.follow(interfaces)

    @property
    def status(self) -> PortMapStatus:
        mapper = self._mapper
        if mapper is None:
            return PortMapStatus()
        gateways = tuple(dict.fromkeys(str(route.gateway.ip) for route in mapper.routes))
        return PortMapStatus(gateways, mapper.mappings, tuple(self._double))

    def mapped(self, host: IPAddress, transport: Transport) -> Endpoint | None:
        """Where the world reaches the port at this address of ours, by a router's word; None until there is one."""
        mapped = None if self._mapper is None else self._mapper.mapped(host, transport)
        return None if mapped is None else mapped.external

    def outside(self, host: IPAddress) -> frozenset[IPAddress]:
        """The external addresses that gateways have told for what they map to this one of ours."""
        if self._mapper is None:
            return frozenset()
        mapped = (self._mapper.mapped(host, transport) for transport in Transport)
        return frozenset(one.external.ip for one in mapped if one is not None)

    def announce(self, attachment: Attachment) -> Attachment:
        """The attachment with the mapped ports in place of those that STUN saw, where they lead to this node."""
        if self._mapper is None:
            return attachment
        behind = self._mapper.behind(attachment.host)
        if behind is not None:
            self._tell_double_nat(behind, attachment)
        for transport in Transport:
            mapped = self._mapper.mapped(attachment.host, transport)
            if mapped is None:
                continue
            if leads_here(mapped.external.ip, attachment):
                self._led[attachment.host, transport] = mapped.external.ip
                attachment = with_mapping(attachment, transport, mapped.external)
            elif self._led.get((attachment.host, transport)) != mapped.external.ip:  # else it has changed, and is asked
                self._tell_double_nat(mapped.external.ip, attachment)
        return attachment

    def _tell_double_nat(self, external: IPAddress, attachment: Attachment) -> None:
        reflexive = attachment.reflexive
        event = DoubleNatFound(str(attachment.host), str(external), "" if reflexive is None else str(reflexive))
        if event not in self._double and len(self._double) < MOST_DOUBLE_NATS:
            self._double.add(event)
            self._context.emit(event)

    async def close(self) -> None:
        """Delete what is mapped; at most 0.8 s."""
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            await mapper.close()


def leads_here(external: IPAddress, attachment: Attachment) -> bool:
    """Whether the gateway's external address is the one the world sees. Until STUN has told, a public one is."""
    if attachment.reflexive is not None:
        return external == attachment.reflexive
    return external == attachment.host or scope_of(external) is Scope.GLOBAL


def with_mapping(attachment: Attachment, transport: Transport, external: Endpoint) -> Attachment:
    """Announce `external` as the mapped endpoint of this transport."""
    listening = Listening(attachment.listening(transport).local, external.port, LearntBy.PORT_MAP)
    if transport is Transport.UDP:
        return replace(attachment, reflexive=external.ip, udp=listening)
    return replace(attachment, reflexive=external.ip, tcp=listening)
