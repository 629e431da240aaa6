"""What strangers talk to at length: machines that are fed one message after the other, and clients of hostile servers.

An input is cut into messages at its first byte's multiples, so that mutation moves the borders as well.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fuzz_corpus import ALICE, BOB, SESSION, VECTORS
from fuzz_decoders import (
    CHECKS,
    CODE_MESSAGES,
    ERROR_401,
    GATEWAY,
    NAT_PMP,
    PCP,
    SEEN_AT,
    SESSION_ID,
    SESSION_KEY,
    TURN_DATA,
)
from fuzz_engine import Target

from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.errors import NetworkError, ProtocolError, ServiceError, TransferFailed
from warpgate.model.code import OneTimeCode
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.turn_server import Credentials
from warpgate.proto import stun
from warpgate.proto.binding import BindingClient
from warpgate.proto.check import CheckAgent, CheckSettings
from warpgate.proto.code_talk import Agreed, CodeOfferer, CodeTaker
from warpgate.proto.filtering import FilteringTest
from warpgate.proto.portmap import PortMapClient
from warpgate.proto.portmap_events import Wish
from warpgate.proto.quic_wire import connection_id_of
from warpgate.proto.stun_server import StunServer
from warpgate.proto.transfer_names import NameRules
from warpgate.proto.transfer_talk import Incoming, Outgoing
from warpgate.proto.transfer_wire import Deframer, Entries
from warpgate.proto.turn import TurnClient
from warpgate.proto.turn_wire import RelayRequest
from warpgate.services.http_connection import LARGEST_ANSWER, HttpConnection
from warpgate_testing.clock import run_virtual

US = Endpoint.parse("192.168.1.2:4000")
SERVER = Endpoint.parse("192.0.2.1:3478")
ROUTER = Endpoint(GATEWAY, 5351)
MOST_SAID = 64
CERTIFICATE = BOB.certificate()
ASKED_ID = bytes(range(12))


def pieces(data: bytes) -> Iterator[bytes]:
    """The first byte says how long a message is, in units of eight bytes; 0 for all in one."""
    if data:
        size = (data[0] & 0x3F) * 8 or len(data)
        yield from (data[start : start + size] for start in range(1, len(data), size))


def _ids() -> Callable[[], bytes]:
    """Transaction ids that the seeds answer to."""
    numbers = itertools.count()
    return lambda: bytes((next(numbers), *ASKED_ID[1:]))


def _drained(machine: Any) -> None:
    """It says a bounded number of things for what it has heard."""
    for poll in (machine.poll_transmit, getattr(machine, "poll_event", None)):
        if poll is not None:
            assert sum(1 for _ in iter(poll, None)) <= MOST_SAID


def _checks(data: bytes) -> None:
    """Both sides of a session, each told by a peer with the right key."""
    for controlling in (True, False):
        agent = CheckAgent(
            controlling=controlling,
            session=SESSION_ID,
            key=SESSION_KEY,
            secret=bytes(32),
            new_id=_ids(),
            settings=CheckSettings((0.0, 0.1), 15.0, 30.0),
            introduction=ALICE.public_key if controlling else None,
        )
        agent.probe(US, SEEN_AT, "direct", 0.0)
        for number, piece in enumerate(pieces(data)):
            try:
                message = stun.decode(piece)
                agent.receive(stun.encode(message, key=agent._codec._key), US, SEEN_AT, number / 10)
            except ProtocolError:
                pass
            agent.handle_timeout(number / 10)
            _drained(agent)


def _binding(data: bytes) -> None:
    client = BindingClient(US, [SERVER], 0.0, new_transaction_id=_ids(), jitter=lambda: 0.5)
    test = FilteringTest(US, SERVER, 0.0, new_transaction_id=_ids())
    for number, piece in enumerate(pieces(data)):
        for machine in (client, test):
            machine.receive(piece, SERVER, number / 10)
            machine.handle_timeout(number / 10)
            _drained(machine)


def _turn(data: bytes) -> None:
    for transport, reliable in ((Transport.UDP, False), (Transport.TCP, True)):
        client = TurnClient(
            Credentials("user", "password"),
            RelayRequest(transport),
            0.0,
            reliable=reliable,
            new_transaction_id=_ids(),
        )
        for number, piece in enumerate(pieces(data)):
            client.receive(piece, float(number))
            client.permit(SEEN_AT.ip, float(number))
            client.connect(SEEN_AT, float(number))
            client.handle_timeout(float(number))
            _drained(client)
        client.close(100.0)
        _drained(client)


def _port_mapping(data: bytes) -> None:
    wishes = [Wish(transport, 5000, bytes(range(12))) for transport in Transport]
    client = PortMapClient(US, ROUTER, wishes, 1200, 0.5, 0.0)
    for number, piece in enumerate(pieces(data)):
        client.receive(piece, ROUTER, number / 4)
        client.handle_timeout(number / 4)
        _drained(client)


def _stun_server(data: bytes) -> None:
    """No answer is larger than what docs/threats.md says, and none goes to another host."""
    server = StunServer({SERVER: None}, 0.0, salt=b"")
    answer = server.receive(data, SERVER, SEEN_AT, 0.0)
    if answer is not None:
        assert answer.remote.ip == SEEN_AT.ip
        assert len(answer.data) <= len(data) + 104
    server.receive_frame(data, SERVER, SEEN_AT, 0.0)


def _codes(data: bytes) -> None:
    """Both sides of a one-time code, at a broker that anybody writes to."""
    code, entropy = OneTimeCode.parse("7-piano-zebra"), random.Random(1).randbytes
    offerer = CodeOfferer(code, VECTORS["address"], entropy, 0.0)
    taker = CodeTaker(code, VECTORS["address"], entropy, bytes(16), 0.0)
    for number, piece in enumerate(pieces(data)):
        for side in (offerer, taker):
            side.receive(piece, number / 10)
            side.handle_timeout(number / 10)
            while side.poll_transmit() is not None:
                pass
            assert not isinstance(side.poll_event(), Agreed)


def _transfer(data: bytes) -> None:
    incoming = Incoming(NameRules())
    try:
        for message in Deframer().feed(data):
            incoming.receive(message)
            if incoming.state.name == "LISTED":
                incoming.know((0,) * len(incoming.entries))
    except (ProtocolError, TransferFailed):
        pass
    [listed] = Deframer().feed(VECTORS["entries"])
    assert isinstance(listed, Entries)
    outgoing = Outgoing(listed.entries)
    for message in Deframer().feed(data):
        outgoing.receive(message)


def _first_packets(data: bytes) -> None:
    server = QuicStream.server(
        BOB, CERTIFICATE, connection_id_of(data)[:20] or bytes(8), lambda _: ALICE.public_key, Holdings()
    )
    server.receive(list(pieces(data)), 0.0)
    sent = server.datagrams(0.1)
    assert sum(map(len, sent)) <= 3 * len(data)  # RFC 9000 section 8.1
    server.handle_timeout(1.0)


def _quic_answers(data: bytes) -> None:
    client = QuicStream.client(ALICE, BOB.public_key, SESSION, 0.0, Holdings())
    client.datagrams(0.0)
    client.receive(list(pieces(data)), 0.1)
    client.datagrams(0.1)
    client.handle_timeout(1.0)


class _Scripted:
    """A stream whose other end says this and hangs up."""

    local = remote = Endpoint.parse("127.0.0.1:80")

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = (piece for piece in pieces if piece)
        self._asked = asyncio.Event()

    async def send(self, data: bytes) -> None:
        self._asked.set()

    async def recv(self, limit: int) -> bytes:
        await self._asked.wait()
        return next(self._pieces, b"")

    def close(self) -> None:
        pass


async def _http(data: bytes) -> None:
    connection = HttpConnection(_Scripted(pieces(data)), lambda _: None)  # type: ignore[arg-type]
    try:
        answer = await connection.ask("GET", "/", "names.example", None)
        assert len(answer.body) <= LARGEST_ANSWER
        assert answer.retry_after >= 0
    finally:
        await asyncio.wait({connection.close()})


def virtual(main: Callable[[bytes], Coroutine[Any, Any, None]]) -> Callable[[bytes], object]:
    return lambda data: run_virtual(main(data))


def _quic_flight() -> bytes:
    return QuicStream.client(ALICE, BOB.public_key, SESSION, 0.0, Holdings()).datagrams(0.0)[0]


_HTTP = (
    b"\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"\0HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"\0HTTP/1.1 429 Slow\r\nRetry-After: 99\r\nConnection: close\r\n\r\n",
    b"\0HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n",
    b"\0HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
)
_BINDING_ANSWER = bytes.fromhex("0101000c2112a442000102030405060708090a0b002000080001d506ea12d543")
_ALLOCATED = bytes.fromhex("010300202112a442000102030405060708090a0b001600080001d506ea12d543000d000400000258")
_FLIGHT = _quic_flight()
_TALK = b"".join(VECTORS[name] for name in ("offer", "entries", "have"))

MACHINES = (
    Target("check_agent", _checks, (), [b"\0" + data for data in CHECKS]),
    Target("stun_client", _binding, (), (b"\0" + _BINDING_ANSWER, b"\0" + ERROR_401, b"\4" + _BINDING_ANSWER * 2)),
    Target("turn_client", _turn, (), (b"\0" + ERROR_401, b"\0" + _ALLOCATED, b"\0" + TURN_DATA)),
    Target("port_mapper", _port_mapping, (), [b"\0" + data for data in (PCP, *NAT_PMP)]),
    Target("stun_server", _stun_server, (), (*CHECKS, bytes.fromhex("000100002112a442") + ASKED_ID)),
    Target(
        "transfer",
        _transfer,
        (ProtocolError, TransferFailed),
        (_TALK, *(VECTORS[x] for x in ("offer", "have"))),
    ),
    Target("code_exchange", _codes, (), [b"\0" + message for message in CODE_MESSAGES]),
    Target("quic_first_packets", _first_packets, (), (b"\0" + _FLIGHT, _FLIGHT)),
    Target("quic_answers", _quic_answers, (), (b"\0" + _FLIGHT, _FLIGHT)),
    Target("http_answers", virtual(_http), (NetworkError, ServiceError), _HTTP),
)
