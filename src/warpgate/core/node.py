"""A program's local endpoint: identity, address, listeners, signal channel, and the search that connects.

Life: `start` opens the sockets (never waiting for a server), then gives discovery and brokers up to `start_patience` to
fill in the address; what comes later updates it. `close` ends everything within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Literal, Self, TypedDict, Unpack, overload

from warpgate.config import Config
from warpgate.core.assembly import Assembly, NodeStatus
from warpgate.core.codes import OFFER, TAKE, CodeExchange, new_code
from warpgate.core.context import Sources
from warpgate.core.disk.claim import REMEMBERED, UNCLAIMED, Claim, claim
from warpgate.core.disk.identity_store import load_or_create
from warpgate.core.disk.list_store import list_store_of
from warpgate.core.disk.pair_store import pair_store_of
from warpgate.core.disk.server_store import server_store_of
from warpgate.core.found_pairs import FoundPairs
from warpgate.core.names.destination import Destination, parse_destination
from warpgate.core.names.known_peers import known_peers_at
from warpgate.core.peer_relays import read_answer
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.datagrams import DatagramPipe
from warpgate.core.port_mapping import PortMapping
from warpgate.core.search.initiator import Initiator
from warpgate.core.search.probe import BrokerCheck, OtherProcess
from warpgate.core.server_lists import ServerLists
from warpgate.core.server_memory import ServerMemory, servers_of
from warpgate.core.serving import AcceptQueue, MessageHandler, PipeHandler, Services
from warpgate.core.tasks import running_loop
from warpgate.errors import ConfigError, IdentityInUse, PipeClosed
from warpgate.events import AddressChanged, Event, Observer, PluginReport
from warpgate.model.address import NodeAddress
from warpgate.model.code import OneTimeCode
from warpgate.model.endpoint import Mode, Transport
from warpgate.model.identity import Identity
from warpgate.model.wanted import INSTANCE_SIZE, RELAY_SERVICE, checked_service
from warpgate.net.network import Network
from warpgate.net.remembered import RememberedNames
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.net.translated import TranslatedNetwork
from warpgate.plugins.registry import REGISTRY, Registry
from warpgate.proto.instances import Instances
from warpgate.services.broker import BrokerConnector
from warpgate.services.mqtt import MqttConnector, logins_of
from warpgate.services.names import NameServerCheck
from warpgate.services.relay import RelayCheck
from warpgate.services.turn_accounts import AccountCheck

EVENTS_KEPT = 1024


class ConnectOptions(TypedDict, total=False):
    """What every call that connects takes by name, with these defaults; `Node.connect` tells what they mean."""

    plugins: Sequence[str] | None  # None
    timeout: float | None  # None
    secure: bool  # False
    service: str  # ""
    durable: bool | None  # None


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
        sources: Sources | None = None,
    ) -> None:
        """`identity` None: loaded from (or made in) the user's data directory by `config.identity`.

        `network`, `brokers` and `sources` replace the real ones (the lab, tests); `observer` is given every event.
        """
        if not isinstance(config, Config | None):
            raise ConfigError(f"a node's settings are a warpgate.Config, not {config!r}")
        self._config = Config() if config is None else config
        self._identity = identity
        self._network = network
        self._broker_connector = brokers
        self._observer = observer
        self._registry = registry
        self._sources = Sources() if sources is None else sources
        self._running: Assembly | None = None
        self._started, self._closed = asyncio.Event(), asyncio.Event()
        self._claim = UNCLAIMED
        self._earlier: tuple[bytes, ...] = ()  # our own instances before this start
        self._in_use: IdentityInUse | None = None  # why nobody is accepted, where that was left to us
        self._services = Services()
        self._readers: set[asyncio.Queue[Event | None]] = set()  # of `events`; None ends them

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listeners are up when this returns, and the address is as good as `start_patience` allows.

        ConfigError (settings, identity file), NetworkError (the given port is taken); IdentityInUse when `accept` is
        True, or something is served, and another process accepts peers with this identity. Servers that fail are no
        error.
        """
        if self._running is not None:
            raise ConfigError("the node runs already")
        running_loop()
        identity = load_or_create(self._config.identity) if self._identity is None else self._identity
        own_identity = self._identity is not None
        lists = ServerLists(self._config, list_store_of(own_identity=own_identity), self._sources.wall_clock)
        settings = lists.applied()
        memory = ServerMemory(
            server_store_of(own_identity=own_identity), self._sources.wall_clock, servers_of(settings)
        )
        outside = SystemNetwork() if self._network is None else self._network
        self._network_names = RememberedNames(lists.guarded(outside.resolve), memory.recall, memory.heard)
        network = TranslatedNetwork(outside, self._network_names.resolve)
        config, self._claim, instances = self._place(settings)
        trust = Trust(config.ca_file)
        running = Assembly(
            config,
            identity,
            network,
            trust,
            self._broker_connector or MqttConnector(network, trust, logins=logins_of(config.brokers)),
            self._observer,
            self._registry,
            self._services,
            known_peers_at(self._config.known_peers, own_identity=own_identity),
            self._sources,
            instances,
            memory,
            FoundPairs(
                identity.public_key, pair_store_of(own_identity=own_identity), self._sources.wall_clock
            ),
            self._ask_for_relay,
        )
        try:
            await running.start()
        except BaseException:
            await running.close()
            self._network_names.close()
            self._claim.release()
            raise
        running.tasks.spawn("server list", lists.run(network, running.context.emit, random.Random()))
        self._running = running
        self._closed.clear()
        self._started.set()

    def _place(self, config: Config) -> tuple[Config, Claim, Instances]:
        """Which of the processes of its identity this one is: the settings say now whether it accepts peers."""
        place, self._in_use = UNCLAIMED, None
        instance = self._sources.random_bytes(INSTANCE_SIZE)
        accept = config.accept is not False
        if accept and not config.beside and self._identity is None:
            try:
                place = claim(config.identity, instance)
            except IdentityInUse as error:
                if config.accept or self._services.wanted:
                    raise
                accept, self._in_use = False, error
        beside = not accept if config.beside is None else config.beside
        instances = Instances(instance if accept else b"", (*place.earlier, *self._earlier), beside=beside)
        self._earlier = (instance, *self._earlier)[:REMEMBERED]
        return replace(config, accept=accept, beside=beside), place, instances

    async def close(self) -> None:
        """Close every pipe and socket; idempotent."""
        running, self._running = self._running, None
        self._started.clear()
        if running is not None:
            try:
                await running.close()
            finally:
                self._network_names.close()
                self._claim.release()
                for reader in self._readers:
                    reader.put_nowait(None)
                self._closed.set()

    def wait_closed(self) -> Coroutine[None, None, None]:
        """Await it: returns when the node is closed. ConfigError when it does not run."""
        _ = self._run_here
        return _until_set(self._closed)

    @property
    def _run(self) -> Assembly:
        if self._running is None:
            raise ConfigError("the node does not run: call start(), or use it in `async with`")
        return self._running

    @property
    def _run_here(self) -> Assembly:
        """For what waits. A loop of another `asyncio.run`, or of another thread, would wait for ever."""
        run = self._run
        if running_loop() is not run.context.loop:
            raise ConfigError("the node runs on another event loop: use it where it was started")
        return run

    # -- who and where -------------------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """26 characters that name this node everywhere."""
        return self._run.context.identity.node_id

    @property
    def public_key(self) -> bytes:
        """33 bytes, compressed P-256 point."""
        return self._run.context.identity.public_key

    @property
    def address(self) -> NodeAddress:
        """What a peer needs, as good as it is known now."""
        return self._run.context.address

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

    async def check_brokers(self) -> tuple[tuple[BrokerCheck, ...], tuple[OtherProcess, ...]]:
        """A probe to our own topic over each configured broker, on a connection of its own, and what else runs with
        this key, by its answers; a few seconds: what doctor tells of them.
        """
        return await self._run_here.new_probe().run()

    async def check_relays(self) -> tuple[RelayCheck, ...]:
        """Ask each configured TURN server for a moment's allocation, at most 5 s: what doctor tells of them."""
        return await self._run.relays.check()

    async def check_relay_accounts(self) -> tuple[AccountCheck, ...]:
        """Ask each account of `Config.ice_servers` now, at most 10 s: what doctor tells of them."""
        return await self._run.accounts.check()

    def map_port(self, port: int) -> PortMapping:
        """Have routers pass another port of this machine on as well, while the node runs; what came of it is there."""
        return self._run.map_also(port)

    async def _ask_for_relay(self, peer: str) -> bytes:
        """Of a node that lends its machine (`listen --relay`), and is reached without a relay. WarpgateError."""
        await self._started.wait()
        direct = [plugin.name for plugin in self._registry.select(None) if not plugin.relays]
        return await read_answer(
            await self.connect(peer, plugins=direct, secure=True, service=RELAY_SERVICE, durable=False)
        )

    async def events(self) -> AsyncGenerator[Event, None]:
        """Every event from now on, as the observer gets them, until the node is closed.

        Of those that a slow reader leaves waiting the last 1024 are kept.
        """
        context = self._run_here.context
        waiting: asyncio.Queue[Event | None] = asyncio.Queue()

        def observe(event: Event) -> None:
            if waiting.qsize() >= EVENTS_KEPT:
                waiting.get_nowait()
            waiting.put_nowait(event)

        context.observers.append(observe)
        self._readers.add(waiting)
        try:
            while (event := await waiting.get()) is not None:
                yield event
        finally:
            context.observers.remove(observe)
            self._readers.discard(waiting)

    async def address_changed(self) -> NodeAddress:
        """The next address: waits until it is another one than now. PipeClosed when the node is closed meanwhile."""
        async with contextlib.aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, AddressChanged):
                    return self.address
        raise PipeClosed("the node was closed")

    # -- names ---------------------------------------------------------------------------------------------------

    async def nickname(self, name: str, *, wait: bool = False) -> tuple[str, ...]:
        """Register `name` for this node, and keep it up to date while the node runs; the servers that have it so far.

        It stays registered when the node is closed: for 30 days, and for this identity alone. `wait`: for as long as no
        server can be reached. NicknameError; NameRefused with the server's reason (taken, too many); ServiceError when
        none is configured or reached.
        """
        return await self._run.names.register(name, wait=wait)

    async def release_nickname(self, name: str) -> tuple[str, ...]:
        """Give `name` up, for anybody to register; the servers that have taken note (`ServerFailed` tells of others).

        NicknameError; NameRefused, ServiceError when none has.
        """
        return await self._run.names.release(name)

    async def check_names(self) -> tuple[NameServerCheck, ...]:
        """How each configured name server is, and how far; at most 7 s: what doctor tells of them."""
        return await self._run.names.check()

    # -- connecting and accepting --------------------------------------------------------------------------------

    @overload
    async def connect(
        self,
        dest: Destination,
        *,
        mode: Literal[Mode.DATAGRAM, "datagram"],
        transport: Transport | str | None = None,
        **options: Unpack[ConnectOptions],
    ) -> DatagramPipe: ...

    @overload
    async def connect(
        self,
        dest: Destination,
        *,
        mode: Mode | str = Mode.STREAM,
        transport: Transport | str | None = None,
        **options: Unpack[ConnectOptions],
    ) -> Pipe: ...

    async def connect(
        self,
        dest: Destination,
        *,
        mode: Mode | str = Mode.STREAM,
        transport: Transport | str | None = None,
        plugins: Sequence[str] | None = None,
        timeout: float | None = None,
        secure: bool = False,
        service: str = "",
        durable: bool | None = None,
    ) -> Pipe:
        """A pipe to the node that `dest` names: address bytes, its text form, or a nickname.

        `mode`: a member of Mode or its word ("datagram"), `transport` likewise ("tcp"). `plugins`: only these
        strategies, by name. `timeout` in seconds (default: `attempt_timeout`). `secure`: an encrypted stream, whatever
        wins: QUIC is one, TCP gets TLS on it (on both sides, see `Pipe.start_tls`). `service`: which of those that the
        peer offers by name. `durable`: the pipe outlives the path it begins on (default: `Config.durable` for streams);
        it is always `secure`, and shares one connection with the other durable pipes to that node.

        AddressError, ConfigError (an argument of the wrong kind, unknown plugin, impossible mode), ConnectFailed with a
        report (where the peer has no such service the message lists what it has). For a nickname also NicknameError,
        NameNotFound, ServiceError (look-up), and PeerKeyChanged when it had another key before.
        """
        run = self._run_here
        patience = self._config.timing.attempt_timeout if timeout is None else _seconds(timeout)
        remote, mode, service = parse_destination(dest), Mode.of(mode), checked_service(service)
        carrier = None if transport is None else Transport.of(transport)
        lasting = self._lasting(mode, durable)

        async def attempt(
            address: NodeAddress, seconds: float, before: tuple[PluginReport, ...] = ()
        ) -> Pipe:
            if address.public_key == self.public_key:
                raise ConfigError("that is this node's own address")
            if lasting:
                return await run.connections.connect(address, plugins, carrier, seconds, service, mode)
            initiator = Initiator(
                run.equipment,
                run.sessions,
                run.pipes.make,
                address,
                mode,
                carrier,
                plugins,
                secure,
                service,
                before,
            )
            run.initiators.add(initiator)
            try:
                return await initiator.run(seconds)
            finally:
                run.initiators.discard(initiator)

        if isinstance(remote, NodeAddress):
            return await attempt(remote, patience)
        return await run.names.connect(remote, patience, attempt)

    def _lasting(self, mode: Mode, durable: bool | None) -> bool:
        """Whether a durable pipe is asked for; datagrams are as UDP has them unless somebody says otherwise."""
        return self._config.durable and mode is Mode.STREAM if durable is None else durable

    # -- one-time codes ------------------------------------------------------------------------------------------

    def offer_code(self) -> CodeExchange:
        """A new one-time code, for one other node that is told it: `async with` it, pass `code` on, await `agreed()`.

        That is the other node's address, which then may be connected to. The block raises ServiceError when no broker
        can be reached, `agreed` CodeFailed when somebody tries a wrong code, or nobody comes within an hour.
        """
        return self._run.new_exchange(new_code(), OFFER)

    def take_code(self, text: str) -> CodeExchange:
        """The other end of it; AddressError for what is no code. Whoever has made the code is let in from then on,
        whatever `Config.allow` says. `agreed` raises CodeFailed for a code that is wrong, used or unknown.
        """
        return self._run.new_exchange(OneTimeCode.parse(text), TAKE)

    async def accept(self) -> Pipe:
        """The next pipe that a peer opened to us. PipeClosed when the node is closed meanwhile; IdentityInUse when
        another process is the one that peers of this identity reach.
        """
        pipe = await self._accepted.get()
        if pipe is None:
            raise PipeClosed("the node was closed")
        return pipe

    def __aiter__(self) -> AsyncIterator[Pipe]:
        return self.pipes()

    def pipes(self) -> AsyncIterator[Pipe]:
        """Pipes that peers open, until the node is closed: what `async for pipe in node` goes by."""
        return _until_closed(self._accepted)  # asked for now: the node may be closed meanwhile

    @property
    def _accepted(self) -> AcceptQueue:
        accepted = self._run_here.reception.accepted
        if self._in_use is not None:
            raise self._in_use
        self._services.accepting = True
        return accepted

    def serve(self, service: str, handler: PipeHandler) -> None:
        """Offer a service: `await handler(pipe)` for each pipe that a peer opens with `connect(..., service=...)`.

        Each in a task of its own; the pipe is closed when the handler returns, and reset when it raises. Pipes without
        a service still come from `accept`; where nobody ever calls that, peers are told which services there are. May
        be called before the node runs. ConfigError for what is no name (1 to 32 bytes, without blanks and / : = ,), is
        served already, or cannot be called; IdentityInUse as `accept`.
        """
        if self._in_use is not None:
            raise self._in_use
        self._services.serve(service, handler)

    def withdraw(self, service: str) -> None:
        """Offer a service no more; pipes that its handler has stay with it. Idempotent."""
        self._services.withdraw(service)

    @property
    def services(self) -> tuple[str, ...]:
        """The names of those offered by `serve`."""
        return self._services.names

    def add_message_handler(self, handler: MessageHandler) -> None:
        """Call `await handler(data, pipe)` for whatever arrives on accepted pipes, in order, one task a pipe.

        With a handler, pipes are not handed out by `accept` any more.
        """
        self._services.message_handlers.append(handler)


async def _until_closed(accepted: AcceptQueue) -> AsyncIterator[Pipe]:
    while (pipe := await accepted.get()) is not None:
        yield pipe


async def _until_set(event: asyncio.Event) -> None:
    await event.wait()


def _seconds(timeout: float) -> float:
    if isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout >= 0:
        return timeout
    raise ConfigError(f"timeout must be a number of seconds, 0 or more, not {timeout!r}")
