"""Everything that exists while a node runs: its sockets, services, and the address they add up to."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

from warpgate.config import Config
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.connection.quic_library import loaded
from warpgate.core.connections import Connections
from warpgate.core.context import Context, Sources
from warpgate.core.found_pairs import FoundPairs
from warpgate.core.names.destination import Destination, parse_destination
from warpgate.core.names.directory import Names
from warpgate.core.names.known_peers import KnownPeers
from warpgate.core.offered import Services
from warpgate.core.peer_relays import peer_name, read_answer
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.maker import PipeMaker
from warpgate.core.port_mapping import PortMapping, PortMapStatus
from warpgate.core.search.equipment import TOPIC, Equipment
from warpgate.core.search.initiator import Initiator
from warpgate.core.search.links import TcpLink
from warpgate.core.search.probe import BrokerProbe
from warpgate.core.search.quic_door import QuicDoor
from warpgate.core.search.reader import SignalReader
from warpgate.core.search.responder import Responder
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.core.search.tcp_door import TcpDoor
from warpgate.core.search.twins import Twins
from warpgate.core.server_memory import ServerMemory
from warpgate.core.servers_in_use import ServersInUse
from warpgate.core.serving import Reception
from warpgate.core.sockets import Sockets, usable_interfaces
from warpgate.core.tasks import Tasks
from warpgate.core.udp.demultiplexer import Demultiplexer, Port
from warpgate.errors import AuthenticationError, ConfigError
from warpgate.events import (
    AddressChanged,
    Event,
    NodeStarted,
    Observer,
    PluginBroken,
    PluginReport,
    ServerFailed,
    ServerListTaken,
    StrangerRefused,
)
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, BrokerRef, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Mode, SockAddr, Transport
from warpgate.model.identity import Identity, listen_port_of
from warpgate.model.server_list import ServerList
from warpgate.model.servers import NameServerUrl
from warpgate.model.turn_server import TurnServer
from warpgate.model.wanted import RELAY_SERVICE, checked_service
from warpgate.net.network import Interface, Watch
from warpgate.net.tls import Trust
from warpgate.net.translated import TranslatedNetwork
from warpgate.net.uplinks import leads_out
from warpgate.plan.targets import broker_refusal
from warpgate.plugins.registry import Registry
from warpgate.proto.hello import HelloReceived, Role
from warpgate.proto.instances import Instances
from warpgate.proto.quic_wire import is_durable
from warpgate.services.broker import BrokerConnector
from warpgate.services.discovery import Discovery
from warpgate.services.nat64 import PrefixDiscovery
from warpgate.services.relay import Relays
from warpgate.services.signaling import SignalChannel
from warpgate.services.turn_accounts import Desk, Provider, TurnAccount, TurnAccounts

if TYPE_CHECKING:
    from warpgate.core.codes import CodeExchange

# A NAT that gives out its addresses at random is seen elsewhere now and then; that is no move.
MOVE_GAP = 5.0
# When a router has another address, links to brokers break first, and may have been dialled anew from there already.
YOUNG = 2.0
# Where an interface lacks IPv4, brokers wait for the resolver's word on NAT64, as they may be reached only by that: a
# resolver near enough to be of use answers in a few round trips.
NAT64_PATIENCE = 0.5
# A process that is killed forgets what it learnt of servers in less than this.
SAVING_INTERVAL = 30.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A snapshot for doctor: what the node has, what works, and what happened so far by event name."""

    interfaces: tuple[Interface, ...]
    attachments: tuple[Attachment, ...]
    brokers: tuple[BrokerRef, ...]
    failures: tuple[ServerFailed, ...]
    counts: tuple[tuple[str, int], ...]
    port_map: PortMapStatus = field(default_factory=PortMapStatus)
    strays: int = 0  # datagrams that came to our ports and belonged to nothing
    nat64: str = ""  # the prefix by which IPv4 is reached on interfaces that have none, "" without
    since: float = 0.0  # when the node was started, in Unix seconds
    services: tuple[str, ...] = ()  # what peers may ask for; "" is the one without a name
    pipes: tuple[tuple[Pipe, float], ...] = ()  # the open ones, and since when
    twin: str = ""  # what is known of another node with the same key
    routed: bool = True  # whether there is a default route
    # When servers of ours were good at this network before: by URL of a broker, by host of any other, in Unix seconds.
    known: tuple[tuple[str, float], ...] = ()
    server_list: int = 0  # the number of the list of public servers that holds, 0 where the settings name all


class Assembly:
    """Everything that exists while the node runs."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        network: TranslatedNetwork,
        trust: Trust,
        broker_connector: BrokerConnector,
        observer: Observer | None,
        registry: Registry,
        services: Services,
        contacts: KnownPeers,
        sources: Sources,
        instances: Instances,
        servers: ServersInUse,
        memory: ServerMemory,
        found: FoundPairs,
    ) -> None:
        self._config, self._network, self._services = config, network, services
        self._started = asyncio.Event()
        self._servers, self._memory, self._since = servers, memory, sources.wall_clock()
        self._counts: Counter[str] = Counter()
        self._failures: dict[tuple[str, str], ServerFailed] = {}
        self.tasks = Tasks(lambda name, error: self.context.emit(ServerFailed("task", name, str(error))))
        self.context = context = Context(identity, config, network, registry, observer, self.tasks, sources, instances)
        context.observers += [self._count, memory.observe]
        rng = random.Random()
        moved = self._update_address
        self.discovery = Discovery(network, servers.stun, config.timing, context.emit, moved, rng)
        self.udp = Demultiplexer(network, self._introduce, self._garbage, self._admit, self.discovery.receive)
        self.relays = self._open_relays(trust)
        self.channel = self._open_channel(broker_connector, rng)
        self.tcp_door = TcpDoor(context, self._find_key, self._find_session, self._take_link)
        self.equipment = equipment = Equipment.of(
            context, self.udp, self.discovery, self.channel, self.relays, self.tcp_door.accept, found
        )
        self._broker_connector = broker_connector
        self.sessions = sessions = Sessions()
        self.pipes = pipes = PipeMaker(context, self.udp)
        self.twins = Twins(equipment)
        self.reception = Reception(services, self.tasks)
        take, refusal = self.reception.take, services.refusal
        self.connections = Connections(equipment, sessions, pipes, take, refusal, self._certificate)
        self.quic_door = QuicDoor(equipment, sessions, self._take_quic)
        self.responder = Responder(
            equipment, sessions, pipes, take, refusal, self.twins.ask, self.connections, self.quic_door.begin
        )
        self._reader = SignalReader(equipment, sessions, self.responder, self.twins)
        self.sockets = Sockets(equipment)
        self.port_mapping = PortMapping(context, moved, rng)
        self._more_mappings: dict[int, PortMapping] = {}
        self.names = Names(context, contacts, rng, trust)
        self.initiators: set[Initiator[Pipe]] = set()
        self.interfaces: tuple[Interface, ...] = ()
        self._nat64 = PrefixDiscovery(network, servers.hosts, context.emit, self._translation_changed, rng)
        self._watch: Watch | None = None
        self._moved_at = context.now()
        self._known: tuple[tuple[str, float], ...] = ()

    def _open_relays(self, trust: Trust) -> Relays:
        config, context = self._config, self.context
        providers = [Provider(self._network, url, config.ice_token, trust) for url in dict.fromkeys(config.ice_servers)]
        asked: list[tuple[str, Callable[[], Awaitable[bytes]]]] = [
            (str(provider.url), provider.ask) for provider in providers
        ]
        asked += [(str(url), desk.ask) for url, desk in self._desks(trust)]
        asked += [(peer_name(peer), partial(self._ask_for_relay, peer)) for peer in dict.fromkeys(config.relay_peers)]
        self.accounts = TurnAccounts(
            [TurnAccount(name, ask, context.emit, context.wall_clock, random.Random()) for name, ask in asked]
        )
        return Relays(
            self._network,
            config.turn,
            context.emit,
            trust=trust,
            limit=config.budgets.relay_allocations,
            wall_clock=context.wall_clock,
            accounts=self.accounts or None,
        )

    def _desks(self, trust: Trust) -> Iterator[tuple[NameServerUrl, Desk]]:
        """One for each `warpgate serve` whose relay is for node ids."""
        servers = [TurnServer.parse(text) for text in self._config.turn]
        for url in dict.fromkeys(server.desk for server in servers if server.desk is not None):
            there = [server for server in servers if server.desk == url]
            yield url, Desk(self._network, url, there, self.context.identity, trust)

    def _open_channel(self, connector: BrokerConnector, rng: random.Random) -> SignalChannel:
        config, context = self._config, self.context
        self._live_brokers = 0
        return SignalChannel(
            connector,
            TOPIC + context.identity.node_id,
            self._servers.brokers,
            home=config.home_brokers,
            timing=config.timing,
            on_envelope=self._take_envelope,
            emit=context.emit,
            on_change=self._brokers_changed,
            judge=lambda endpoint: broker_refusal(endpoint, context.around),
            rng=rng,
        )

    async def start(self) -> None:
        began = time.perf_counter()
        context, config = self.context, self._config
        self.interfaces = usable_interfaces(self._network, config.interfaces)
        if config.interfaces is not None and not self.interfaces:  # else one may come up at any time
            raise ConfigError(f"no usable network interface among {', '.join(config.interfaces)}")
        self._look_around()
        port, exact = config.port, config.port is not None
        if port is None:
            # One that runs beside leaves the identity's own port to who peers are to reach, now or later.
            port = listen_port_of(context.identity.public_key) + bool(config.beside)
        self.sockets.open(self.interfaces, port, exact)
        for hub_port in self.udp.ports:
            self.discovery.add(hub_port.socket, self.sockets.port)
        self._update_address()
        self.tasks.spawn("discovery", self.discovery.run())
        self.tasks.spawn("stalled pipes", self.pipes.watch())
        self.tasks.spawn("twins", self.twins.watch())
        self.relays.stock()
        self.tasks.spawn("servers", self._keep_servers())
        if self.accounts:
            self.tasks.spawn("relay accounts", self.accounts.run())
        patience = config.timing.start_patience  # for all of it: what waits for the resolver first has used some up
        waiting = context.now()
        self._nat64.look()
        await self._nat64.first(min(patience, NAT64_PATIENCE))
        patience -= context.now() - waiting
        self._known = self._memory.good_here()
        self.channel.start(self._memory.ranked(self._servers.brokers))
        self.port_mapping.follow(self.interfaces, self.sockets.port)
        self.names.start()
        self.tasks.spawn("QUIC library", self.quic_door.prepare())
        # Imports and entry points: 20 ms better spent while servers answer than in an attempt.
        for broken in context.registry.broken:
            context.emit(PluginBroken(broken.entry, broken.package, broken.reason))
        _, reached = await asyncio.gather(self.discovery.first(patience), self.channel.first_home(patience))
        if reached or not self._servers.brokers:
            with suppress(ImportError):  # the task tells; TCP works without
                await loaded()  # else the first pipe would wait for it; offline there is nobody to open one to
        self._update_address()
        self._watch = self._network.watch_interfaces(self._interfaces_changed)
        if usable_interfaces(self._network, config.interfaces) != self.interfaces:
            self._interfaces_changed()  # while nobody watched
        self._started.set()
        context.emit(NodeStarted(context.identity.node_id, self.sockets.port, time.perf_counter() - began))

    async def _keep_servers(self) -> None:
        while True:
            await asyncio.sleep(SAVING_INTERVAL)
            self._memory.save()

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._memory.save()
        self._nat64.close()
        for initiator in self.initiators:
            initiator.stop("this node was closed")
        if self.initiators:
            await asyncio.wait([initiator.over for initiator in self.initiators])
        self.responder.close()
        await self.pipes.close()
        await self.connections.close()
        self.reception.close()
        self.sockets.close()
        await self.tasks.close()
        await self.channel.close()
        self.discovery.close()
        self.udp.close()
        mappings = (self.port_mapping, *self._more_mappings.values())
        await asyncio.gather(self.relays.close(), self.names.close(), *(each.close() for each in mappings))

    def take_list(self, listed: ServerList) -> None:
        """A good list of public servers: if it is newer than ours, everything goes by it from here on. Log-ins and the
        resolver ask `ServersInUse` themselves; what is connected stays.
        """
        servers = self._servers
        if not servers.take(listed):
            return
        self._memory.follow(servers.known)
        self.discovery.follow(servers.stun)
        self.channel.follow(self._memory.ranked(servers.brokers))
        self.context.emit(ServerListTaken(listed.sequence, len(listed.brokers), len(listed.stun)))

    def _interfaces_changed(self) -> None:
        """Another network, an address more or less: everything outside is measured anew and announced."""
        self._follow_interfaces()
        self.discovery.refresh()
        self.channel.reconnect()
        self.relays.stock()
        self._nat64.look()
        self.connections.moved(frozenset(self.sockets.held), frozenset(each.ip for each in self.interfaces))

    def _translation_changed(self) -> None:
        """There is, or is no longer, a way to IPv4 on interfaces that have none of their own."""
        self._follow_interfaces()
        self.discovery.look_up_again()
        self.channel.retry()

    def _follow_interfaces(self) -> None:
        self.interfaces = usable_interfaces(self._network, self._config.interfaces)
        there = {each.ip: each.index for each in (*self._network.interfaces(), *self.interfaces)}
        usable = {interface.ip for interface in self.interfaces}
        gone = frozenset(
            ip
            for ip, index in self.sockets.held.items()
            if there.get(ip) != index or not (ip in usable or self._in_use(ip))
        )
        self.sockets.held = {ip: there[ip] for ip in (self.sockets.held.keys() - gone) | usable}
        self._look_around()
        self.pipes.vanished(gone)
        self.connections.vanished(gone)
        self.sockets.update(self.interfaces, gone)
        self._ask_routers()
        self._update_address()

    def _ask_routers(self) -> None:
        """To map our ports, or whether they still do."""
        self.port_mapping.follow(self.interfaces, self.sockets.port)
        for also, mapping in self._more_mappings.items():
            mapping.follow(self.interfaces, also)

    def _in_use(self, ip: IPAddress) -> bool:
        """Spare addresses last for hours, what is on them as long (RFC 4862 section 5.5.4)."""
        return self.sockets.in_use(ip) or any(pipe.local.ip == ip for pipe in self.pipes.open_pipes)

    def _look_around(self) -> None:
        self._memory.moved(self.interfaces, self._network.gateways())
        self.context.look_around(self.interfaces, self._network.interfaces(), self._network.prefix)

    def map_also(self, port: int) -> PortMapping:
        """Another port of this machine, for as long as the node runs."""
        mapping = self._more_mappings.get(port)
        if mapping is None:
            mapping = PortMapping(self.context, _nothing, random.Random(), f"-{port}")
            self._more_mappings[port] = mapping
            mapping.follow(self.interfaces, port)
        return mapping

    def _brokers_changed(self) -> None:
        live, self._live_brokers = self._live_brokers, len(self.channel.brokers)
        if self._live_brokers < live:
            self.discovery.look_again()  # a link that breaks may be the first sign of another outside
            self.relays.ask()  # and often one machine is both broker and relay
            self.udp.ask_relayed()
        self._update_address()
        if self._live_brokers > live:
            self.connections.reachable()
        self.twins.ask()

    # -- the address ---------------------------------------------------------------------------------------------

    def _update_address(self) -> None:
        context = self.context
        attachments = tuple(self._attachment(interface) for interface in self.interfaces)
        address = NodeAddress(
            context.identity.public_key,
            self.channel.for_address,
            attachments,
            context.instances.own,
            self.relays.configured,
        )
        if address != context.address:
            before, context.address = context.address, address
            self._notice_another_outside(before)
            for session in self.sessions:
                session.correct(before.plan_digest(session.remote))
            self.names.address_changed()
            self.connections.address_changed()
            context.emit(AddressChanged(address.digest.hex(), len(attachments), len(address.brokers)))

    def _notice_another_outside(self, before: NodeAddress) -> None:
        """The world sees us elsewhere, and the interfaces have not told: what leads outside is dead by that."""
        seen = {at.host: at.reflexive for at in before.attachments if at.reflexive is not None}
        now, after = self.context.now(), self.context.address.attachments
        moved = any(seen.get(at.host, at.reflexive) != at.reflexive for at in after if at.reflexive is not None)
        if moved and now - self._moved_at >= MOVE_GAP:
            self._moved_at = now
            self.discovery.refresh()
            self._ask_routers()
            self.channel.reconnect(YOUNG)
            self.connections.moved(frozenset(self.sockets.held), frozenset(each.ip for each in self.interfaces))

    def _attachment(self, interface: Interface) -> Attachment:
        local = self.sockets.endpoint(interface.ip)
        port = local.port
        learnt = self.discovery.learnt(local, self.port_mapping.outside(interface.ip))
        attachment = Attachment(
            interface.ip,
            learnt.reflexive,
            _listening(port, learnt.udp_mapped),
            _listening(port, learnt.tcp_mapped),
            learnt.nat,
            learnt.pool,
        )
        return self.port_mapping.announce(attachment)

    # -- what arrives: the parts below were made before those that deal with it ----------------------------------

    def _introduce(self, port: Port, data: bytes, remote: Endpoint) -> bool:
        return self.responder.introduce(port, data, remote)

    def _admit(self, port: Port, data: bytes, source: SockAddr) -> bool:
        door = self.connections if is_durable(data) else self.quic_door
        return door.admit(port, data, source)

    def _take_quic(self, flow: QuicFlow) -> None:
        self.responder.take_quic(flow)

    def _certificate(self) -> bytes:
        return self.quic_door.certificate()

    def _take_envelope(self, data: bytes) -> None:
        self._reader.receive(data)

    # -- for the node's user -------------------------------------------------------------------------------------

    async def connect(
        self,
        dest: Destination,
        mode: Mode | str,
        transport: Transport | str | None,
        plugins: Sequence[str] | None,
        timeout: float | None,
        secure: bool,
        service: str,
        durable: bool | None,
    ) -> Pipe:
        """As `Node.connect`."""
        remote, mode, service = parse_destination(dest), Mode.of(mode), checked_service(service)
        carrier = None if transport is None else Transport.of(transport)
        lasting = self._lasting(mode, durable)

        async def attempt(address: NodeAddress, seconds: float | None, before: tuple[PluginReport, ...] = ()) -> Pipe:
            if address.public_key == self.context.identity.public_key:
                raise ConfigError("that is this node's own address")
            if lasting:
                return await self.connections.connect(address, plugins, carrier, seconds, service, mode)
            make = self.pipes.make
            initiator = Initiator(
                self.equipment, self.sessions, make, address, mode, carrier, plugins, secure, service, before
            )
            self.initiators.add(initiator)
            try:
                return await initiator.run(seconds)
            finally:
                self.initiators.discard(initiator)

        if isinstance(remote, NodeAddress):
            return await attempt(remote, timeout)
        return await self.names.connect(remote, timeout, attempt)

    def _lasting(self, mode: Mode, durable: bool | None) -> bool:
        """Whether a durable pipe is asked for; datagrams are as UDP has them unless somebody says otherwise."""
        return self._config.durable and mode is Mode.STREAM if durable is None else durable

    async def _ask_for_relay(self, peer: str) -> bytes:
        """Of a node that lends its machine (`listen --relay`), and is reached without a relay. WarpgateError."""
        await self._started.wait()
        direct = [plugin.name for plugin in self.context.registry.select(None) if not plugin.relays]
        patience = self._config.timing.attempt_timeout
        pipe = await self.connect(peer, Mode.STREAM, None, direct, patience, True, RELAY_SERVICE, False)
        return await read_answer(pipe)

    def new_probe(self) -> BrokerProbe:
        """Of the brokers that we go by now."""
        return BrokerProbe(self.context, self._broker_connector, self._servers.brokers)

    def exchange(self, told: str | None = None) -> CodeExchange:
        """By a new one-time code, or by the one that we were told."""
        from warpgate.core.codes import OFFER, TAKE, CodeExchange, new_code  # noqa: PLC0415 - few nodes need it
        from warpgate.model.code import OneTimeCode  # noqa: PLC0415

        code, side = (new_code(), OFFER) if told is None else (OneTimeCode.parse(told), TAKE)
        return CodeExchange(self.context, self._broker_connector, self._servers.brokers, code, side)

    # -- peers ---------------------------------------------------------------------------------------------------

    def _find_key(self, hello: HelloReceived, remote: Endpoint) -> bytes:
        if hello.role is Role.INITIATOR:
            return self.responder.key_of(hello, remote)
        return self._own_session(hello).key

    def _find_session(self, hello: HelloReceived, key: bytes, remote: Endpoint) -> Session:
        if hello.role is Role.INITIATOR:
            return self.responder.find(hello, key, remote)
        return self._own_session(hello)

    def _own_session(self, hello: HelloReceived) -> Session:
        session = self.sessions.get(hello.session)
        if session is None or not session.initiator or session.peer_key != hello.key:
            raise AuthenticationError("a HELLO for no session of ours")
        return session

    def _take_link(self, session: Session, link: TcpLink) -> None:
        if session.initiator:
            session.add_inbound(link)
        else:
            self.responder.take_link(session, link)

    def _garbage(self, remote: Endpoint, reason: str) -> None:
        self.context.emit(StrangerRefused(str(remote), reason))

    # -- counting ------------------------------------------------------------------------------------------------

    def _count(self, event: Event) -> None:
        self._counts[type(event).__name__] += 1
        if isinstance(event, ServerFailed):
            self._failures[event.service, event.server] = event

    def status(self) -> NodeStatus:
        return NodeStatus(
            self.interfaces,
            self.context.address.attachments,
            self.channel.brokers,
            tuple(self._failures.values()),
            tuple(sorted(self._counts.items())),
            self.port_mapping.status,
            self.udp.strays,
            "" if self._network.prefix is None else str(self._network.prefix),
            self._since,
            self._services.offered if self._config.accept else (),
            self.pipes.since,
            self.context.instances.warning,
            leads_out(self._network),
            self._known,
            self._servers.listed.sequence if self._servers.by_list else 0,
        )


def _nothing() -> None:
    """Who maps another port looks when it matters."""


def _listening(local: int, mapped: int | None) -> Listening:
    return Listening(local, mapped, LearntBy.NOTHING if mapped is None else LearntBy.STUN)
