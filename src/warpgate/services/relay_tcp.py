"""Streams over a TURN server (RFC 6062): the peer dials the relayed endpoint, or the server dials the peer.

Each of them needs a data connection of ours to the server, which ConnectionBind joins to the peer's. One is dialled
ahead, while the peer is still being told where to call: that saves the round trips of TCP and TLS at the end.

Bytes after the ConnectionBind answer are the peer's, as they are. A relay has no half-close: what ends one direction
ends both (section 5.5), so `write_eof` on a relayed stream also ends what the peer still sends.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress

from warpgate.errors import DecodeError, NetworkError, ServiceError, WarpgateError
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Acceptor, TcpStream
from warpgate.net.race import abandon
from warpgate.proto.stun import Attribute, Method, StreamDecoder
from warpgate.proto.turn_events import ConnectRefused, PeerConnected
from warpgate.proto.turn_requests import Requests
from warpgate.proto.turn_wire import explain
from warpgate.services.relay_allocation import Allocation, TcpEvent

# RFC 6062 section 5.4: a connection that is not bound within 30 s is closed by the server.
BIND_PATIENCE = 10.0
# After our FIN the server passes on what is left and closes; the allocation must not go before.
LINGER = 10.0
CHUNK = 16 * 1024
# On a data connection before it is the peer's: the answer, perhaps after one with a fresh nonce.
LARGEST_ANSWER, MOST_OTHERS = 2048, 8
# Peers that call at once: a peer has one call to make, a stranger behind the same address gets no more than this.
MAX_CALLS = 8

DialServer = Callable[[], Awaitable[TcpStream]]


class RelayedStream:
    """A `TcpStream` with the peer at its other end, `local` the relayed endpoint. Holds a share of the allocation."""

    def __init__(
        self, stream: TcpStream, early: bytes, local: Endpoint, remote: Endpoint, allocation: Allocation
    ) -> None:
        allocation.retain()
        self._stream = stream
        self._early = early
        self.local = local
        self.remote = remote
        self._allocation: Allocation | None = allocation

    async def recv(self, limit: int) -> bytes:
        if self._early:
            data, self._early = self._early[:limit], self._early[limit:]
            return data
        return await self._stream.recv(limit)

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send(data)

    def stalled(self) -> float:
        return self._stream.stalled()

    def unacknowledged(self) -> int:
        """By the relay."""
        return self._stream.unacknowledged()

    def write_eof(self) -> None:
        self._stream.write_eof()

    def abort(self) -> None:
        self._stream.abort()
        self._release()

    def close(self) -> None:
        """What was sent is still delivered: the allocation waits until the server has closed, at most 10 s."""
        if self._allocation is None:
            return
        allocation, self._allocation = self._allocation, None
        with suppress(NetworkError):
            self._stream.write_eof()
        allocation.linger(self._drain())
        allocation.drop()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(LINGER):
                while await self._stream.recv(CHUNK):
                    pass
        except (
            TimeoutError,
            NetworkError,
            RuntimeError,
        ):  # RuntimeError: the user's own recv is still waiting
            pass
        finally:
            self._stream.close()

    def detach(self) -> socket.socket:
        """The data connection; the allocation then lives until the node is closed. NetworkError over TLS."""
        if self._early:
            raise NetworkError(f"{len(self._early)} bytes of {self.remote} must be received before detaching")
        sock = self._stream.detach()
        self._allocation = None
        return sock

    def _release(self) -> None:
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            allocation.drop()


class TcpRelay:
    """A relayed TCP endpoint; takes over the allocation. Peers that call are given to the acceptor."""

    def __init__(self, allocation: Allocation, dial_server: DialServer, acceptor: Acceptor) -> None:
        self.endpoint = allocation.relayed[0]
        self._allocation = allocation
        self._dial_server = dial_server
        self._acceptor = acceptor
        self._asked: dict[Endpoint, asyncio.Future[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._spare: deque[asyncio.Task[TcpStream]] = deque()
        self._open = True
        self.server = allocation.route.server
        allocation.on_tcp = self._happened
        self._spare.append(asyncio.get_running_loop().create_task(self._dial_spare(), name="turn data"))

    def permit(self, ip: IPAddress) -> None:
        """Let this address call."""
        self._allocation.permit(ip)

    async def connect(self, peer: Endpoint) -> TcpStream:
        """Let the server call the peer. ServiceError, NetworkError."""
        if peer in self._asked:
            raise ServiceError(f"the relay is calling {peer} already")
        answer = self._asked[peer] = asyncio.get_running_loop().create_future()
        try:
            self._allocation.connect(peer)
            number = await answer
        finally:
            del self._asked[peer]
        return await self._bind(peer, number)

    def close(self) -> None:
        """Streams that were handed out live on, and with them the allocation. Idempotent."""
        if not self._open:
            return
        self._open = False
        for task in tuple(self._tasks):
            task.cancel()
        while self._spare:
            abandon(self._spare.popleft(), lambda stream: stream.abort())
        self._allocation.drop()

    # -- calls ---------------------------------------------------------------------------------------------------

    @property
    def heard(self) -> bool:
        """Whether a peer was, by it."""
        return self._allocation.heard

    def _happened(self, event: TcpEvent) -> None:
        answer = self._asked.get(event.peer)
        if isinstance(event, PeerConnected) and not event.asked:
            if self._open and len(self._tasks) < MAX_CALLS:
                self._spawn(self._take_call(event))
        elif answer is None or answer.done():
            return
        elif isinstance(event, ConnectRefused):
            answer.set_exception(ServiceError(f"{event.peer}: {event.reason}"))
        else:
            answer.set_result(event.connection_id)

    async def _take_call(self, event: PeerConnected) -> None:
        with suppress(WarpgateError):  # it failed to come about; whoever waits for it has a limit
            self._acceptor(await self._bind(event.peer, event.connection_id))

    async def _bind(self, peer: Endpoint, connection_id: int) -> RelayedStream:
        """Join a data connection of ours to the peer's (section 4.3)."""
        try:
            async with asyncio.timeout(BIND_PATIENCE):
                stream = await self._data_connection()
                try:
                    early = await bind_connection(stream, self._allocation, connection_id)
                except BaseException:
                    stream.abort()
                    raise
        except TimeoutError:
            raise ServiceError(f"no data connection for {peer} within {BIND_PATIENCE:g} s") from None
        return RelayedStream(stream, early, self.endpoint, peer, self._allocation)

    async def _data_connection(self) -> TcpStream:
        if self._spare:
            spare = self._spare.popleft()
            try:
                return await spare
            except WarpgateError:
                pass
            except asyncio.CancelledError:
                abandon(spare, lambda stream: stream.abort())
                raise
        return await self._dial_server()

    async def _dial_spare(self) -> TcpStream:
        return await self._dial_server()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="relayed call")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def bind_connection(stream: TcpStream, allocation: Allocation, connection_id: int) -> bytes:
    """ConnectionBind over a fresh connection; returns bytes of the peer that came along. ServiceError, NetworkError."""
    outbox: deque[bytes] = deque()
    requests: Requests[int] = Requests(
        allocation.auth, outbox, reliable=True, new_transaction_id=lambda: secrets.token_bytes(12)
    )
    now = asyncio.get_running_loop().time
    attributes = ((Attribute.CONNECTION_ID, connection_id),)
    requests.begin(connection_id, Method.CONNECTION_BIND, attributes, now())
    decoder, others = StreamDecoder(limit=LARGEST_ANSWER), 0
    while others <= MOST_OTHERS:
        while outbox:
            await stream.send(outbox.popleft())
        data = await stream.recv(CHUNK)
        if not data:
            raise ServiceError(f"{allocation.route.endpoint} hung up on a data connection")
        decoder.feed(data)
        try:
            while others <= MOST_OTHERS and (frame := decoder.next_frame()) is not None:
                answered = requests.take(frame, now())
                if answered is None:
                    others += 1
                elif answered.error is not None:
                    raise ServiceError(f"{allocation.route.endpoint} {explain(answered.error)}")
                else:
                    return decoder.leftover()
        except DecodeError as error:
            raise ServiceError(f"{allocation.route.endpoint}: {error}") from error
    raise ServiceError(f"{allocation.route.endpoint} talks on a data connection, and does not answer")
