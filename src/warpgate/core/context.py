"""What all parts of a node share: identity, settings, network, clocks, and the one way to tell what happened."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

from warpgate.config import Config
from warpgate.core.acquaintances import Acquaintances
from warpgate.core.tasks import Tasks
from warpgate.events import Event, Observer
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.identity import Identity, node_id_of
from warpgate.model.translation import Nat64Prefix
from warpgate.net import descriptors
from warpgate.net.network import Interface, Network
from warpgate.plan.targets import Surroundings
from warpgate.plugins.registry import Registry
from warpgate.proto.instances import Instances


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a node takes from what differs in every run; tests give their own."""

    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    wall_clock: Callable[[], float] = time.time  # Unix seconds


class Context:
    """Made before anything runs, and complete then. What changes is where the node is: its address, and what is around.

    All parts of the node hold it; it knows none of them.
    """

    def __init__(
        self,
        identity: Identity,
        config: Config,
        network: Network,
        registry: Registry,
        observer: Observer | None,
        tasks: Tasks,
        sources: Sources,
        instances: Instances,
    ) -> None:
        self.identity = identity
        self.config = config
        self.network = network
        self.registry = registry
        self.observers: list[Observer] = [] if observer is None else [observer]
        self.tasks = tasks
        self.random_bytes = sources.random_bytes
        self.wall_clock = sources.wall_clock
        self.address = NodeAddress(identity.public_key, (), ())
        self.instances = instances
        self.around = Surroundings()
        self.acquainted = Acquaintances()
        self.loop = asyncio.get_running_loop()

    def admit(self, node_id: str) -> None:
        """Let this node in, too, where only some are: its key was proved by a one-time code."""
        if self.config.allow is not None:
            self.config = replace(self.config, allow=self.config.allow | {node_id})

    def knows(self, peer_key: bytes) -> bool:
        """Whether the holder of this key comes before strangers where there is not enough for all."""
        peer = node_id_of(peer_key)
        return peer in self.acquainted or peer in (self.config.allow or ())

    def now(self) -> float:
        return self.loop.time()

    def new_future(self) -> asyncio.Future[None]:
        return self.loop.create_future()

    @staticmethod
    def within_descriptors(count: int) -> int:
        """So many of `count` sockets that strangers may have us hold, as leave the process most of its descriptors."""
        return min(count, descriptors.limit() // 8)

    def emit(self, event: Event) -> None:
        """Tell every observer; an attempt in progress listens too."""
        for observer in tuple(self.observers):
            observer(event)

    def look_around(
        self, used: tuple[Interface, ...], machine: tuple[Interface, ...], nat64: Nat64Prefix | None
    ) -> None:
        """What policy goes by: the links of the interfaces in use, and all that this machine answers to."""
        links = tuple(ip_network((interface.ip, interface.prefix), strict=False) for interface in used)
        self.around = Surroundings(links, frozenset(interface.ip for interface in machine), nat64)

    @property
    def heard_is_reachable(self) -> bool:
        """Whether hearing a peer's check proves that our packets reach it too.

        They do when they leave from the endpoint that the peer addressed. Where mappings depend on the destination,
        a check can come in by another mapping than ours to this peer, but only where filtering lets strangers in:
        a NAT that does both is so rare that it must have been measured to count.
        """
        return not any(at.nat.mapping.endpoint_dependent for at in self.address.attachments)
