"""A program's local endpoint: identity, address, listeners, signal channel, and the engine that connects.

Life: `start` opens the sockets (never waiting for a server), then gives discovery and brokers up to `start_patience` to
fill in the address; what comes later updates it. `close` ends everything within a second.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from warpgate.config import Config
from warpgate.core.connector import Connector
from warpgate.core.destination import parse_destination
from warpgate.core.engine import TOPIC, Engine
from warpgate.core.hub import UdpHub
from warpgate.core.identity_store import load_or_create
from warpgate.core.links import TcpLink
from warpgate.core.pipe import Pipe
from warpgate.core.pipes import PipeMaker
from warpgate.core.responder import Responder
from warpgate.core.session import Session
from warpgate.core.signals import SignalReader
from warpgate.core.sockets import Sockets, usable_interfaces
from warpgate.core.strangers import Strangers
from warpgate.core.tasks import Tasks
from warpgate.errors import AuthenticationError, ConfigError, PipeClosed
from warpgate.events import AddressChanged, Event, NodeStarted, Observer, ServerFailed, StrangerRefused
from warpgate.model.address import Attachment, BrokerRef, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.identity import Identity, listen_port_of
from warpgate.net.network import Interface, Network
from warpgate.net.system import SystemNetwork
from warpgate.plugins.base import REGISTRY, Registry
from warpgate.proto.hello import HelloReceived, Role
from warpgate.services.broker import BrokerConnector
from warpgate.services.defaults import public_servers
from warpgate.services.discovery import Discovery
from warpgate.services.mqtt import MqttConnector
from warpgate.services.relay import RelayCheck, Relays
from warpgate.services.signaling import SignalChannel

# Pipes that peers opened and nobody has accepted yet; each holds a socket.
ACCEPT_QUEUE = 128

MessageHandler = Callable[[bytes, Pipe], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A snapshot for doctor: what the node has, what works, and what happened so far by event name."""

    interfaces: tuple[Interface, ...]
    attachments: tuple[Attachment, ...]
    brokers: tuple[BrokerRef, ...]
    failures: tuple[ServerFailed, ...]
    counts: tuple[tuple[str, int], ...]


class Node:
    """Use as `async with Node() as node`, or call `start` and `close`."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        identity: Identity | None = None,
        network: Network | None = None,
        brokers: BrokerConnector | None = None,
        observer: Observer | None = None,
        registry: Registry = REGISTRY,
    ) -> None:
        """`identity` None: loaded from (or made in) the user's data directory by `config.identity`.

        `network` and `brokers` replace the real ones (the lab, tests); `observer` is given every event.
        """
        self._config = Config() if config is None else config
        self._identity = identity
        self._network = network
        self._broker_connector = brokers
        self._observer = observer
        self._registry = registry
        self._running: _Running | None = None
        self._handlers: list[MessageHandler] = []

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listeners are up when this returns, and the address is as good as `start_patience` allows.

        ConfigError (settings, identity file), NetworkError (the given port is taken). Servers that fail are no error.
        """
        if self._running is not None:
            raise ConfigError("the node runs already")
        identity = load_or_create(self._config.identity) if self._identity is None else self._identity
        network = SystemNetwork() if self._network is None else self._network
        running = _Running(
            self._config,
            identity,
            network,
            MqttConnector(network) if self._broker_connector is None else self._broker_connector,
            self._observer,
            self._registry,
            self._handlers,
        )
        try:
            await running.start()
        except BaseException:
            await running.close()
            raise
        self._running = running

    async def close(self) -> None:
        """Close every pipe and socket; idempotent."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    @property
    def _run(self) -> _Running:
        if self._running is None:
            raise ConfigError("the node does not run: call start(), or use it in `async with`")
        return self._running

    # -- who and where -------------------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """26 characters that name this node everywhere."""
        return self._run.engine.identity.node_id

    @property
    def public_key(self) -> bytes:
        """33 bytes, compressed P-256 point."""
        return self._run.engine.identity.public_key

    @property
    def address(self) -> NodeAddress:
        """What a peer needs, as good as it is known now."""
        return self._run.engine.address

    @property
    def addr_bytes(self) -> bytes:
        """The address in its compact form, to give to peers."""
        return self.address.encode()

    @property
    def port(self) -> int:
        """The port number of the TCP and UDP listening sockets."""
        return self._run.sockets.port

    def status(self) -> NodeStatus:
        return self._run.status()

    async def check_relays(self) -> tuple[RelayCheck, ...]:
        """Ask each configured TURN server for a moment's allocation, at most 5 s: what doctor tells of them."""
        return await self._run.engine.relays.check()

    # -- connecting and accepting --------------------------------------------------------------------------------

    async def connect(
        self,
        dest: bytes | str | NodeAddress,
        *,
        mode: Mode = Mode.STREAM,
        transport: Transport | None = None,
        plugins: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> Pipe:
        """A pipe to the node that `dest` names: address bytes, its text form, or a nickname.

        `plugins`: only these strategies, by name. `timeout` in seconds (default: `attempt_timeout`).
        AddressError, ConfigError (unknown plugin, impossible mode), ServiceError (name look-up),
        ConnectFailed with a report.
        """
        run = self._run
        remote = parse_destination(dest)
        if remote.public_key == self.public_key:
            raise ConfigError("that is this node's own address")
        connector = Connector(run.engine, run.pipes, remote, mode, transport, plugins)
        run.connectors.add(connector)
        try:
            return await connector.run(self._config.timing.attempt_timeout if timeout is None else timeout)
        finally:
            run.connectors.discard(connector)

    async def accept(self) -> Pipe:
        """The next pipe that a peer opened to us. PipeClosed when the node is closed meanwhile."""
        accepted = self._run.accepted
        pipe = await accepted.get()
        if pipe is None:
            accepted.put_nowait(None)  # for the next one who waits
            raise PipeClosed("the node was closed")
        return pipe

    async def __aiter__(self) -> AsyncIterator[Pipe]:
        """Pipes that peers open, until the node is closed."""
        accepted = self._run.accepted  # the node may be closed while the caller is busy with a pipe
        while (pipe := await accepted.get()) is not None:
            yield pipe
        accepted.put_nowait(None)  # for the next one who waits

    def add_message_handler(self, handler: MessageHandler) -> None:
        """Call `await handler(data, pipe)` for whatever arrives on accepted pipes, in order, one task a pipe.

        With a handler, pipes are not handed out by `accept` any more.
        """
        self._handlers.append(handler)


class _Running:
    """Everything that exists while the node runs."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        network: Network,
        broker_connector: BrokerConnector,
        observer: Observer | None,
        registry: Registry,
        handlers: list[MessageHandler],
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
        self.connectors: set[Connector] = set()
        self.accepted: asyncio.Queue[Pipe | None] = asyncio.Queue()
        self.interfaces: tuple[Interface, ...] = ()

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
        self.channel.start()
        engine.registry.all()  # imports and entry points: 20 ms better spent while servers answer than in an attempt
        patience = config.timing.start_patience
        await asyncio.gather(engine.discovery.first(patience), self.channel.first_home(patience))
        self._update_address()
        engine.emit(NodeStarted(engine.identity.node_id, self.sockets.port, time.perf_counter() - began))

    async def close(self) -> None:
        for connector in self.connectors:
            connector.stop("this node was closed")
        if self.connectors:
            await asyncio.wait([connector.over for connector in self.connectors])
        self.responder.close()
        for pipe in self.pipes.open_pipes:
            await pipe.close()
        self.accepted.put_nowait(None)
        self.sockets.close()
        await self.tasks.close()
        await self.channel.close()
        self.engine.discovery.close()
        self.engine.hub.close()
        await self.engine.relays.close()

    # -- the address ---------------------------------------------------------------------------------------------

    def _update_address(self) -> None:
        engine = self.engine
        attachments = tuple(self._attachment(interface) for interface in self.interfaces)
        address = NodeAddress(engine.identity.public_key, self.channel.for_address, attachments)
        if address != engine.address:
            moved = address.reach_digest != engine.address.reach_digest
            engine.address = address
            if moved:
                for session in engine.sessions.values():
                    session.outbox.schedule()
            engine.emit(AddressChanged(address.digest.hex(), len(attachments), len(address.brokers)))

    def _attachment(self, interface: Interface) -> Attachment:
        port = self.sockets.port
        learnt = self.engine.discovery.learnt(Endpoint(interface.ip, port))
        return Attachment(
            interface.ip,
            learnt.reflexive,
            _listening(port, learnt.udp_mapped),
            _listening(port, learnt.tcp_mapped),
            learnt.nat,
        )

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
        )


def _listening(local: int, mapped: int | None) -> Listening:
    return Listening(local, mapped, LearntBy.NOTHING if mapped is None else LearntBy.STUN)
