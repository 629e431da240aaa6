"""What somebody who knows the protocol, but plays by no rules, can send to a node."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec
from cascade_world import EPOCH, World, identity

from warpgate.core.search.equipment import TOPIC
from warpgate.errors import NetworkError, WarpgateError
from warpgate.lab.flow import Flow, Protocol
from warpgate.model.address import Attachment, LearntBy, Listening, NodeAddress
from warpgate.model.broker import BrokerRef
from warpgate.model.endpoint import Endpoint, IPAddress, Mode, SockAddr
from warpgate.model.identity import Identity
from warpgate.model.wanted import ANYTHING, Wanted
from warpgate.net.network import TcpStream
from warpgate.proto.check_wire import CheckCodec
from warpgate.proto.envelope import seal
from warpgate.proto.hello import HEADER_SIZE, Handshake, Role, rest_of_message
from warpgate.proto.signals import PluginMessage, Signal, SignalKind
from warpgate_testing.internet import Captured, MemoryNetwork, Packet

_serial = itertools.count(1)


def now_unix() -> float:
    """What the nodes of a world take the time to be."""
    return EPOCH + asyncio.get_running_loop().time()


def fresh_bytes(count: int) -> bytes:
    """Never the same twice, always the same in the next run."""
    return next(_serial).to_bytes(count, "big")


class Stranger:
    """A host on the public internet, with a key of its own, that speaks to node b by hand."""

    def __init__(self, world: World, name: str = "mallory", ip: str = "198.51.100.66") -> None:
        self.world = world
        self.network: MemoryNetwork = world.internet.host(name, ip)
        self.ip = ip
        self.identity = identity(name)
        self.port = 4000
        self.received: list[bytes] = []
        self._udp = self.network.open_udp(Endpoint.of(ip, self.port), self._heard)

    def _heard(self, data: bytes, source: SockAddr) -> None:
        self.received.append(data)

    def close(self) -> None:
        self._udp.close()

    @property
    def target(self) -> Endpoint:
        """Where node b listens, as a stranger reaches it: b is public or behind a router that lets all in."""
        at = self.world.b.node.address.attachments[0]
        return Endpoint(at.reflexive or at.host, self.world.b.node.port)

    def send(self, data: bytes) -> None:
        self._udp.send(data, self.target.sockaddr)

    def forge(self, source: Endpoint, data: bytes, target: Endpoint | None = None) -> None:
        """A datagram in somebody else's name, from a network that lets such things out."""
        flow = Flow(Protocol.UDP, source, self.target if target is None else target)
        self.world.internet._wire.send(self.network.host, Packet(flow, data))

    def address(self, *attachments: Attachment, key: Identity | None = None) -> NodeAddress:
        """A well-formed address that says whatever it likes."""
        own = attachments if attachments else (self.attachment(),)
        brokers = (BrokerRef(self.world.brokers[0].url, 0.04),)
        return NodeAddress((self.identity if key is None else key).public_key, brokers, own)

    def attachment(self, host: str | None = None, reflexive: str | None = None, port: int | None = None) -> Attachment:
        chosen = self.port if port is None else port
        listening = Listening(chosen, chosen, LearntBy.STUN)
        ip = Endpoint.of(self.ip if host is None else host, 1).ip
        outside = ip if reflexive is None else Endpoint.of(reflexive, 1).ip
        return Attachment(ip, outside, listening, listening)

    # -- envelopes -------------------------------------------------------------------------------------------

    def offer(
        self,
        *messages: tuple[str, object],
        address: NodeAddress | None = None,
        session: bytes | None = None,
        sequence: int = 1,
        mode: str = "datagram",
        sent: float | None = None,
        flight: tuple[bytes, ...] = (),
        wanted: Wanted = ANYTHING,
    ) -> bytes:
        """A sealed offer to b. What is in it is properly signed: it is the content that is hostile."""
        signal = Signal(
            kind=SignalKind.OFFER,
            session=fresh_bytes(16) if session is None else session,
            sequence=sequence,
            time=now_unix() if sent is None else sent,
            address=(self.address() if address is None else address).encode(),
            messages=tuple(PluginMessage(name, msgspec.msgpack.encode(body)) for name, body in messages),
            mode=mode,
            flight=flight,
            wanted=wanted.encode(),
        )
        return seal(self.identity, self.world.b.node.public_key, signal, fresh_bytes(16))

    def publish(self, envelope: bytes) -> None:
        """Anybody may, on a public broker."""
        self.world.brokers[0].publish(TOPIC + self.world.b.node.node_id, envelope)

    # -- TCP -------------------------------------------------------------------------------------------------

    async def dial(self) -> TcpStream:
        return await self.network.dial_tcp(self.target)

    def handshake(
        self,
        session: bytes,
        key: Identity | None = None,
        claims: bytes | None = None,
        plugin: str = "direct",
        *,
        secure: bool = False,
        mode: Mode = Mode.STREAM,
        wanted: Wanted = ANYTHING,
    ) -> Handshake:
        """An initiator's handshake: `key` makes the session key, `claims` is the public key it says it has."""
        mine = self.identity if key is None else key
        b_key = self.world.b.node.public_key
        return Handshake.dial(
            role=Role.INITIATOR,
            session=session,
            session_key=mine.session_key(b_key, session, initiator=True),
            public_key=mine.public_key if claims is None else claims,
            peer_key=b_key,
            nonce=fresh_bytes(16),
            plugin=plugin,
            secure=secure,
            mode=mode,
            wanted=wanted,
        )

    async def authenticate(self, handshake: Handshake) -> TcpStream:
        """Up to WELCOME. NetworkError when b hangs up instead."""
        stream = await self.dial()
        await stream.send(handshake.data_to_send())
        await read_answer(stream, handshake)
        return stream

    # -- UDP -------------------------------------------------------------------------------------------------

    def codec(self, session: bytes, key: Identity | None = None, claims: bytes | None = None) -> CheckCodec:
        mine = self.identity if key is None else key
        return CheckCodec(
            True,
            session,
            mine.session_key(self.world.b.node.public_key, session, initiator=True),
            fresh_bytes(32),
            mine.public_key if claims is None else claims,
        )


async def read_answer(stream: TcpStream, handshake: Handshake) -> None:
    header = await read_exactly(stream, HEADER_SIZE)
    handshake.receive(header)
    handshake.receive(await read_exactly(stream, rest_of_message(header)))


async def read_exactly(stream: TcpStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.recv(count - len(data))
        if not part:
            raise NetworkError("hung up")
        data += part
    return data


async def hung_up(stream: TcpStream, within: float = 6.0) -> bytes:
    """What the node said before it hung up, which it must do in time."""
    said = b""
    with suppress(WarpgateError):
        async with asyncio.timeout(within):
            while part := await stream.recv(4096):
                said += part
    stream.abort()
    return said


def sent_by(packets: Sequence[Captured], host: str) -> list[Endpoint]:
    """Where this host has sent packets."""
    return [seen.packet.flow.destination for seen in packets if seen.sent and seen.host == host]


def ips(endpoints: Sequence[Endpoint]) -> set[IPAddress]:
    return {endpoint.ip for endpoint in endpoints}


def altered(data: bytes, position: int) -> bytes:
    return data[:position] + bytes((data[position] ^ 0x40,)) + data[position + 1 :]


def renamed(address: NodeAddress, key: bytes) -> NodeAddress:
    """The same place, but claimed to be of another key."""
    return replace(address, public_key=key)
