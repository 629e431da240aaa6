"""The connections of a node: who has which, what comes by paths that nobody has claimed yet, and their pipes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from warpgate.core.connection.channel import Channel, DatagramChannel
from warpgate.core.connection.connection import HANDSHAKE_ROUND_TRIPS, Connection
from warpgate.core.connection.guests import Guests
from warpgate.core.connection.paths import Origin, Path, TcpPath, UdpPath
from warpgate.core.connection.quic_bounds import AHEAD
from warpgate.core.connection.quic_channels import QuicChannels
from warpgate.core.connection.quic_engine import State
from warpgate.core.connection.quic_library import loaded
from warpgate.core.connection.unclaimed import UnclaimedPaths
from warpgate.core.known_connections import KnownConnections, Wanted
from warpgate.core.pipes.base import Pipe, PipeInfo
from warpgate.core.pipes.durable import DurableDatagramPipe, DurablePipe
from warpgate.core.pipes.maker import PipeMaker
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.hosted import check_invited
from warpgate.core.search.initiator import Links
from warpgate.core.search.links import TcpLink, UdpLink
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
from warpgate.plan.collision import settle
from warpgate.plan.paths import UNKNOWN_ROUND_TRIP, longest_round_trip
from warpgate.plan.patience import MOST_OF_USUAL, attempt_patience, patience_of
from warpgate.proto.quic_wire import (
    CONNECTION_ID_SIZE,
    connection_id_of,
    first_id_of,
    is_durable,
    is_first_packet,
)

# How long a connection waits for its next pipe: a program that opens one after the other pays for one search.
LINGERING = 60.0
# One that both have begun and that carried nothing: what the peer has just opened on it is there by then.
SUPERSEDED = 3.0
# A path's round trip, as expected from that of signals: there and back over a relay, which is as far as a broker.
ROUND_TRIP_SIGNALS = 2
# The searches end in time by themselves, and know why they have failed.
LAST_WORD = 0.5
# How long a pipe waits until the peer takes one more on a connection (qh3: 99 at once), before another one is begun.
FULL = 1.0
# Between the two times that a closing node says so, seconds: a burst of loss is over, and nobody notices.
FAREWELL = 0.003
CLOSED_NODE = "the node was closed"
# A connection whose peer has answered so recently is believed to be alive.
FRESH = 15.0


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
        self.known = KnownConnections()
        self._unclaimed = UnclaimedPaths()
        self._seekers: dict[Connection, PathSeeker] = {}
        self._lingering: dict[Connection, asyncio.TimerHandle] = {}
        self._guests = Guests(self.known.pipes)

    def __len__(self) -> int:
        return len(self.known)

    # -- pipes of ours -------------------------------------------------------------------------------------------

    async def connect(
        self,
        remote: NodeAddress,
        plugins: Sequence[str] | None,
        transport: Transport | None,
        timeout: float | None,
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
        pipe.again = partial(open_one, None)
        return pipe

    async def _open(
        self, wanted: Wanted, remote: NodeAddress, service: str, mode: Mode, timeout: float | None
    ) -> tuple[Connection, Channel]:
        """On another connection, where one that was there before ends and the peer never knew of the channel."""
        began = self._context.now()
        while True:
            patience = None if timeout is None else began + timeout - self._context.now()
            own, theirs, new = self.known.own(wanted), self.known.theirs(wanted), False
            if own is None and (theirs is None or not theirs.usable):
                own, new = self._begin(wanted, remote, patience), True
            if own is not None:
                own.meet(remote)
                self._use(own)
            connection = own or theirs
            assert connection is not None
            seeker, channel = self._seekers[connection], None
            try:
                async with asyncio.timeout(None) as limit:
                    curb = partial(self._curb, limit, began, timeout, own)
                    if (reached := await self._reach(wanted, own, curb)) is None:
                        continue
                    connection, seeker = reached, self._seekers[reached]
                    if connection is not own:
                        self._prefer(connection, own)
                    if (channel := await self._open_on(connection, service, mode)) is not None:
                        return connection, channel
            except TimeoutError:
                silence = f"node {connection.peer} did not answer within {self._granted(timeout, own):g} s"
                raise self._failure(connection, seeker, silence) from None
            except PipeClosed as over:
                unheard = channel is None or connection.engine.unseen(channel.stream)
                if (new and connection is own) or connection.end is None or not unheard:
                    raise self._failure(connection, seeker, str(over)) from None
            finally:
                self._linger(connection)
                if own is not None and own is not connection:
                    self._linger(own, LINGERING if own.used else SUPERSEDED)

    def _granted(self, timeout: float | None, own: Connection | None) -> float:
        """Seconds for a pipe. Where our user has set no limit the searches for a first path end by themselves."""
        usual = self._context.config.timing.attempt_timeout
        if timeout is not None or own is None:
            return usual if timeout is None else timeout
        return MOST_OF_USUAL * usual if own.current is None else attempt_patience(usual, own.round_trip)

    def _curb(self, limit: asyncio.Timeout, began: float, timeout: float | None, own: Connection | None) -> None:
        limit.reschedule(began + self._granted(timeout, own) + LAST_WORD)

    async def _open_on(self, connection: Connection, service: str, mode: Mode) -> Channel | None:
        """None: it is full. PipeClosed with the peer's word, or when it is over. Without a name it is as if there were
        one: nothing is waited for.
        """
        if mode is Mode.DATAGRAM and connection.engine.largest_datagram <= 0:
            raise PipeClosed(f"node {connection.peer} takes no datagrams on durable connections")
        try:
            async with asyncio.timeout(FULL):
                channel = await connection.open_channel(service, datagrams=mode is Mode.DATAGRAM)
        except TimeoutError:
            connection.full = connection.engine.state is State.OPEN
            return None
        while service and not channel.taken:
            if (end := channel.failure_of(connection.peer) or connection.end) is not None:
                raise PipeClosed(end)
            await connection.changed()
        return channel

    async def _reach(self, wanted: Wanted, own: Connection | None, curb: Callable[[], None]) -> Connection | None:
        """The connection to be used, when the peer is known to be there: our own, or one that the peer has begun. None:
        there is none to wait for. PipeClosed when ours is over; raises what says that the peer is not there. `curb`
        sets the limit by what is known.
        """
        silences: Sequence[Exception] = ()
        if own is not None and own.current is not None and not own.works:
            silences = self._seekers[own].silences
            self._seekers[own].hurry()
        key, context = wanted[0], self._context
        ours_first = context.identity.node_id < node_id_of(key)
        while True:
            curb()
            theirs = self.known.theirs(wanted)
            ours = None if own is None or own.end is not None else own
            chosen, until = settle(*((ours, theirs) if ours_first else (theirs, ours)), context.now())
            if chosen is not None and chosen.answers(FRESH):
                return chosen
            if chosen is None and ours is None:
                if own is None:
                    return None
                raise PipeClosed(own.end or "")
            if silences and own is not None and not own.works:
                raise silences[0]
            await self.known.news_of(key, until)

    def _prefer(self, theirs: Connection, own: Connection | None) -> None:
        """Our user asks for this peer: it is no stranger's from now on. `own` has come second."""
        theirs.invited = True
        self._guests.leave(theirs)
        self._use(theirs)
        if own is not None and own.opening:
            own.finish("the peer has connected to us meanwhile")

    def _begin(self, wanted: Wanted, remote: NodeAddress, timeout: float | None) -> Connection:
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
        self.known.share(wanted, connection)
        connection.begin()
        self._equipment.udp.expect_ahead(engine.id)
        seeker.start(timeout)
        return connection

    def _failure(self, connection: Connection, seeker: PathSeeker, reason: str) -> ConnectFailed:
        """What the direct strategies say, where they have ended; the report of all."""
        if connection.current is not None:
            return ConnectFailed(reason, seeker.report)
        connection.finish(reason)
        told: ConnectFailed | str = max(seeker.failures, key=lambda failure: len(failure.report), default=reason)
        if isinstance(told, str):
            return ConnectFailed(told, seeker.report)
        needed = any(failure.relay_needed for failure in seeker.failures)
        return ConnectFailed(str(told.args[0]), seeker.report, relay_needed=needed)

    def _pipe(self, connection: Connection, channel: Channel, began: float) -> DurablePipe | DurableDatagramPipe:
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
        self.known.pipes[connection].add(pipe)
        self._use(connection)
        self._pipes.add(pipe)
        return pipe

    def _pipe_ended(self, pipe: Pipe, reason: str) -> None:
        self._pipes.ended(pipe, reason)
        assert isinstance(pipe, DurablePipe | DurableDatagramPipe)
        connection = pipe.connection
        if connection in self.known:
            connection.full = False
            self.known.pipes[connection].discard(pipe)
            self._linger(connection)

    def _use(self, connection: Connection) -> None:
        if (timer := self._lingering.pop(connection, None)) is not None:
            timer.cancel()

    def _linger(self, connection: Connection, seconds: float = LINGERING) -> None:
        self._use(connection)
        if connection in self.known and not self.known.pipes[connection]:
            self._lingering[connection] = self._context.loop.call_later(
                seconds, self._close_idle, connection, connection.opened_channels
            )

    def _close_idle(self, connection: Connection, opened: int) -> None:
        if not self.known.pipes.get(connection) and connection.opened_channels == opened:
            connection.close(reason="not used any more")

    # -- connections ---------------------------------------------------------------------------------------------

    def _add(self, engine: QuicChannels, remote: NodeAddress, first_ids: tuple[bytes, ...]) -> Connection:
        connection = Connection(self._context, engine, remote, first_ids, self._ended)
        self.known.add(connection)
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
        pipes = self.known.remove(connection)
        self._seekers.pop(connection, None)
        self._equipment.udp.end_ahead(connection.engine.id)
        self._use(connection)
        self._guests.leave(connection)
        self.known.tell(connection.peer_key)
        for pipe in pipes:
            if pipe.unseen:
                pipe.suspend()
                if self._context.tasks.spawn(f"pipe to {pipe.peer}", self._resume(pipe)) is None:
                    pipe.abort(connection.end or "")
            pipe.changed()

    async def _resume(self, pipe: DurablePipe | DurableDatagramPipe) -> None:
        await pipe.resume()
        if not pipe.closed:
            if pipe.connection in self.known:
                self.known.pipes[pipe.connection].add(pipe)
                self._use(pipe.connection)
            pipe.changed()

    def _changed(self, connection: Connection) -> None:
        # First: a pipe that waits is opened by the packet that also has our address.
        self.known.tell(connection.peer_key)
        if connection.engine.state is State.OPEN:
            self._equipment.udp.end_ahead(connection.ids[0])
            self._guests.proved(connection)
            connection.say_address()
        for pipe in tuple(self.known.pipes.get(connection, ())):
            pipe.changed()

    def _take_channel(self, connection: Connection, channel: Channel) -> None:
        if connection.engine.is_client:
            for other in self.known.with_peer(connection.peer_key):
                if other.opening and not other.engine.is_client:
                    other.superseded = True
        try:
            check_invited(self._context.config, connection.peer_key)
            reason = self._refusal(channel.service or "")
        except AuthenticationError as error:
            reason = str(error)
        if reason:
            channel.turn_away(reason)
        else:
            channel.take_pipe()
            self._take_pipe(self._pipe(connection, channel, self._context.now()))

    # -- paths ---------------------------------------------------------------------------------------------------

    def knows(self, peer_key: bytes, connection: bytes) -> bool:
        """Whether there is this connection with this peer; one that is not proved yet has no id."""
        return bool(connection) and any(other.id == connection for other in self.known.with_peer(peer_key))

    def expects(self, peer_key: bytes) -> bool:
        """Whether there is any with it: paths for it come from whoever has moved."""
        return bool(self.known.with_peer(peer_key))

    def sought(self, peer_key: bytes, connection: bytes, remote: NodeAddress) -> None:
        """A peer that is at `remote` now looks for a path for this connection."""
        for other in self.known.with_peer(peer_key):
            if connection and other.id == connection:
                other.meet(remote)
                other.question()

    def take(self, session: Session, link: Links) -> None:
        """A nominated link of a session that a peer began: it is for the connection that its first datagram names."""
        path = self._path(session, link)
        for connection in self.known.with_peer(session.peer_key):
            connection.meet(session.remote)
        self._unclaimed.add(path, partial(self._claim, session.remote), self._share)

    def _path(self, session: Session, link: Links) -> Path:
        """NetworkError when its socket is closed; nothing is left then."""
        origin = Origin(
            session.id, session.peer_key, link.plugin, link.transport, link.local, link.remote, link.relayed
        )
        now, udp = self._context.now(), self._equipment.udp
        self._context.acquainted.marks.renew(session.peer, session.key, session.role)
        expected = session.patience(UNKNOWN_ROUND_TRIP, ROUND_TRIP_SIGNALS)
        delay, offered = session.signal_delay, session.first_offer_at if session.initiator else None
        longest = max(expected, longest_round_trip(now, session.started, offered, session.first_heard_at, delay))
        expected = longest if delay is None else expected  # no broker has been met yet
        if isinstance(link, UdpLink) and (measured := link.checks.agent.round_trip) is not None:
            longest = min(longest, max(UNKNOWN_ROUND_TRIP, measured))  # the handshake takes its time, too
            expected = min(expected, longest)
        if isinstance(link, TcpLink):
            return TcpPath(origin, now, expected, longest, link.stream, self._context.tasks)
        assert not isinstance(link, QuicLink)  # only streams have those
        try:
            return UdpPath(origin, now, expected, longest, udp, link.checks, session.ports.keep(link.local))
        except NetworkError:
            udp.forget(session.checks)
            raise

    def _claim(self, remote: NodeAddress, path: Path, datagrams: list[bytes]) -> bool:
        """By the first of them; the others are of the same connection, or nobody's."""
        data = datagrams[0]
        if not data:
            return False
        origin = path.origin
        connection = self.known.named(origin.peer_key, connection_id_of(data))
        if connection is not None and connection.engine.is_client and self._for_another(origin):
            return False
        if connection is None and is_first_packet(data) and is_durable(data):
            hello = self._context.config.budgets.hello_patience
            connection = self._accept(
                origin.peer_key,
                remote,
                origin.remote,
                data,
                patience_of(hello, HANDSHAKE_ROUND_TRIPS, path.known_round_trip),
            )
        if connection is None or connection.end is not None or not self._guests.seat(connection, origin.remote):
            return False
        self._unclaimed.take(path)
        connection.add(path)
        return path.deliver(path, datagrams)

    def _for_another(self, origin: Origin) -> bool:
        """Whether a peer has looked for this path for a connection that it has begun itself. What it says first on one
        of ours comes between the same endpoints, but from us it would not take anything for that one by this path.
        """
        return any(origin.session in other.first_words.sessions for other in self.known.with_peer(origin.peer_key))

    def _share(self, path: Path) -> bool:
        """Whether a connection has a path between the same endpoints, and takes this one too: the one that has been
        without an answer for longest.
        """
        pair = (path.origin.transport, path.origin.local, path.origin.remote)
        sharing = [
            other
            for other in self.known.with_peer(path.origin.peer_key)
            if any((origin.transport, origin.local, origin.remote) == pair for origin in other.paths)
        ]
        if sharing:
            max(sharing, key=lambda other: other.silence).add(path)
        return bool(sharing)

    def begin(self, session: Session, flight: Sequence[bytes]) -> bool:
        """The first packets of the connection that a session looks for a path for; whether there is one now.

        Its answer travels with the session's checks. Of these there are few at once: beyond that the client is answered
        when it has a path.
        """
        first, key = flight[0], session.peer_key
        if not (is_first_packet(first) and is_durable(first)):
            return False
        connection = self.known.named(key, connection_id_of(first))
        if connection is None:
            if sum(other.ahead for other in self.known) >= AHEAD:
                return False
            patience = self._context.config.timing.responder_patience
            connection = self._accept(key, session.remote, None, first, patience)
        if connection is None:
            return False
        connection.begun(session.id, flight, session.checks.greet)
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
        if not self._guests.make_room(key, source):
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
        self._guests.enter(connection, source)
        # Its offer may have left just before the peer came to know ours.
        connection.superseded = any(
            other.engine.is_client and other.usable and other.engine.pipes_seen for other in self.known.with_peer(key)
        )
        self._equip(connection)
        proving = self._prove(connection, patience)
        if self._context.tasks.spawn(f"connection of {node_id_of(key)}", proving) is None:
            connection.close()
        return connection

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
        for connection in self.known:
            connection.vanished(addresses)

    def moved(self, own: frozenset[IPAddress], usable: frozenset[IPAddress]) -> None:
        """Another network, an address more or less: `own` are those that there are now, and `usable` for new paths."""
        for connection in self.known:
            connection.doubt(own, usable)
        for seeker in tuple(self._seekers.values()):
            seeker.moved()

    def reachable(self) -> None:
        """A broker is there again, perhaps at the end of an outage: who waits until the next search need not."""
        for connection, seeker in tuple(self._seekers.items()):
            if connection.silent:
                seeker.hurry()

    def address_changed(self) -> None:
        """The node's address is another one: peers are told."""
        for connection in self.known:
            connection.say_address()

    async def close(self) -> None:
        connections = tuple(self.known)
        for connection in connections:
            connection.say_farewell(CLOSED_NODE)
        if connections:
            await asyncio.sleep(FAREWELL)
        for connection in connections:
            connection.close(reason=CLOSED_NODE)
        self._unclaimed.close()
        for connection in connections:
            await connection.closed()
