"""A TURN server (RFC 8656, RFC 6062) on a host of the internet in memory, for whole nodes in virtual time.

It keeps the RFC's lifetimes to the second and forgives nothing: what a client lets expire is gone, an old nonce is
stale, a datagram without a permission is dropped. `dropped` says what it did not relay, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import field
from functools import partial

from warpgate.errors import AuthenticationError, DecodeError, NetworkError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, IPAddress, SockAddr
from warpgate.net.network import TcpListener, TcpStream, UdpSocket
from warpgate.proto.stun import (
    Attribute,
    AttributeValue,
    ErrorCode,
    Integrity,
    Method,
    StreamDecoder,
    StunClass,
    StunMessage,
    decode,
    encode,
    verify,
)
from warpgate.proto.turn_wire import pack_channel_data, unpack_channel_data
from warpgate_testing.network import MemoryNetwork

REALM = "memory"
LIFETIME = 600
PERMISSION = 300.0
CHANNEL = 600.0
NONCE_LIFETIME = 3600.0
CHUNK = 65536

Attributes = list[tuple[int, AttributeValue]]
Reply = Callable[[bytes], None]


class _Refusal(Exception):
    def __init__(self, code: int, reason: str, *extra: tuple[int, AttributeValue]) -> None:
        super().__init__(reason)
        self.code = code
        self.extra = extra


@dataclass(eq=False)
class MemoryAllocation:
    """One client's; instants are the loop's time."""

    reply: Reply
    stream: bool
    expires: float
    sockets: dict[Family, UdpSocket] = field(default_factory=dict)
    listener: TcpListener | None = None
    relayed: tuple[Endpoint, ...] = ()
    permissions: dict[IPAddress, float] = field(default_factory=dict)
    channels: dict[int, tuple[Endpoint, float]] = field(default_factory=dict)
    waiting: dict[int, TcpStream] = field(default_factory=dict)


class MemoryTurn:
    """Serves UDP and TCP clients at `local`, from construction to `close`."""

    def __init__(
        self,
        network: MemoryNetwork,
        local: Endpoint,
        user: str = "user",
        password: str = "password",
        relay_ip: IPAddress | None = None,
    ) -> None:
        """`relay_ip`: another of the host's addresses, to relay at (coturn's relay-ip, without external-ip)."""
        self.requests: Counter[str] = Counter()
        self.full: dict[int, float] = {}  # until when requests of this method are refused (508)
        self.dropped: Counter[str] = Counter()
        self.allocations: dict[object, MemoryAllocation] = {}
        self._network = network
        self._local = local
        self._relay_ip = relay_ip
        self._key = hashlib.md5(f"{user}:{REALM}:{password}".encode(), usedforsecurity=False).digest()
        self._connections = 0
        self._calls: dict[int, tuple[MemoryAllocation, TcpStream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: list[TcpStream] = []
        self._udp = network.open_udp(local, self._datagram)
        self._listener = network.listen_tcp(local, self._accepted)

    @property
    def url(self) -> str:
        return f"turn:user:password@{self._local}"

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- clients -------------------------------------------------------------------------------------------------

    def _datagram(self, data: bytes, source: SockAddr) -> None:
        client = Endpoint.from_sockaddr(source)

        def reply(answer: bytes) -> None:
            self._udp.send(answer, source)

        self._frame(client, data, reply, client, stream=False)

    def _accepted(self, stream: TcpStream) -> None:
        self._streams.append(stream)
        self._spawn(self._serve(stream))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: TcpStream) -> None:
        decoder = StreamDecoder(channel_data=True)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        writing = asyncio.ensure_future(_write(stream, queue))
        try:
            with contextlib.suppress(DecodeError, NetworkError):
                while data := await stream.recv(CHUNK):
                    decoder.feed(data)
                    while (frame := decoder.next_frame()) is not None:
                        bound = self._bound(frame)
                        if bound is not None:
                            await stream.send(self._sealed(decode(frame), []))
                            await _join(stream, bound, decoder.leftover())
                            return
                        self._frame(stream, frame, queue.put_nowait, stream.remote, stream=True)
        finally:
            writing.cancel()
            stream.close()
            self._release(stream)

    def _frame(self, client: object, data: bytes, reply: Reply, source: Endpoint, *, stream: bool) -> None:
        allocation = self.allocations.get(client)
        if allocation is not None and self.now() >= allocation.expires:
            self.dropped["expired allocation"] += 1
            self._release(client)
            allocation = None
        if data and 0x40 <= data[0] < 0x50:
            self._channel_data(allocation, data)
            return
        try:
            message = decode(data)
        except DecodeError:
            self.dropped["garbage"] += 1
            return
        if message.cls is StunClass.INDICATION:
            if message.method == Method.SEND:
                self._relay(allocation, message.endpoint(Attribute.XOR_PEER_ADDRESS), message.raw(Attribute.DATA))
            return
        self.requests[Method(message.method).name] += 1
        try:
            self._authenticate(message, data)
            answer = self._request(client, allocation, message, reply, source, stream)
            if answer is not None:
                reply(self._sealed(message, answer))
        except _Refusal as refusal:
            error: Attributes = [
                (Attribute.ERROR_CODE, ErrorCode(refusal.code, str(refusal))),
                *refusal.extra,
            ]
            reply(encode(StunMessage(message.method, StunClass.ERROR, message.transaction_id, tuple(error))))

    def _sealed(self, request: StunMessage, attributes: Attributes) -> bytes:
        message = StunMessage(request.method, StunClass.SUCCESS, request.transaction_id, tuple(attributes))
        return encode(message, key=self._key, integrity=Integrity.SHA1)

    def _nonce(self) -> bytes:
        return f"nonce {int(self.now() // NONCE_LIFETIME)}".encode()

    def _authenticate(self, message: StunMessage, data: bytes) -> None:
        challenge = ((Attribute.REALM, REALM), (Attribute.NONCE, self._nonce()))
        if message.raw(Attribute.NONCE) is None:
            raise _Refusal(401, "Unauthorized", *challenge)
        if message.raw(Attribute.NONCE) != self._nonce():
            raise _Refusal(438, "Stale Nonce", *challenge)
        try:
            verify(data, self._key, Integrity.SHA1)
        except AuthenticationError:
            raise _Refusal(401, "Unauthorized", *challenge) from None

    # -- requests ------------------------------------------------------------------------------------------------

    def _request(
        self,
        client: object,
        allocation: MemoryAllocation | None,
        message: StunMessage,
        reply: Reply,
        source: Endpoint,
        stream: bool,
    ) -> Attributes | None:
        """The answer's attributes; None when it comes later."""
        if self.now() < self.full.get(message.method, 0.0):
            raise _Refusal(508, "Insufficient Capacity")
        if message.method == Method.ALLOCATE:
            if allocation is not None:
                raise _Refusal(437, "Allocation Mismatch")
            return self._allocate(client, message, reply, source, stream)
        if allocation is None:
            raise _Refusal(437, "Allocation Mismatch")
        peer = message.endpoint(Attribute.XOR_PEER_ADDRESS)
        if message.method == Method.REFRESH:
            lifetime = message.number(Attribute.LIFETIME)
            if lifetime == 0:
                self._release(client)
                return [(Attribute.LIFETIME, 0)]
            allocation.expires = self.now() + LIFETIME
            return [(Attribute.LIFETIME, LIFETIME)]
        if peer is None:
            raise _Refusal(400, "Bad Request")
        allocation.permissions[peer.ip] = self.now() + PERMISSION
        if message.method == Method.CHANNEL_BIND:
            number = message.number(Attribute.CHANNEL_NUMBER) or 0
            known = allocation.channels.get(number)
            if not 0x4000 <= number <= 0x4FFF or (known is not None and known[0] != peer):
                raise _Refusal(400, "Bad Request")
            allocation.channels[number] = peer, self.now() + CHANNEL
        elif message.method == Method.CONNECT:
            self._spawn(self._connect(allocation, message, peer))
            return None
        return []

    def _allocate(
        self, client: object, message: StunMessage, reply: Reply, source: Endpoint, stream: bool
    ) -> Attributes:
        families = self._families(message)
        allocation = MemoryAllocation(reply, stream, self.now() + LIFETIME)
        relayed = []
        for family in families:
            own = [ip for ip in self._network.host.addresses if ip.version == family]
            own = [self._relay_ip] if self._relay_ip in own else own
            if not own:
                raise _Refusal(440, "Address Family not Supported")
            if message.number(Attribute.REQUESTED_TRANSPORT) == 6:
                accept = partial(self._call, allocation)
                allocation.listener = self._network.listen_tcp(Endpoint(own[0], 0), accept)
                relayed.append(allocation.listener.local)
            else:
                sock = self._network.open_udp(Endpoint(own[0], 0), partial(self._from_peer, allocation))
                allocation.sockets[family] = sock
                relayed.append(sock.local)
        allocation.relayed = tuple(relayed)
        self.allocations[client] = allocation
        found: Attributes = [(Attribute.XOR_RELAYED_ADDRESS, endpoint) for endpoint in relayed]
        return [*found, (Attribute.XOR_MAPPED_ADDRESS, source), (Attribute.LIFETIME, LIFETIME)]

    def _families(self, message: StunMessage) -> tuple[Family, ...]:
        requested = message.get(Attribute.REQUESTED_ADDRESS_FAMILY)
        if isinstance(requested, Family):
            return (requested,)
        both = Attribute.ADDITIONAL_ADDRESS_FAMILY in message
        has_v6 = any(ip.version == 6 for ip in self._network.host.addresses)
        return (Family.V4, Family.V6) if both and has_v6 else (Family.V4,)

    def _release(self, client: object) -> None:
        allocation = self.allocations.pop(client, None)
        if allocation is not None:
            for sock in allocation.sockets.values():
                sock.close()
            if allocation.listener is not None:
                allocation.listener.close()
            for number, (owner, stream) in list(self._calls.items()):
                if owner is allocation:
                    del self._calls[number]
                    stream.abort()

    # -- datagrams -----------------------------------------------------------------------------------------------

    def _channel_data(self, allocation: MemoryAllocation | None, frame: bytes) -> None:
        number, data = unpack_channel_data(frame)
        peer, expires = (None, 0.0) if allocation is None else allocation.channels.get(number, (None, 0.0))
        if peer is None or self.now() >= expires:
            self.dropped["channel"] += 1
            return
        self._relay(allocation, peer, data)

    def _relay(self, allocation: MemoryAllocation | None, peer: Endpoint | None, data: bytes | None) -> None:
        sock = None if allocation is None or peer is None else allocation.sockets.get(peer.family)
        if allocation is None or peer is None or data is None or sock is None:
            self.dropped["no allocation"] += 1
        elif self.now() >= allocation.permissions.get(peer.ip, 0.0):
            self.dropped["no permission to send"] += 1
        else:
            sock.send(data, peer.sockaddr)

    def _from_peer(self, allocation: MemoryAllocation, data: bytes, source: SockAddr) -> None:
        peer = Endpoint.from_sockaddr(source)
        if self.now() >= min(allocation.expires, allocation.permissions.get(peer.ip, 0.0)):
            self.dropped["no permission to receive"] += 1
            return
        for number, (bound, expires) in allocation.channels.items():
            if bound == peer and self.now() < expires:
                allocation.reply(pack_channel_data(number, data, padded=allocation.stream))
                return
        attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
        allocation.reply(encode(StunMessage(Method.DATA, StunClass.INDICATION, bytes(12), attributes)))

    # -- streams -------------------------------------------------------------------------------------------------

    def _call(self, allocation: MemoryAllocation, stream: TcpStream) -> None:
        if self.now() >= allocation.permissions.get(stream.remote.ip, 0.0):
            self.dropped["no permission to call"] += 1
            stream.abort()
            return
        attributes = (
            (Attribute.XOR_PEER_ADDRESS, stream.remote),
            (Attribute.CONNECTION_ID, self._keep(allocation, stream)),
        )
        allocation.reply(encode(StunMessage(Method.CONNECTION_ATTEMPT, StunClass.INDICATION, bytes(12), attributes)))

    def _keep(self, allocation: MemoryAllocation, stream: TcpStream) -> int:
        self._connections += 1
        self._calls[self._connections] = allocation, stream
        return self._connections

    async def _connect(self, allocation: MemoryAllocation, message: StunMessage, peer: Endpoint) -> None:
        local = None if allocation.listener is None else allocation.listener.local
        try:
            stream = await self._network.dial_tcp(peer, local)
        except NetworkError as error:
            failure = ((Attribute.ERROR_CODE, ErrorCode(447, str(error)[:60])),)
            allocation.reply(encode(StunMessage(message.method, StunClass.ERROR, message.transaction_id, failure)))
            return
        allocation.reply(self._sealed(message, [(Attribute.CONNECTION_ID, self._keep(allocation, stream))]))

    def _bound(self, frame: bytes) -> TcpStream | None:
        """The peer's stream that a valid ConnectionBind asks for."""
        if frame[0] >= 0x40:
            return None
        message = decode(frame)
        if message.method != Method.CONNECTION_BIND:
            return None
        try:
            self._authenticate(message, frame)
        except _Refusal:
            return None
        found = self._calls.pop(message.number(Attribute.CONNECTION_ID) or 0, None)
        return None if found is None else found[1]

    async def close(self) -> None:
        self._udp.close()
        self._listener.close()
        for client in list(self.allocations):
            self._release(client)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _write(stream: TcpStream, queue: asyncio.Queue[bytes]) -> None:
    with contextlib.suppress(NetworkError):
        while True:
            await stream.send(await queue.get())


async def _join(client: TcpStream, peer: TcpStream, early: bytes) -> None:
    """Bytes both ways until either ends; a relay ends both then."""
    if early:
        await peer.send(early)
    pumps = {asyncio.ensure_future(_pump(client, peer)), asyncio.ensure_future(_pump(peer, client))}
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        peer.close()


async def _pump(source: TcpStream, sink: TcpStream) -> None:
    with contextlib.suppress(NetworkError):
        while data := await source.recv(CHUNK):
            await sink.send(data)
