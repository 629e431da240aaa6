"""TCP connections that have proved nothing yet: bounded in number, time and bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from warpgate.core.context import Context
from warpgate.core.search.hosted import ToldWhy
from warpgate.core.search.links import TcpLink, read_message
from warpgate.core.search.session import Session
from warpgate.errors import AuthenticationError, NetworkError, ProtocolError
from warpgate.events import StrangerRefused
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import node_id_of
from warpgate.net.network import TcpStream
from warpgate.plan.shares import Turns
from warpgate.proto.hello import Handshake, HelloReceived
from warpgate.proto.relay_limits import user_of

# The session key by which a HELLO from there must be proved; AuthenticationError when it may have no session.
FindKey = Callable[[HelloReceived, Endpoint], bytes]
# The session of a HELLO that was proved under this key, new if need be; AuthenticationError likewise.
FindSession = Callable[[HelloReceived, bytes, Endpoint], Session]


class TcpDoor:
    """Takes accepted connections; hands proved links to their session."""

    def __init__(
        self,
        context: Context,
        find_key: FindKey,
        find_session: FindSession,
        deliver: Callable[[Session, TcpLink], None],
    ) -> None:
        self._context = context
        self._places: Turns[TcpStream] = Turns(
            context.within_descriptors(context.config.budgets.unauthenticated_connections)
        )
        self._find_key = find_key
        self._find_session = find_session
        self._deliver = deliver
        self._waiting: dict[TcpStream, asyncio.Task[None]] = {}

    def accept(self, stream: TcpStream) -> None:
        """When there are too many, the longest silent one goes: an honest HELLO comes within a round trip."""
        task = self._context.tasks.spawn(f"stranger {stream.remote}", self._admit(stream))
        if task is None:
            stream.abort()
            return
        self._waiting[stream] = task
        leaver = self._places.enter(stream, stream.remote, user_of(stream.remote.ip))
        if leaver is not None:
            self._waiting.pop(leaver).cancel()
            leaver.abort()
            self._refuse(leaver, "too many connections that proved nothing")

    def _refuse(self, stream: TcpStream, reason: str, peer: str = "") -> None:
        self._context.emit(StrangerRefused(str(stream.remote), reason, peer))

    async def _admit(self, stream: TcpStream) -> None:
        patience = self._context.config.budgets.hello_patience
        try:
            async with asyncio.timeout(patience):
                session, link = await self._prove(stream)
        except TimeoutError:
            self._refuse(stream, f"no valid HELLO within {patience:g} s")
            stream.abort()
        except ToldWhy:
            stream.close()  # in order: it has been
        except (NetworkError, ProtocolError) as error:
            self._refuse(stream, str(error))
            stream.abort()
        except BaseException:
            stream.abort()
            raise
        else:
            self._deliver(session, link)
        finally:
            self._waiting.pop(stream, None)
            self._places.leave(stream)

    async def _prove(self, stream: TcpStream) -> tuple[Session, TcpLink]:
        handshake = Handshake.accept(self._context.random_bytes(16))
        await read_message(stream, handshake)
        hello = handshake.next_event()
        if not isinstance(hello, HelloReceived):
            raise AuthenticationError("the connection does not begin with a HELLO")
        key = self._find_key(hello, stream.remote)
        handshake.prove(key)  # before anything is made for it
        try:
            session = self._find_session(hello, key, stream.remote)
        except ToldWhy as error:
            self._refuse(stream, str(error), node_id_of(hello.key))
            handshake.refuse(str(error))
            await stream.send(handshake.data_to_send())
            raise
        if not session.fresh_nonce(hello.nonce):
            raise AuthenticationError("a HELLO that was seen before")
        handshake.next_event()
        await stream.send(handshake.data_to_send())
        relayed = session.relays.carry(hello.plugin, stream.local, stream.remote)
        # Whose word it is that TLS follows: the initiator's, ours or that of the HELLO just proved.
        secure = session.secure if session.initiator else hello.secure
        return session, TcpLink(stream, handshake, hello.plugin, relayed=relayed, secure=secure)
