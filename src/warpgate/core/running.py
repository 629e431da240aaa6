"""Everything that exists while a node runs: its sockets, services, engine, and the address they add up to."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from warpgate.config import Config
from warpgate.core.connector import Connector
from warpgate.core.engine import TOPIC, Engine
from warpgate.core.hub import UdpHub
from warpgate.core.known_peers import KnownPeers
from warpgate.core.links import TcpLink
from warpgate.core.names import Names
from warpgate.core.pipe import Pipe
from warpgate.core.pipes import PipeMaker
from warpgate.core.port_mapping import PortMapping, PortMapStatus
from warpgate.core.quic_door import QuicDoor
from warpgate.core.responder import Responder
from warpgate.core.session import Session
from warpgate.core.signals import SignalReader
from warpgate.core.sockets import Sockets, usable_interfaces
from warpgate.core.strangers import Strangers
from warpgate.core.tasks import Tasks
from warpgate.errors import AuthenticationError, ConfigError
from warpgate.events import (
    AddressChanged,
    Event,
    NodeStarted,
    Observer,
    PluginBroken,
    ServerFailed,
    StrangerRefused,
)
from warpgate.model.address import Attachment, BrokerRef, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity, listen_port_of
from warpgate.net.network import Interface, Watch
from warpgate.net.translated import TranslatedNetwork
from warpgate.plugins.base import Registry
from warpgate.proto.hello import HelloReceived, Role
from warpgate.services.broker import BrokerConnector
from warpgate.services.defaults import public_servers
from warpgate.services.discovery import Discovery
from warpgate.services.nat64 import PrefixDiscovery
from warpgate.services.relay import Relays
from warpgate.services.signaling import SignalChannel

# Pipes that peers opened and nobody has accepted yet; each holds a socket.
ACCEPT_QUEUE = 128
# Where an interface lacks IPv4, brokers wait for the resolver's word on NAT64, as they may be reached only by that: a
# resolver near enough to be of use answers in a few round trips.
NAT64_PATIENCE = 0.5

MessageHandler = Callable[[bytes, Pipe], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A snapshot for doctor: what the node has, what works, and what happened so far by event name."""

    interfaces: tuple[Interface, ...]
    attachments: tuple[Attachment, ...]
    brokers: tuple[BrokerRef, ...]
    failures: tuple[ServerFailed, ...]
    counts: tuple[tuple[str, int], ...]
    port_map: PortMapStatus = field(default_factory=PortMapStatus)
    nat64: str = ""  # the prefix by which IPv4 is reached on interfaces that have none, "" without


class Running:
    """Everything that exists while the node runs."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        network: TranslatedNetwork,
        broker_connector: BrokerConnector,
        observer: Observer | None,
        registry: Registry,
        handlers: list[MessageHandler],
        contacts: KnownPeers,
    ) -> None:
        self._config = config
        self._handlers = handlers
        self._network = network
        self._counts: Counter[str] = Counter()
        self._failures: dict[tuple[str, str], ServerFailed] = {}
        self.tasks = Tasks(lambda name, error: self.engine.emit(ServerFailed("task", name, str(error))))
        self.engine = engine = Engine(identity, config, network, registry, observer, self.tasks)
        engine.observers.append(self._count)
        self.pipes = PipeMaker(engine)
        self.responder = Responder(engine, self.pipes, self._take_pipe)
        engine.strangers = Strangers(engine, self._find_session, self.responder.forget, self._take_link)
        engine.hub = UdpHub(network, self.responder.introduce, self._garbage)
        engine.relays = Relays(
            network,
            config.turn,
            engine.emit,
            ca_file=config.ca_file,
            limit=config.budgets.relay_allocations,
            wall_clock=engine.wall_clock,
        )
        self.quic_door = QuicDoor(engine, self.responder.take_quic)
        engine.hub.admit = self.quic_door.admit
        self.sockets = Sockets(engine)
        rng = random.Random()
        stun = tuple(map(str, public_servers().stun)) if config.stun is None else config.stun
        engine.discovery = engine.hub.discovery = Discovery(
            network, stun, config.timing, engine.emit, self._update_address, rng
        )
        urls = tuple(map(str, public_servers().brokers)) if config.brokers is None else config.brokers
        reader = SignalReader(engine, self.responder)
        engine.channel = self.channel = SignalChannel(
            broker_connector,
            TOPIC + identity.node_id,
            urls,
            home=config.home_brokers,
            timing=config.timing,
            on_envelope=reader.receive,
            emit=engine.emit,
            on_change=self._update_address,
            rng=rng,
        )
        self.port_mapping = PortMapping(engine, self._update_address, rng)
        self.names = Names(engine, contacts, rng)
        self.connectors: set[Connector] = set()
        self.accepted: asyncio.Queue[Pipe | None] = asyncio.Queue()
        self.interfaces: tuple[Interface, ...] = ()
        self._nat64 = PrefixDiscovery(network, engine.emit, self._translation_changed, rng)
        self._watch: Watch | None = None

    async def start(self) -> None:
        began = time.perf_counter()
        engine, config = self.engine, self._config
        self.interfaces = usable_interfaces(self._network.interfaces(), config.interfaces)
        if not self.interfaces:
            raise ConfigError(f"no usable network interface among {', '.join(config.interfaces or ('all',))}")
        engine.use_interfaces(self.interfaces)
        port = listen_port_of(engine.identity.public_key) if config.port is None else config.port
        self.sockets.open(self.interfaces, port, exact=config.port is not None)
        for hub_port in engine.hub.ports:
            engine.discovery.add(hub_port.socket, self.sockets.port)
        self._update_address()
        self.tasks.spawn("discovery", engine.discovery.run())
        self.tasks.spawn("stalled pipes", self.pipes.watch())
        patience = config.timing.start_patience
        self._nat64.look()
        await self._nat64.first(min(patience, NAT64_PATIENCE))
        self.channel.start()
        self.port_mapping.follow(self.interfaces, self.sockets.port)
        self.names.start()
        self.tasks.spawn("QUIC library", self.quic_door.prepare())
        # Imports and entry points: 20 ms better spent while servers answer than in an attempt.
        for broken in engine.registry.broken:
            engine.emit(PluginBroken(broken.entry, broken.package, broken.reason))
        await asyncio.gather(engine.discovery.first(patience), self.channel.first_home(patience))
        self._update_address()
        self._watch = self._network.watch_interfaces(self._interfaces_changed)
        if usable_interfaces(self._network.interfaces(), config.interfaces) != self.interfaces:
            self._interfaces_changed()  # while nobody watched
        engine.emit(NodeStarted(engine.identity.node_id, self.sockets.port, time.perf_counter() - began))

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._nat64.close()
        for connector in self.connectors:
            connector.stop("this node was closed")
        if self.connectors:
            await asyncio.wait([connector.over for connector in self.connectors])
        self.responder.close()
        await self.pipes.close()
        self.accepted.put_nowait(None)
        self.sockets.close()
        await self.tasks.close()
        await self.channel.close()
        self.engine.discovery.close()
        self.engine.hub.close()
        await asyncio.gather(self.engine.relays.close(), self.port_mapping.close(), self.names.close())

    def _interfaces_changed(self) -> None:
        """Another network, an address more or less: everything outside is measured anew and announced."""
        self._follow_interfaces()
        self.engine.discovery.refresh()
        self.channel.reconnect()
        self._nat64.look()

    def _translation_changed(self) -> None:
        """There is, or is no longer, a way to IPv4 on interfaces that have none of their own."""
        self._follow_interfaces()
        self.engine.discovery.look_up_again()
        self.channel.retry()

    def _follow_interfaces(self) -> None:
        before = {interface.ip: interface.index for interface in self.interfaces}
        self.interfaces = usable_interfaces(self._network.interfaces(), self._config.interfaces)
        now = {interface.ip: interface.index for interface in self.interfaces}
        gone = frozenset(ip for ip, index in before.items() if now.get(ip) != index)
        self.engine.use_interfaces(self.interfaces)
        self.pipes.vanished(gone)
        self.sockets.update(self.interfaces, gone)
        self.port_mapping.follow(self.interfaces, self.sockets.port)
        self._update_address()

    # -- the address ---------------------------------------------------------------------------------------------

    def _update_address(self) -> None:
        engine = self.engine
        attachments = tuple(self._attachment(interface) for interface in self.interfaces)
        address = NodeAddress(engine.identity.public_key, self.channel.for_address, attachments)
        if address != engine.address:
            before, engine.address = engine.address, address
            for session in engine.sessions.values():
                session.correct(before.plan_digest(session.remote))
            self.names.address_changed()
            engine.emit(AddressChanged(address.digest.hex(), len(attachments), len(address.brokers)))

    def _attachment(self, interface: Interface) -> Attachment:
        local = self.sockets.endpoint(interface.ip)
        port = local.port
        learnt = self.engine.discovery.learnt(local)
        attachment = Attachment(
            interface.ip,
            learnt.reflexive,
            _listening(port, learnt.udp_mapped),
            _listening(port, learnt.tcp_mapped),
            learnt.nat,
        )
        return self.port_mapping.announce(attachment)

    # -- peers ---------------------------------------------------------------------------------------------------

    def _find_session(self, hello: HelloReceived) -> Session:
        if hello.role is Role.INITIATOR:
            return self.responder.find(hello)
        session = self.engine.sessions.get(hello.session)
        if session is None or not session.initiator or session.peer_key != hello.key:
            raise AuthenticationError("a HELLO for no session of ours")
        return session

    def _take_link(self, session: Session, link: TcpLink) -> None:
        if session.initiator:
            session.add_inbound(link)
        else:
            self.responder.take_link(session, link)

    def _take_pipe(self, pipe: Pipe) -> None:
        if self._handlers:
            self.tasks.spawn(f"handlers of {pipe.peer}", self._pump(pipe))
        elif self.accepted.qsize() >= ACCEPT_QUEUE:
            pipe.abort()
        else:
            self.accepted.put_nowait(pipe)

    async def _pump(self, pipe: Pipe) -> None:
        async with pipe:
            async for data in pipe:
                for handler in self._handlers:
                    await handler(data, pipe)

    def _garbage(self, remote: Endpoint, reason: str) -> None:
        self.engine.emit(StrangerRefused(str(remote), reason))

    # -- counting ------------------------------------------------------------------------------------------------

    def _count(self, event: Event) -> None:
        self._counts[type(event).__name__] += 1
        if isinstance(event, ServerFailed):
            self._failures[event.service, event.server] = event

    def status(self) -> NodeStatus:
        return NodeStatus(
            self.interfaces,
            self.engine.address.attachments,
            self.channel.brokers,
            tuple(self._failures.values()),
            tuple(sorted(self._counts.items())),
            self.port_mapping.status,
            "" if self._network.prefix is None else str(self._network.prefix),
        )


def _listening(local: int, mapped: int | None) -> Listening:
    return Listening(local, mapped, LearntBy.NOTHING if mapped is None else LearntBy.STUN)
