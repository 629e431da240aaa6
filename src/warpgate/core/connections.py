"""The connections of a node: who has which, what comes by paths that nobody has claimed yet, and their pipes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from warpgate.core.connection.channel import Channel, DatagramChannel
from warpgate.core.connection.connection import Connection
from warpgate.core.connection.paths import Origin, Path, TcpPath, UdpPath
from warpgate.core.connection.quic_bounds import AHEAD, UNPROVED
from warpgate.core.connection.quic_channels import QuicChannels
from warpgate.core.connection.quic_engine import State
from warpgate.core.connection.quic_library import loaded
from warpgate.core.pipes.base import Pipe, PipeInfo
from warpgate.core.pipes.durable import DurableDatagramPipe, DurablePipe
from warpgate.core.pipes.maker import PipeMaker
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.hosted import check_invited
from warpgate.core.search.initiator import Links
from warpgate.core.search.links import TcpLink
from warpgate.core.search.quic_link import QuicLink
from warpgate.core.search.seeker import PathSeeker
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.core.udp.demultiplexer import Port
from warpgate.errors import AuthenticationError, ConnectFailed, NetworkError, PipeClosed, WarpgateError
from warpgate.events import StrangerRefused
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Mode, SockAddr, Transport
from warpgate.model.identity import node_id_of
from warpgate.plan.paths import UNKNOWN_ROUND_TRIP
from warpgate.plan.patience import patience_of
from warpgate.plan.shares import Places
from warpgate.proto.quic_wire import (
    CONNECTION_ID_SIZE,
    connection_id_of,
    first_id_of,
    is_durable,
    is_first_packet,
)
from warpgate.proto.relay_limits import user_of

# How long a connection waits for its next pipe: a program that opens one after the other pays for one search.
LINGERING = 60.0
# Both nodes may have begun one at once, and a program may have asked for certain strategies.
CONNECTIONS_PER_PEER = 8
CONNECTIONS = 1024
# Those that peers began and that carry no pipe: just opened, or lingering. 55 KB each, in the library alone.
IDLE = 128
# At the bounds who has been out of reach for so long makes room: a peer that was restarted does not say good-bye.
GONE = 30.0
# Nominated and not used: the initiator of a path uses it at once.
UNCLAIMED = 64
UNCLAIMED_PER_PEER = 8
UNCLAIMED_PATIENCE = 30.0
# A path's round trip, as expected from that of signals: there and back over a relay, which is as far as a broker.
ROUND_TRIP_SIGNALS = 2
# Until a client has proved its key: one, and what is lost once more.
HANDSHAKE_ROUND_TRIPS = 2
# The searches end in time by themselves, and know why they have failed.
LAST_WORD = 0.5
# A connection whose peer has answered so recently is believed to be alive.
FRESH = 15.0

# Whose, which of the processes with that key, by which strategies and transport.
Wanted = tuple[bytes, bytes, tuple[str, ...] | None, Transport | None]


class Connections:
    """`connect` for pipes of ours; `take_pipe` gets those that peers open."""

    def __init__(
        self,
        equipment: Equipment,
        sessions: Sessions,
        pipes: PipeMaker,
        take_pipe: Callable[[Pipe], None],
        refusal: Callable[[str], str],
        certificate: Callable[[], bytes],
    ) -> None:
        """`refusal`: why there is no such service, "" when there is. `certificate`: ours, PEM."""
        self._equipment = equipment
        self._context = equipment.context
        self._sessions = sessions
        self._pipes = pipes
        self._take_pipe = take_pipe
        self._refusal = refusal
        self._certificate = certificate
        # By whose they are and the ids in datagrams: peers choose the first ones, perhaps those of others.
        self._by_id: dict[tuple[bytes, bytes], Connection] = {}
        self._all: dict[Connection, set[DurablePipe | DurableDatagramPipe]] = {}
        self._shared: dict[Wanted, Connection] = {}  # those that further pipes of ours go on
        self._unclaimed: dict[Path, asyncio.TimerHandle] = {}
        self._seekers: dict[Connection, PathSeeker] = {}
        self._lingering: dict[Connection, asyncio.TimerHandle] = {}
        self._begun: Places[Connection] = Places(CONNECTIONS)  # by peers
        self._unproved: Places[Connection] = Places(UNPROVED)

    def __len__(self) -> int:
        return len(self._all)

    # -- pipes of ours -------------------------------------------------------------------------------------------

    async def connect(
        self,
        remote: NodeAddress,
        plugins: Sequence[str] | None,
        transport: Transport | None,
        timeout: float,
        service: str = "",
        mode: Mode = Mode.STREAM,
    ) -> Pipe:
        """A pipe on the connection that there is, or on a new one. ConfigError, ConnectFailed."""
        began = self._context.now()
        await loaded()
        wanted = (remote.public_key, remote.instance, None if plugins is None else tuple(plugins), transport)
        open_one = partial(self._open, wanted, remote, service, mode)
        connection, channel = await open_one(timeout)
        pipe = self._pipe(connection, channel, began)
        pipe.again = partial(open_one, self._context.config.timing.attempt_timeout)
        return pipe

    async def _open(
        self, wanted: Wanted, remote: NodeAddress, service: str, mode: Mode, timeout: float
    ) -> tuple[Connection, Channel]:
        """On another connection, where one that was there before ends and the peer never knew of the channel."""
        until = self._context.now() + timeout
        while True:
            patience = until - self._context.now()
            connection = self._shared.get(wanted)
            new = connection is None or connection.end is not None
            if connection is None or new:
                connection = self._begin(wanted, remote, patience)
            connection.meet(remote)
            self._use(connection)
            seeker, channel = self._seekers[connection], None
            try:
                async with asyncio.timeout(patience + LAST_WORD):
                    await self._answering(connection, seeker, mode)
                    channel = await connection.open_channel(service, datagrams=mode is Mode.DATAGRAM)
                    # Without a name it is as if there were one: nothing is waited for.
                    while service and not channel.taken:
                        if (end := channel.failure_of(connection.peer) or connection.end) is not None:
                            raise PipeClosed(end)
                        await connection.changed()
                    return connection, channel
            except TimeoutError:
                silence = f"node {connection.peer} did not answer within {timeout:g} s"
                raise self._failure(connection, seeker, silence) from None
            except PipeClosed as over:
                unheard = channel is None or connection.engine.unseen(channel.stream)
                if new or connection.end is None or not unheard:
                    raise self._failure(connection, seeker, str(over)) from None
            finally:
                self._linger(connection)

    async def _answering(self, connection: Connection, seeker: PathSeeker, mode: Mode) -> None:
        """Until it can be used. PipeClosed; raises what says that the peer is not there."""
        silences: Sequence[Exception] = ()
        if connection.current is not None and not connection.works:
            silences = seeker.silences
            seeker.hurry()
        await connection.answering(FRESH, silences)
        if mode is Mode.DATAGRAM and connection.engine.largest_datagram <= 0:
            raise PipeClosed(f"node {connection.peer} takes no datagrams on durable connections")

    def _begin(self, wanted: Wanted, remote: NodeAddress, timeout: float) -> Connection:
        context = self._context
        engine = QuicChannels.client(
            context.identity,
            remote.public_key,
            context.random_bytes(16),
            context.now(),
            self._equipment.quic_holdings,
        )
        connection = self._add(engine, remote, ())
        _, _, plugins, transport = wanted
        seeker = self._equip(connection, plugins, transport)
        self._shared[wanted] = connection
        connection.begin()
        self._equipment.udp.expect_ahead(engine.id)
        seeker.start(timeout)
        return connection

    def _failure(self, connection: Connection, seeker: PathSeeker, reason: str) -> ConnectFailed:
        """What the direct strategies say, where they have ended; the report of all."""
        if connection.current is not None:
            return ConnectFailed(reason, seeker.report)
        connection.finish(reason)
        told: ConnectFailed | str = max(
            seeker.failures, key=lambda failure: len(failure.report), default=reason
        )
        if isinstance(told, str):
            return ConnectFailed(told, seeker.report)
        needed = any(failure.relay_needed for failure in seeker.failures)
        return ConnectFailed(str(told.args[0]), seeker.report, relay_needed=needed)

    def _pipe(
        self, connection: Connection, channel: Channel, began: float
    ) -> DurablePipe | DurableDatagramPipe:
        origin, seeker = connection.current, self._seekers.get(connection)
        assert origin is not None
        info = PipeInfo(
            connection.id,
            connection.peer,
            origin.plugin,
            origin.transport,
            origin.local,
            origin.remote,
            origin.relayed,
            self._context.now() - began,
            () if seeker is None else seeker.report,
            channel.service or "",
        )
        pipe: DurablePipe | DurableDatagramPipe
        if isinstance(channel, DatagramChannel):
            queue = self._context.config.receive_queue
            pipe = DurableDatagramPipe(info, connection, channel, queue, self._pipe_ended)
        else:
            pipe = DurablePipe(info, connection, channel, self._pipe_ended)
        self._all[connection].add(pipe)
        self._use(connection)
        self._pipes.add(pipe)
        return pipe

    def _pipe_ended(self, pipe: Pipe, reason: str) -> None:
        self._pipes.ended(pipe, reason)
        assert isinstance(pipe, DurablePipe | DurableDatagramPipe)
        connection = pipe.connection
        if connection in self._all:
            self._all[connection].discard(pipe)
            self._linger(connection)

    def _use(self, connection: Connection) -> None:
        if (timer := self._lingering.pop(connection, None)) is not None:
            timer.cancel()

    def _linger(self, connection: Connection) -> None:
        self._use(connection)
        if connection in self._all and not self._all[connection]:
            self._lingering[connection] = self._context.loop.call_later(
                LINGERING, self._close_idle, connection, connection.opened_channels
            )

    def _close_idle(self, connection: Connection, opened: int) -> None:
        if not self._all.get(connection) and connection.opened_channels == opened:
            connection.close(reason="not used any more")

    # -- connections ---------------------------------------------------------------------------------------------

    def _add(self, engine: QuicChannels, remote: NodeAddress, first_ids: tuple[bytes, ...]) -> Connection:
        connection = Connection(self._context, engine, remote, first_ids, self._ended)
        self._all[connection] = set()
        for connection_id in connection.ids:
            self._by_id[connection.peer_key, connection_id] = connection
        engine.on_channel = partial(self._take_channel, connection)
        connection.on_change = partial(self._changed, connection)
        return connection

    def _equip(
        self, connection: Connection, plugins: Sequence[str] | None = None, transport: Transport | None = None
    ) -> PathSeeker:
        seeker = PathSeeker(self._equipment, self._sessions, connection, self._path, plugins, transport)
        connection.seeker = self._seekers[connection] = seeker
        return seeker

    def _ended(self, connection: Connection) -> None:
        pipes = self._all.pop(connection, set())
        self._seekers.pop(connection, None)
        self._equipment.udp.end_ahead(connection.engine.id)
        self._use(connection)
        self._begun.leave(connection)
        self._unproved.leave(connection)
        for key in [key for key, other in self._by_id.items() if other is connection]:
            del self._by_id[key]
        for wanted in [wanted for wanted, other in self._shared.items() if other is connection]:
            del self._shared[wanted]
        for pipe in pipes:
            if pipe.unseen:
                pipe.suspend()
                if self._context.tasks.spawn(f"pipe to {pipe.peer}", self._resume(pipe)) is None:
                    pipe.abort(connection.end or "")
            pipe.changed()

    async def _resume(self, pipe: DurablePipe | DurableDatagramPipe) -> None:
        await pipe.resume()
        if not pipe.closed:
            if pipe.connection in self._all:
                self._all[pipe.connection].add(pipe)
                self._use(pipe.connection)
            pipe.changed()

    def _changed(self, connection: Connection) -> None:
        if connection.engine.state is State.OPEN:
            self._equipment.udp.end_ahead(connection.engine.id)
            self._unproved.leave(connection)
            connection.say_address()
        for pipe in tuple(self._all.get(connection, ())):
            pipe.changed()

    def _take_channel(self, connection: Connection, channel: Channel) -> None:
        try:
            check_invited(self._context.config, connection.peer_key)
        except AuthenticationError:
            channel.reset()
            return
        reason = self._refusal(channel.service or "")
        if reason:
            channel.turn_away(reason)
        else:
            channel.take_pipe()
            self._take_pipe(self._pipe(connection, channel, self._context.now()))

    # -- paths ---------------------------------------------------------------------------------------------------

    def knows(self, peer_key: bytes, connection: bytes) -> bool:
        """Whether there is this connection with this peer; one that is not proved yet has no id."""
        return bool(connection) and any(
            other.id == connection and other.peer_key == peer_key for other in self._all
        )

    def expects(self, peer_key: bytes) -> bool:
        """Whether there is any with it: paths for it come from whoever has moved."""
        return any(other.peer_key == peer_key for other in self._all)

    def sought(self, peer_key: bytes, connection: bytes, remote: NodeAddress) -> None:
        """A peer that is at `remote` now looks for a path for this connection."""
        for other in tuple(self._all):
            if connection and other.id == connection and other.peer_key == peer_key:
                other.meet(remote)
                other.question()

    def take(self, session: Session, link: Links) -> None:
        """A nominated link of a session that a peer began: it is for the connection that its first datagram names."""
        path = self._path(session, link)
        for connection in self._all:
            if connection.peer_key == session.peer_key:
                connection.meet(session.remote)
                connection.make_way(path)
        own = [other for other in self._unclaimed if other.origin.peer_key == session.peer_key]
        if len(own) >= UNCLAIMED_PER_PEER:
            self._drop(own[0])
        elif len(self._unclaimed) >= UNCLAIMED:
            self._drop(next(iter(self._unclaimed)))
        self._unclaimed[path] = self._context.loop.call_later(UNCLAIMED_PATIENCE, self._drop, path)
        path.deliver = partial(self._claim, session.remote)
        path.on_lost = self._lost
        path.start()

    def _path(self, session: Session, link: Links) -> Path:
        """NetworkError when its socket is closed; nothing is left then."""
        origin = Origin(
            session.id, session.peer_key, link.plugin, link.transport, link.local, link.remote, link.relayed
        )
        now, udp = self._context.now(), self._equipment.udp
        expected = session.patience(UNKNOWN_ROUND_TRIP, ROUND_TRIP_SIGNALS)
        if isinstance(link, TcpLink):
            return TcpPath(origin, now, expected, link.stream, self._context.tasks)
        assert not isinstance(link, QuicLink)  # only streams have those
        try:
            return UdpPath(origin, now, expected, udp, link.checks, session.keep_port(link.local))
        except NetworkError:
            udp.forget(session.checks)
            raise

    def _lost(self, path: Path, _reason: str) -> None:
        timer = self._unclaimed.pop(path, None)
        if timer is not None:
            timer.cancel()

    def _drop(self, path: Path) -> None:
        self._lost(path, "")
        path.close()

    def _claim(self, remote: NodeAddress, path: Path, datagrams: list[bytes]) -> bool:
        """By the first of them; the others are of the same connection, or nobody's."""
        data = datagrams[0]
        if not data:
            return False
        origin = path.origin
        connection = self._by_id.get((origin.peer_key, connection_id_of(data)))
        if connection is None and is_first_packet(data) and is_durable(data):
            hello = self._context.config.budgets.hello_patience
            connection = self._accept(
                origin.peer_key,
                remote,
                origin.remote,
                data,
                patience_of(hello, HANDSHAKE_ROUND_TRIPS, path.expected),
            )
        if connection is None or connection.end is not None or not self._seat(connection, origin.remote):
            return False
        self._lost(path, "")
        connection.add(path)
        return path.deliver(path, datagrams)

    def begin(self, session: Session, flight: Sequence[bytes]) -> bool:
        """The first packets of the connection that a session looks for a path for; whether there is one now.

        Its answer travels with the session's checks. Of these there are few at once: beyond that the client is answered
        when it has a path.
        """
        first, key = flight[0], session.peer_key
        if not (is_first_packet(first) and is_durable(first)):
            return False
        connection = self._by_id.get((key, connection_id_of(first)))
        if connection is None:
            if sum(other.ahead for other in self._all) >= AHEAD:
                return False
            patience = self._context.config.timing.responder_patience
            connection = self._accept(key, session.remote, None, first, patience)
        if connection is None:
            return False
        connection.begun(flight, session.checks.greet)
        return True

    def admit(self, port: Port, data: bytes, source: SockAddr) -> bool:
        """Whether a client's first packet is of a connection, now that it has overtaken the nomination of its path."""
        remote = Endpoint.from_sockaddr(source)
        session = self._sessions.hosted_from(port.base, remote, Mode.PATH)
        return session is not None and self.begin(session, (data,))

    def _accept(
        self, key: bytes, remote: NodeAddress, source: Endpoint | None, data: bytes, patience: float
    ) -> Connection | None:
        """The connection that a first packet begins, if its sender may have one more; proved within `patience`.

        `source`: where it comes from; None while it has no path.
        """
        first_id, where = first_id_of(data), node_id_of(key) if source is None else str(source)
        if len(first_id) < CONNECTION_ID_SIZE:  # RFC 9000 section 7.2
            return None
        try:
            check_invited(self._context.config, key)
        except AuthenticationError as error:
            self._context.emit(StrangerRefused(where, str(error)))
            return None
        if not self._make_room(key, source):
            self._context.emit(StrangerRefused(where, "too many connections"))
            return None
        engine = QuicChannels.server(
            self._context.identity,
            self._certificate(),
            first_id,
            lambda _session: key,
            self._equipment.quic_holdings,
        )
        connection = self._add(engine, remote, (first_id[:CONNECTION_ID_SIZE],))
        self._begun.enter(connection, key, _place(key, source))  # room was made
        self._equip(connection)
        proving = self._prove(connection, patience)
        if self._context.tasks.spawn(f"connection of {node_id_of(key)}", proving) is None:
            connection.close()
        return connection

    def _make_room(self, key: bytes, source: Endpoint | None) -> bool:
        """Whether a peer may have one more. Who is out of reach makes room, who has no pipe, and who has most."""
        place = _place(key, source)
        begun = [connection for connection in self._all if not connection.invited]
        own = [connection for connection in begun if connection.peer_key == key]
        for crowd, most in ((own, CONNECTIONS_PER_PEER), (begun, CONNECTIONS)):
            if len(crowd) >= most:
                spare: Connection | None = max(crowd, key=lambda connection: connection.silence)
                if spare is not None and spare.silence < GONE:
                    spare = next(iter(self._idle(crowd)), None)
                if spare is None and crowd is begun:
                    spare = self._begun.leaver(key, place)
                if spare is None:
                    return False
                spare.close(reason="too many connections")
        if len(idle := self._idle(begun)) >= IDLE:
            idle[0].close(reason="not used")
        return source is None or not self._unproved.full or self._unproved.leaver(key, place) is not None

    def _seat(self, connection: Connection, source: Endpoint) -> bool:
        """A path from there leads to it, its first perhaps: whether it may stay."""
        if connection.invited:
            return True
        key, place = connection.peer_key, _place(connection.peer_key, source)
        self._begun.enter(connection, key, place)
        if connection.engine.state is not State.OPENING:
            return True
        if (leaver := self._unproved.enter(connection, key, place)) is not None:
            leaver.finish("too many that are not proved")
        return leaver is not connection

    def _idle(self, connections: Sequence[Connection]) -> list[Connection]:
        """Those without a pipe, the oldest first."""
        proved = [connection for connection in connections if connection.engine.state is State.OPEN]
        return [connection for connection in proved if not self._all.get(connection)]

    async def _prove(self, connection: Connection, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await connection.opened()
        except (TimeoutError, WarpgateError) as error:
            connection.finish(str(error) or "no QUIC handshake in time")
        else:
            self._linger(connection)

    # -- the node ------------------------------------------------------------------------------------------------

    def vanished(self, addresses: frozenset[IPAddress]) -> None:
        """These addresses of ours are no more."""
        for connection in tuple(self._all):
            connection.vanished(addresses)

    def moved(self, own: frozenset[IPAddress]) -> None:
        """Another network, an address more or less: `own` are those that there are now."""
        for connection in tuple(self._all):
            connection.doubt(own)
        for seeker in tuple(self._seekers.values()):
            seeker.moved()

    def address_changed(self) -> None:
        """The node's address is another one: peers are told."""
        for connection in tuple(self._all):
            connection.say_address()

    async def close(self) -> None:
        connections = tuple(self._all)
        for connection in connections:
            connection.close(reason="the node was closed")
        for path in tuple(self._unclaimed):
            self._drop(path)
        for connection in connections:
            await connection.closed()


def _place(key: bytes, source: Endpoint | None) -> Hashable:
    """Where a connection comes from, as its crowd; before it has a path nobody knows."""
    return key if source is None else user_of(source.ip)
