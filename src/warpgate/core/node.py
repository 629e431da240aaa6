"""A program's local endpoint: identity, address, listeners, signal channel, and the search that connects.

Life: `start` opens the sockets (never waiting for a server), then gives discovery and brokers up to `start_patience` to
fill in the address; what comes later updates it. `close` ends everything within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Literal, Self, TypedDict, Unpack, overload

from warpgate.config import Config
from warpgate.core.offered import MessageHandler, PipeHandler, Services
from warpgate.core.tasks import running_loop
from warpgate.errors import ConfigError, IdentityInUse, PipeClosed
from warpgate.model.endpoint import Mode, Transport
from warpgate.net.threads import imported

if TYPE_CHECKING:
    from warpgate.core.assembly import Assembly, NodeStatus
    from warpgate.core.codes import CodeExchange
    from warpgate.core.context import Sources
    from warpgate.core.launch import Launched
    from warpgate.core.names.destination import Destination
    from warpgate.core.pipes.base import Pipe
    from warpgate.core.pipes.datagrams import DatagramPipe
    from warpgate.core.port_mapping import PortMapping
    from warpgate.core.search.probe import BrokerCheck, OtherProcess
    from warpgate.core.serving import AcceptQueue
    from warpgate.events import Event, Observer
    from warpgate.model.address import NodeAddress
    from warpgate.model.identity import Identity
    from warpgate.net.network import Network
    from warpgate.plugins.registry import Registry
    from warpgate.services.broker import BrokerConnector
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
        registry: Registry | None = None,
        sources: Sources | None = None,
    ) -> None:
        """`identity` None: loaded from (or made in) the user's data directory by `config.identity`.

        `network`, `brokers`, `registry` (of strategies) and `sources` replace the usual ones (the lab, tests);
        `observer` is given every event.
        """
        if not isinstance(config, Config | None):
            raise ConfigError(f"a node's settings are a warpgate.Config, not {config!r}")
        self._config = Config() if config is None else config
        self._identity = identity
        self._network = network
        self._broker_connector = brokers
        self._registry = registry
        self._sources = sources
        self._observer = observer
        self._running: Launched | None = None
        self._closed = asyncio.Event()
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
        await imported("warpgate.core.launch")
        from warpgate.core.launch import launch  # noqa: PLC0415 - just imported

        self._in_use = None
        launched = await launch(
            self._config,
            self._identity,
            self._network,
            self._broker_connector,
            self._registry,
            self._sources,
            self._observer,
            self._services,
            self._earlier,
        )
        self._running, self._in_use, self._earlier = launched, launched.in_use, launched.instances
        self._closed.clear()

    async def close(self) -> None:
        """Close every pipe and socket; idempotent."""
        running, self._running = self._running, None
        if running is not None:
            try:
                await running.close()
            finally:
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
        return self._running.assembly

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
        from warpgate.events import AddressChanged  # noqa: PLC0415 - loaded by `start`

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
        strategies, by name. `timeout` in seconds (default: `attempt_timeout`, up to twice that with a peer that answers
        slowly). `secure`: an encrypted stream, whatever wins: QUIC is one, TCP gets TLS on it (on both sides, see
        `Pipe.start_tls`). `service`: which of those that the peer offers by name. `durable`: the pipe outlives the path
        it begins on (default: `Config.durable` for streams); it is always `secure`, and shares one connection with the
        other durable pipes to that node.

        AddressError, ConfigError (an argument of the wrong kind, unknown plugin, impossible mode), ConnectFailed with a
        report (where the peer has no such service the message lists what it has). For a nickname also NicknameError,
        NameNotFound, ServiceError (look-up), and PeerKeyChanged when it had another key before.
        """
        patience = None if timeout is None else _seconds(timeout)
        return await self._run_here.connect(dest, mode, transport, plugins, patience, secure, service, durable)

    # -- one-time codes ------------------------------------------------------------------------------------------

    def offer_code(self) -> CodeExchange:
        """A new one-time code, for one other node that is told it: `async with` it, pass `code` on, await `agreed()`.

        That is the other node's address, which then may be connected to. The block raises ServiceError when no broker
        can be reached, `agreed` CodeFailed when somebody tries a wrong code, or nobody comes within an hour.
        """
        return self._run.exchange()

    def take_code(self, text: str) -> CodeExchange:
        """The other end of it; AddressError for what is no code. Whoever has made the code is let in from then on,
        whatever `Config.allow` says. `agreed` raises CodeFailed for a code that is wrong, used or unknown.
        """
        return self._run.exchange(text)

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
