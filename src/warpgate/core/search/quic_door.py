"""QUIC connections that peers open to us: bounded in number and time until their client has proved its key.

A first packet is looked at only when it comes from where the peer of a waiting stream session has proved itself by a
check; strangers get no answer. Which session the connection is for its head says.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_engine import REFUSED, State
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.connection.quic_library import loaded
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.sessions import Sessions
from warpgate.core.udp.demultiplexer import Port
from warpgate.errors import AuthenticationError, NetworkError, ProtocolError
from warpgate.events import StrangerRefused
from warpgate.model.endpoint import Endpoint, Mode, SockAddr
from warpgate.model.identity import Identity
from warpgate.net.threads import in_thread
from warpgate.plan.shares import Places
from warpgate.proto.quic_wire import connection_id_of
from warpgate.proto.relay_limits import user_of

# Without servers to wait for, a node's start is over by then, and is not held up by our thread.
START_FIRST = 0.03
# Each costs 2 ms of handshake and 100 KB (`quic_bounds` limits what its client adds); an honest one is proved after a
# round trip. Beyond that whoever has most of them makes room.
UNPROVED = 64


class QuicDoor:
    """`deliver` gets the proved ones."""

    def __init__(self, equipment: Equipment, sessions: Sessions, deliver: Callable[[QuicFlow], None]) -> None:
        self._context = equipment.context
        self._holdings = equipment.quic_holdings
        self._sessions = sessions
        self._deliver = deliver
        self._certificate: bytes | None = None
        self._unproved: Places[QuicFlow] = Places(UNPROVED)

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

    def admit(self, port: Port, data: bytes, source: SockAddr) -> bool:
        """Whether a client's first packet, of a plain pipe, was ours to take."""
        remote = Endpoint.from_sockaddr(source)
        session = self._sessions.hosted_from(port.base, remote, Mode.STREAM)
        if session is None:
            return False
        key = session.peer_key
        if not self._unproved.full:
            self._answer(port, data, remote, key, session.hello_patience)
        elif (leaver := self._unproved.leaver(key, user_of(remote.ip))) is not None:
            self._unproved.leave(leaver)
            leaver.close(REFUSED, "others have fewer")
            self._answer(port, data, remote, key, session.hello_patience)
        return True

    def _answer(self, port: Port, data: bytes, remote: Endpoint, key: bytes, patience: float) -> None:
        first_id = connection_id_of(data)

        def find_key(session_id: bytes) -> bytes:
            session = self._sessions.get(session_id)
            if (
                session is None
                or session.initiator
                or session.mode is not Mode.STREAM
                or not session.knows(port.base, remote)
            ):
                raise AuthenticationError("a QUIC connection for no session of ours")
            return session.peer_key

        stream = QuicStream.server(
            self._context.identity, self.certificate(), first_id, find_key, self._holdings
        )
        flow = QuicFlow(stream, port, remote, first_id)
        self._unproved.enter(flow, key, user_of(remote.ip))
        flow.deliver(data)
        if self._context.tasks.spawn(f"QUIC from {remote}", self._prove(flow, patience)) is None:
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
