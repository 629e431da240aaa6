"""QUIC connections that peers open to us: bounded in number and time until their client has proved its key.

A packet is looked at only when it comes from where the peer of a waiting stream session has proved itself by a check;
strangers get no answer. Which session the connection is for its head says. The first packets may also have come with
the session's offer: then the answer goes out with the first checks, and where the connection is to be its client says
by going on there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from warpgate.core.connection.quic_bounds import AHEAD, UNPROVED, Holdings
from warpgate.core.connection.quic_engine import REFUSED, FindKey, State
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.connection.quic_library import is_loaded, loaded
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.core.udp.demultiplexer import GREETED_PAIRS, Port
from warpgate.errors import AuthenticationError, NetworkError, ProtocolError
from warpgate.events import StrangerRefused
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Mode, SockAddr
from warpgate.model.identity import Identity
from warpgate.net.threads import in_thread
from warpgate.plan.shares import Places
from warpgate.proto.quic_wire import connection_id_of, is_durable, is_first_packet
from warpgate.proto.relay_limits import user_of

# Without servers to wait for, a node's start is over by then, and is not held up by our thread.
START_FIRST = 0.03


@dataclass(frozen=True, slots=True)
class Ahead:
    """A connection that a session's offer has begun, by these packets; `first_id` is where they go to, `said` our
    answer. `greeted`: from where the packets came with the client's checks.
    """

    session: Session
    stream: QuicStream
    first_id: bytes
    flight: tuple[bytes, ...]
    said: tuple[bytes, ...]
    greeted: set[tuple[Endpoint, Endpoint]]


class QuicDoor:
    """`deliver` gets the proved ones."""

    def __init__(self, equipment: Equipment, sessions: Sessions, deliver: Callable[[QuicFlow], None]) -> None:
        self._context = equipment.context
        self._holdings = equipment.quic_holdings
        self._sessions = sessions
        self._deliver = deliver
        self._certificate: bytes | None = None
        self._unproved: Places[QuicFlow] = Places(UNPROVED)
        self._ahead: dict[bytes, Ahead] = {}  # by session

    async def prepare(self) -> None:
        """Load the library, and let it do what servers need once, in a thread; what it costs would delay the
        first attempt.
        """
        await asyncio.sleep(START_FIRST)
        await loaded()
        if not self._context.config.accept:
            return
        identity = self._context.identity
        self._certificate = await in_thread(lambda: _rehearse(identity), daemon=False)

    def certificate(self) -> bytes:
        """Ours, PEM; made now if need be."""
        if self._certificate is None:
            self._certificate = self._context.identity.certificate()
        return self._certificate

    def begin(self, session: Session, flight: Sequence[bytes]) -> None:
        """The first packets of a session's client, from its offer. Their answer travels with the session's checks."""
        first = flight[0]
        known = session.id in self._ahead or len(self._ahead) >= AHEAD
        if known or not is_loaded() or not is_first_packet(first) or is_durable(first):
            return
        first_id, session_id, now = connection_id_of(first), session.id, self._context.now()
        stream = self._server(first_id, self._key_finder(lambda named: named.id == session_id))
        stream.receive(list(flight), now)
        said = tuple(stream.datagrams(now))
        self._ahead[session.id] = Ahead(session, stream, first_id, tuple(flight), said, set())
        session.stack.callback(self._forget, session.id)
        session.checks.greet(said)

    def _forget(self, session: bytes) -> None:
        """It is over, and its client has gone on nowhere."""
        if (ahead := self._ahead.pop(session, None)) is not None:
            ahead.stream.close(REFUSED, "the session is over")

    def admit(self, port: Port, data: bytes, source: SockAddr) -> bool:
        """Whether a packet of a plain pipe's client, on no flow yet, was ours to take."""
        remote, to = Endpoint.from_sockaddr(source), connection_id_of(data)
        for ahead in self._ahead.values():
            if to in (ahead.first_id, ahead.stream.id) and ahead.session.knows(port.base, remote):
                self._hear(ahead, port, data, remote)
                return True
        session = self._sessions.hosted_from(port.base, remote, Mode.STREAM)
        if session is None or not is_first_packet(data):
            return False
        if self._make_room(session.peer_key, remote):
            stream = self._server(to, self._key_finder(lambda named: named.knows(port.base, remote)))
            self._take(session, QuicFlow(stream, port, remote, to), data)
        return True

    def _hear(self, ahead: Ahead, port: Port, data: bytes, remote: Endpoint) -> None:
        """Its client goes on here if it answers us, or repeats itself because nothing of ours has arrived; but what it
        says first follows its checks on every pair.
        """
        session, pair = ahead.session, (port.base, remote)
        if data in ahead.flight and (data != ahead.flight[0] or pair not in ahead.greeted):
            if len(ahead.greeted) < GREETED_PAIRS:
                ahead.greeted.add(pair)
        elif self._make_room(session.peer_key, remote):
            del self._ahead[session.id]
            flow = QuicFlow(ahead.stream, port, remote, ahead.first_id)
            if connection_id_of(data) == ahead.first_id:
                flow.say_again(ahead.said)
            self._take(session, flow, data)

    def _make_room(self, key: bytes, remote: Endpoint) -> bool:
        """Whether there may be one more that is not proved."""
        if not self._unproved.full:
            return True
        leaver = self._unproved.leaver(key, user_of(remote.ip))
        if leaver is not None:
            self._unproved.leave(leaver)
            leaver.close(REFUSED, "others have fewer")
        return leaver is not None

    def _key_finder(self, meant: Callable[[Session], bool]) -> FindKey:
        """Whose the session is that a client's head names, if it is one of those that are meant."""

        def find_key(session_id: bytes) -> bytes:
            session = self._sessions.get(session_id)
            waits = session is not None and not session.initiator and session.mode is Mode.STREAM
            if session is None or not waits or not meant(session):
                raise AuthenticationError("a QUIC connection for no session of ours")
            return session.peer_key

        return find_key

    def _server(self, first_id: bytes, find_key: FindKey) -> QuicStream:
        return QuicStream.server(self._context.identity, self.certificate(), first_id, find_key, self._holdings)

    def _take(self, session: Session, flow: QuicFlow, data: bytes) -> None:
        self._unproved.enter(flow, session.peer_key, user_of(flow.remote.ip))
        flow.deliver([data])
        proving = self._prove(flow, session.hello_patience)
        if self._context.tasks.spawn(f"QUIC from {flow.remote}", proving) is None:
            self._unproved.leave(flow)
            flow.close()

    async def _prove(self, flow: QuicFlow, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await flow.opened()
        except (TimeoutError, NetworkError, ProtocolError) as error:
            flow.close(REFUSED, "not proved")
            self._context.emit(StrangerRefused(str(flow.remote), str(error) or "no QUIC handshake in time"))
        except BaseException:
            flow.close()
            raise
        else:
            self._deliver(flow)
        finally:
            self._unproved.leave(flow)


def _rehearse(identity: Identity) -> bytes:
    """Our certificate, after a handshake with ourselves."""
    certificate = identity.certificate()
    session = secrets.token_bytes(16)
    holdings = Holdings()
    client = QuicStream.client(identity, identity.public_key, session, 0.0, holdings)
    flight = client.datagrams(0.0)
    server = QuicStream.server(
        identity, certificate, connection_id_of(flight[0]), lambda _: identity.public_key, holdings
    )
    for _ in range(3):
        server.receive(flight, 0.0)
        client.receive(server.datagrams(0.0), 0.0)
        flight = client.datagrams(0.0)
    if server.state is not State.OPEN:
        raise NetworkError(f"the QUIC library does not work here: {server.failure}")
    return certificate
