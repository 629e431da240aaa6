"""What is mapped on one route to a gateway, by whom; and what a later run must know to delete it.

Whether a gateway's external address is one that peers could connect to is judged here, too: it may say anything.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from typing import Protocol

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.scope import UNIQUE_LOCAL, Scope, scope_of
from warpgate.net.network import Gateway, Interface, Network


@dataclass(frozen=True, slots=True)
class Route:
    """One of our addresses and the gateway it leaves by."""

    interface: Interface
    gateway: Gateway

    @property
    def ip(self) -> IPAddress:
        return self.interface.ip


@dataclass(frozen=True, slots=True)
class Mapped:
    """A gateway passes on what comes to `external`. `lifetime` in seconds as granted; 0: until deleted."""

    transport: Transport
    internal: Endpoint
    external: Endpoint
    protocol: str
    gateway: str
    lifetime: float


@dataclass(frozen=True, slots=True)
class Remembered:
    """A mapping that exists, or may. `protocol` is "pcp" (NAT-PMP included) or "upnp"; `nonce` is PCP's."""

    protocol: str
    gateway: str
    transport: Transport
    internal: Endpoint
    external_port: int
    nonce: bytes = b""


class Outside(enum.Enum):
    """The value is what to tell the user."""

    USABLE = "its external address can be reached"
    NONE = "it has no external address: it is not connected"
    PRIVATE = "its external address is a private one, so another NAT is before it"
    NONSENSE = "what it calls its external address is none"


def judge(ip: IPAddress | None, own: IPAddress) -> Outside:
    """`own` is the address that is mapped; a firewall that only lets in names that one. A private IPv4 one is
    translated somewhere.
    """
    if ip is None or ip.is_unspecified:
        return Outside.NONE
    if ip.version != own.version:
        return Outside.NONSENSE
    scope = scope_of(ip)
    if scope is Scope.GLOBAL or (ip == own and ip.version == 6):
        return Outside.USABLE
    if ip == own:
        return Outside.NONSENSE
    return Outside.PRIVATE if scope in (Scope.SITE, Scope.TRANSLATOR) else Outside.NONSENSE


class LeaseStore(Protocol):
    """Keeps what is mapped between runs. Neither verb raises: a mapping that is forgotten runs out by itself."""

    def load(self) -> tuple[Remembered, ...]: ...

    def save(self, leases: tuple[Remembered, ...]) -> None: ...


class Board:
    """The mappings of one route. Whoever comes first with a transport holds it; the other is told to drop his."""

    def __init__(self, route: Route, port: int, earlier: tuple[Remembered, ...], on_change: Callable[[], None]) -> None:
        """`earlier`: what a former run left at this gateway and address."""
        self.route = route
        self.port = port
        self.earlier = earlier
        # The gateway's external address where it is of use to nobody: another NAT is in front of it.
        self.behind: IPAddress | None = None
        self._on_change = on_change
        self._held: dict[Transport, tuple[Mapped, Remembered]] = {}
        self._moved = asyncio.Event()

    @property
    def mapped(self) -> tuple[Mapped, ...]:
        return tuple(mapped for mapped, _ in self._held.values())

    @property
    def to_remember(self) -> tuple[Remembered, ...]:
        """What is mapped, and what an earlier run left without a lease that would end."""
        unsettled = tuple(left for left in self.earlier if left.protocol == "upnp")
        return tuple(dict.fromkeys([*(remembered for _, remembered in self._held.values()), *unsettled]))

    @property
    def missing(self) -> tuple[Transport, ...]:
        return tuple(transport for transport in Transport if transport not in self._held)

    def internal(self) -> Endpoint:
        return Endpoint(self.route.ip, self.port)

    def get(self, transport: Transport) -> Mapped | None:
        return self._held[transport][0] if transport in self._held else None

    def offer(self, mapped: Mapped, remembered: Remembered) -> bool:
        """Take it, or take the news about it; False when the transport is held by the other protocol."""
        held = self.get(mapped.transport)
        if held is not None and held.protocol != mapped.protocol:
            return False
        self._held[mapped.transport] = mapped, remembered
        self.behind = None
        if held != mapped:
            self._changed()
        return True

    def withdraw(self, transport: Transport, protocol: str) -> None:
        """It is not mapped any more, if it was by this protocol."""
        held = self.get(transport)
        if held is not None and held.protocol == protocol:
            del self._held[transport]
            self._changed()

    def is_behind(self, outside: IPAddress) -> None:
        """The gateway has this private external address."""
        if self.behind != outside:
            self.behind = outside
            self._on_change()

    def settle(self, left: Remembered) -> None:
        """This is taken over or deleted: nothing of an earlier run any more."""
        self.earlier = tuple(other for other in self.earlier if other != left)
        self._on_change()

    def nudge(self) -> None:
        """Let whoever waits for `moved` look again."""
        self._moved.set()

    async def moved(self) -> None:
        """Until something else is mapped than now."""
        self._moved.clear()
        await self._moved.wait()

    def _changed(self) -> None:
        self._moved.set()
        self._on_change()


def routes_of(interfaces: Sequence[Interface], network: Network) -> tuple[Route, ...]:
    """Where mapping makes sense: addresses (not loopback, not ULA) whose interface has a gateway of their family."""
    wanted = [
        interface
        for interface in interfaces
        if not interface.ip.is_loopback and (interface.ip.version == 4 or interface.ip not in UNIQUE_LOCAL)
    ]
    if not wanted:
        return ()
    found = []
    for interface in wanted:
        for gateway in network.gateways():
            if gateway.interface == interface.name and gateway.ip.version == interface.ip.version:
                found.append(Route(interface, gateway))
                break
    return tuple(found)
