"""What strangers send to a `warpgate serve`: its relay, the gate before its broker, and its names over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import ip_address
from itertools import count

from aiohttp import web
from amqtt.errors import NoDataError
from fuzz_corpus import VECTORS
from fuzz_engine import Target
from fuzz_machines import ASKED_ID, MOST_SAID, pieces, virtual

from warpgate.errors import DecodeError
from warpgate.model.endpoint import Endpoint, Family
from warpgate.model.scope import Scope, scope_of
from warpgate.model.turn_server import time_limited
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.relay_admission import Admission
from warpgate.proto.relay_limits import PeerPolicy
from warpgate.proto.relay_server import RelayServer
from warpgate.proto.relay_state import DialPeer, OpenPorts, Path, ToClient, ToPeer
from warpgate.proto.stun import Attribute, Method, StunClass, StunMessage, decode, encode
from warpgate.proto.turn_auth import LongTermAuth
from warpgate.proto.turn_wire import pack_channel_data
from warpgate.server.broker import MESSAGE_SIZE
from warpgate.server.embedded_broker import TOTAL_BURST, TOTAL_RATE, PacketReader
from warpgate.server.front import Front
from warpgate.server.limits import Limits
from warpgate.server.metrics import Metrics
from warpgate.server.rules import Refusal, Step
from warpgate.server.service import NameService
from warpgate.server.store import Change, Tally

OWN = ip_address("198.51.100.1")
PEER = Endpoint.parse("203.0.113.7:4000")
MEMBER, STRANGER = (Path(0, f"203.0.113.{number}", 4000, 0) for number in (9, 10))
EPOCH = 1_700_000_000  # when the example of a name record was signed
IP_AND_UDP = 28  # bytes of headers


class _Relay:
    """With one allocation, of a member; what is fed to it goes in as the member, as a stranger, and as a peer."""

    def __init__(self) -> None:
        self.server = RelayServer(
            Admission("north", salt=b"", wall_clock=lambda: EPOCH),
            {Family.V4: OWN},
            PeerPolicy({OWN}, ()),
            0.0,
            salt=b"",
        )
        self.auth = LongTermAuth(time_limited("north", EPOCH + 86400, "warpgate"))
        self._ports = count(50000)
        wanted = StunMessage(Method.ALLOCATE, StunClass.REQUEST, ASKED_ID, ((Attribute.REQUESTED_TRANSPORT, 17),))
        self.auth.challenged(decode(self.ask(encode(wanted), 0.0)[0]))
        self.ask(self.auth.seal(wanted), 0.0)
        self.allocation = self.server.allocations[MEMBER]

    def ask(self, data: bytes, now: float) -> list[bytes]:
        self.server.receive(data, MEMBER, now)
        return self.said_to(MEMBER)

    def said_to(self, path: Path) -> list[bytes]:
        """A bounded number of things; a peer is a host of the internet."""
        said, outputs = [], 0
        while (event := self.server.poll_event()) is not None:
            if isinstance(event, OpenPorts):
                ports = {family: next(self._ports) for family in event.allocation.families}
                self.server.opened(event.allocation, ports)
            elif isinstance(event, DialPeer):
                assert scope_of(event.call.peer.ip) is Scope.GLOBAL
                self.server.dialled(event.call, 0.0, connected=True)
        while (output := self.server.poll_transmit()) is not None:
            outputs += 1
            if isinstance(output, ToPeer):
                assert scope_of(ip_address(output.peer[0])) is Scope.GLOBAL
                assert output.peer[0] != str(OWN)
            elif isinstance(output, ToClient) and output.path == path:
                said.append(output.data)
        assert outputs <= MOST_SAID
        return said

    def feed(self, data: bytes, now: float) -> None:
        self.server.receive(data, STRANGER, now)
        said = self.said_to(STRANGER)
        assert sum(map(len, said)) <= 3 * (len(data) + IP_AND_UDP)
        assert STRANGER not in self.server.allocations
        self.ask(data, now)
        try:
            message = decode(data)
        except DecodeError:
            pass
        else:
            self.ask(self.auth.seal(message), now)
        if MEMBER in self.server.allocations:
            self.server.from_peer(self.server.allocations[MEMBER], data, PEER.sockaddr, now)
        self.server.handle_timeout(now)
        self.said_to(MEMBER)


def _relay(data: bytes) -> None:
    relay = _Relay()
    for number, piece in enumerate(pieces(data)):
        relay.feed(piece, number / 10)


async def _gate(data: bytes) -> None:
    """Read as amqtt does: what comes through is one whole packet after another, none larger than a node's."""
    stream = asyncio.StreamReader(limit=2 * MESSAGE_SIZE)
    stream.feed_data(data)
    stream.feed_eof()
    reader = PacketReader(stream, TokenBucket(TOTAL_RATE, TOTAL_BURST, 0.0))
    with suppress(NoDataError):  # the end, one way or the other
        while True:
            head, length, shift = await reader.read(1), 0, 0
            while (byte := (await reader.read(1))[0]) & 0x80:
                length |= (byte & 0x7F) << shift
                shift += 7
            length |= byte << shift
            assert length <= MESSAGE_SIZE
            assert not (head[0] >> 4 == 3 and head[0] & 1), "retained"
            assert len(await reader.read(length)) == length


class _NoNames:
    """A store of nothing that takes everything."""

    async def lookup(self, name: str, now: float) -> bytes | None:
        return None

    async def apply(self, change: Change) -> Step | Refusal:
        return Step.CREATE

    async def check(self) -> None:
        pass

    async def tidy(self, now: float) -> Tally:
        return Tally(0, 0)


class _Wire(asyncio.Transport):
    """Keeps what was said to the stranger."""

    def __init__(self) -> None:
        super().__init__({"peername": ("203.0.113.9", 4000)})
        self.said = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def _names(data: bytes) -> None:
    service = NameService(_NoNames(), Limits(), clock=lambda: EPOCH, timer=lambda: 0.0)
    runner = web.AppRunner(Front(service, Metrics(), trust_proxy=True).app(), access_log=None, auto_decompress=False)
    await runner.setup()
    assert runner.server is not None
    protocol, wire = runner.server(), _Wire()
    try:
        protocol.connection_made(wire)
        for piece in pieces(data):
            if not wire.closed:
                protocol.data_received(piece)
                await asyncio.sleep(0.01)
        protocol.eof_received()
        await asyncio.sleep(30.0)
    finally:
        protocol.connection_lost(None)
        await runner.cleanup()
    assert b"HTTP/1.1 500" not in wire.said
    assert len(wire.said) <= MOST_SAID * 1024


def _stun(method: Method, *attributes: tuple[int, object], kind: StunClass = StunClass.REQUEST) -> bytes:
    return encode(StunMessage(method, kind, ASKED_ID, attributes))


_TO_PEER = (Attribute.XOR_PEER_ADDRESS, PEER)
_TURN = (
    _stun(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17)),
    _stun(Method.REFRESH, (Attribute.LIFETIME, 0)),
    _stun(Method.CREATE_PERMISSION, _TO_PEER),
    _stun(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), _TO_PEER),
    _stun(Method.SEND, _TO_PEER, (Attribute.DATA, b"data"), kind=StunClass.INDICATION),
    _stun(Method.CONNECT, _TO_PEER),
    pack_channel_data(0x4000, b"data", padded=False),
)
_CONNECT = bytes.fromhex("101000044d51545404000000") + b"\0\4node"
_CONNECT = bytes((0x10, len(_CONNECT) - 2)) + _CONNECT[2:]
_SUBSCRIBE = bytes.fromhex("820e0001") + b"\0\x0bwarpgate/2/\0"
_SUBSCRIBE = bytes((0x82, len(_SUBSCRIBE) - 2)) + _SUBSCRIBE[2:]
_RECORD = VECTORS["claim"]
_HTTP = (
    b"\0GET /v1/names/alice HTTP/1.1\r\nHost: names.example\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
    b"\0GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\0PUT /v1/names/alice HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(_RECORD), _RECORD),
    b"\0PUT /v1/names/alice HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"\0PUT /v1/names/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"\0PUT /v1/names/a HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
)

SERVERS = (
    Target("relay_server", _relay, (), (*(b"\0" + data for data in _TURN), b"\4" + b"".join(_TURN))),
    Target("broker_gate", virtual(_gate), (), (_CONNECT, _CONNECT + _SUBSCRIBE + b"\xc0\0\xe0\0")),
    Target("name_server", virtual(_names), (), _HTTP),
)
