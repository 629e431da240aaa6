"""What initiator and responder share: identity, sockets, services, sessions, and the one way to tell what happened."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Protocol

from warpgate.config import Config
from warpgate.core.search.budget import RandomPunches
from warpgate.core.search.links import UnchosenLinks
from warpgate.core.search.session import Session
from warpgate.core.tasks import Tasks
from warpgate.errors import AttemptFailed
from warpgate.events import Event, Observer
from warpgate.model.address import BrokerRef, NodeAddress
from warpgate.model.identity import Identity, node_id_of
from warpgate.model.translation import Nat64Prefix
from warpgate.net import descriptors
from warpgate.net.network import Interface, Network
from warpgate.plan.targets import Surroundings
from warpgate.plugins.base import Registry
from warpgate.proto.envelope import seal
from warpgate.proto.gate import TokenBucket
from warpgate.proto.signals import PluginMessage, Signal, SignalKind

if TYPE_CHECKING:
    from warpgate.core.search.tcp_door import TcpDoor
    from warpgate.core.udp.demultiplexer import Demultiplexer
    from warpgate.services.discovery import Discovery
    from warpgate.services.relay import Relays

TOPIC = "warpgate/2/"
CLOCKS_REMEMBERED = 256


class Channel(Protocol):
    """What a search asks of the signal channel."""

    @property
    def brokers(self) -> tuple[BrokerRef, ...]: ...

    def publish(self, urls: tuple[str, ...], topic: str, data: bytes) -> int: ...

    def one_way(self, peer_brokers: tuple[BrokerRef, ...]) -> float | None: ...


def within_descriptors(count: int) -> int:
    """So many of `count` sockets that strangers may have us hold, as leave the process most of its descriptors."""
    return min(count, descriptors.limit() // 8)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a node takes from what differs in every run; tests give their own."""

    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    wall_clock: Callable[[], float] = time.time  # Unix seconds


class Context:
    """Built once by the node before anything runs; the parts it names live as long as it does."""

    udp: Demultiplexer
    tcp_door: TcpDoor
    discovery: Discovery
    channel: Channel
    relays: Relays

    def __init__(
        self,
        identity: Identity,
        config: Config,
        network: Network,
        registry: Registry,
        observer: Observer | None,
        tasks: Tasks,
        sources: Sources,
    ) -> None:
        self.identity = identity
        self.config = config
        self.network = network
        self.registry = registry
        self.observers: list[Observer] = [] if observer is None else [observer]
        self.tasks = tasks
        self.random_bytes = sources.random_bytes
        self.wall_clock = sources.wall_clock
        self.sessions: dict[bytes, Session] = {}
        self.unchosen = UnchosenLinks(within_descriptors(config.budgets.unchosen_links))
        # By how much the clocks of peers that challenged us are ahead of ours, seconds; least recently used first.
        self.clocks: OrderedDict[bytes, float] = OrderedDict()
        self.address = NodeAddress(identity.public_key, (), ())
        self.around = Surroundings()
        self._loop = asyncio.get_running_loop()
        rate = config.budgets.relay_targets_per_second
        self.random_punches = RandomPunches(config.budgets)
        self.relay_targets = TokenBucket(rate, 4 * rate, self.now())

    def admit(self, node_id: str) -> None:
        """Let this node in, too, where only some are: its key was proved by a one-time code."""
        if self.config.allow is not None:
            self.config = replace(self.config, allow=self.config.allow | {node_id})

    def now(self) -> float:
        return self._loop.time()

    def new_future(self) -> asyncio.Future[None]:
        return self._loop.create_future()

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

    def estimate_delay(self, remote: NodeAddress) -> float | None:
        return self.channel.one_way(remote.brokers)

    def post(
        self,
        session: Session,
        kind: SignalKind,
        sequence: int,
        messages: tuple[PluginMessage, ...],
    ) -> int:
        """Seal one envelope for the session's peer and publish it; AttemptFailed when there is no broker for it."""
        held = -1.0 if session.heard_at is None else self.now() - session.heard_at
        signal = Signal(
            kind=kind,
            session=session.id,
            sequence=sequence,
            acknowledges=session.acknowledges,
            time=max(0.0, self.wall_clock() + self.clocks.get(session.peer_key, 0.0)),
            address=self.address.encode(),
            messages=messages,
            known=session.remote.plan_digest(self.address) if session.initiator else b"",
            held=held,
            mode=session.mode.value,
            secure=session.secure,
            token=session.token,
        )
        # A stranger's offer came over one of our own brokers, and its sender listens there too: what answers it goes
        # nowhere else, or anybody could make us connect to a host of its choice.
        brokers = session.remote.brokers if session.initiator else self.channel.brokers
        if not brokers:
            raise AttemptFailed("the peer's address names no broker, so it cannot be signalled")
        return self.publish(session.peer_key, signal, brokers)

    def learn_clock(self, peer_key: bytes, ahead: float) -> None:
        """A peer's clock is `ahead` seconds of ours: what is said to it is dated by its clock from now on."""
        self.clocks[peer_key] = ahead
        self.clocks.move_to_end(peer_key)
        if len(self.clocks) > CLOCKS_REMEMBERED:
            self.clocks.popitem(last=False)

    def publish(self, peer_key: bytes, signal: Signal, brokers: tuple[BrokerRef, ...]) -> int:
        """Seal a signal to its receiver; on how many of the brokers it went out at once. ProtocolError: too large."""
        data = seal(self.identity, peer_key, signal, self.random_bytes(16))
        urls = tuple(broker.url for broker in brokers)
        return self.channel.publish(urls, TOPIC + node_id_of(peer_key), data)
