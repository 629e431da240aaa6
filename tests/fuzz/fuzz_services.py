"""What servers, and who is in their place, say when a node looks for others: DNS, lists, providers, proxies."""

from __future__ import annotations

import json
import re
import struct

from fuzz_corpus import BOB
from fuzz_engine import Target

from warpgate.errors import AuthenticationError, ConfigError, DecodeError, ProtocolError, ServiceError
from warpgate.model.ice_servers import MOST_KEPT, AccountUrl, parse_ice_servers
from warpgate.model.identity import hpke_seal
from warpgate.model.server_list import parse_list, signed, without_signatures
from warpgate.model.turn_server import Credentials
from warpgate.proto import dns_srv, socks
from warpgate.proto.http_tunnel import LARGEST_HEAD, ConnectReader
from warpgate.proto.relay_ticket import Ticket, open_ticket, seal_ticket
from warpgate.proto.websocket import WebSocketReader, frame

NAME = "_stun._udp.example.org"
MESSAGE_ID = b"\x12\x34"
NONCE, PROTOCOL = bytes(16), "mqtt"
NOW = 1_767_225_600.0


def _wire_name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".")) + b"\0"


def _answer(*records: bytes) -> bytes:
    head = struct.pack("!HHHHHH", 0x1234, 0x8180, 1, len(records), 0, 0)
    return head + _wire_name(NAME) + struct.pack("!HH", 33, 1) + b"".join(records)


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, 300, len(data)) + data


_SRV = struct.pack("!HHH", 10, 5, 3478) + _wire_name("a.example.org")
_ANSWERS = (
    _answer(_record(b"\xc0\x0c", 33, _SRV), _record(b"\xc0\x0c", 33, _SRV[:6] + b"\x01b\xc0\x17")),
    _answer(_record(b"\xc0\x0c", 5, _wire_name("x.org")), _record(_wire_name("x.org"), 33, _SRV)),
)


def _service_records(data: bytes) -> None:
    try:
        targets = dns_srv.decode_answer(MESSAGE_ID + data[2:], MESSAGE_ID, NAME)
    except dns_srv.Truncated:
        return
    assert len(targets) <= dns_srv.MOST_RECORDS
    for target in dns_srv.by_priority(targets, lambda low, high: (low + high) / 2):
        assert 0 < len(target.host) <= 255
        assert re.fullmatch("[a-z0-9_.-]+", target.host)


_LIST = (
    b'sequence = 3\nexpires = 2030-01-01\nbrokers = ["mqtts://broker.example.org:8883"]\n'
    b'stun = ["stun.example.org:3478"]\n'
)


def _server_list(data: bytes) -> None:
    """As if its signature were good: a maintainer's key may be stolen."""
    body, found = without_signatures(data)
    assert len(found) <= 4
    for server in (*(told := parse_list(body)).brokers, *told.stun):
        assert server.host not in ("127.0.0.1", "localhost", "192.168.1.1")


_ICE = tuple(
    json.dumps(value).encode()
    for value in (
        {"iceServers": [{"urls": ["turn:t.example.org:3478"], "username": "1893456000:u", "credential": "p"}]},
        {"username": "u", "password": "p", "ttl": 3600, "uris": ["turns:t.example.org?transport=tcp"]},
        {"v": {"iceServers": {"url": "turn:[2001:db8::1]:1", "username": "u", "credential": "p"}}, "s": "ok"},
    )
)


def _ice_servers(data: bytes) -> None:
    told = parse_ice_servers(data, NOW)
    assert 0 < len(told.turn) <= MOST_KEPT


def _ticket(plain: bytes) -> None:
    """Sealed to us as it should be, whatever is in it."""
    open_ticket(BOB, hpke_seal(BOB.public_key, plain, b"warpgate/1 relay ticket"))


_UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
_FRAMES = (
    b"\x82\x03abc" + b"\x02\x01a\x80\x01b" + b"\x89\x02hi" + b"\x82\x7e\x01\x00" + bytes(256) + b"\x88\x02\x03\xe8"
)


def _websocket(data: bytes) -> None:
    reader = WebSocketReader(NONCE, PROTOCOL)
    out = b""
    for start in range(0, len(data), 17):
        out += reader.receive(data[start : start + 17])
        assert len(reader._held) <= LARGEST_HEAD + 4 + 17
    assert len(out) <= len(data)
    if reader.ping is not None:
        frame(0xA, reader.ping, bytes(4))


def _proxy(data: bytes) -> None:
    reader = ConnectReader()
    for start in range(0, len(data), 100):
        reader.receive(data[start : start + 100])
    assert len(reader._held) <= LARGEST_HEAD + 104


def _socks(data: bytes) -> None:
    """Cut as its server reads it: who connects may be any program of this machine, or of its network."""
    if len(data) < 7:
        return
    methods = socks.methods_follow(data[:2])
    socks.acceptable(data[2 : 2 + methods])
    head, first, rest = data[2:6], data[6:7], data[7:]
    if len(head) == 4 and len(rest) >= (follow := socks.address_follows(head, first)):
        destination = socks.destination_of(head, first + rest[:follow])
        assert destination.host.isprintable()
        socks.request(destination)


SERVICES = (
    Target("service_records", _service_records, (DecodeError,), _ANSWERS),
    Target("server_list", _server_list, (DecodeError,), (_LIST, signed(_LIST, BOB))),
    Target("ice_servers", _ice_servers, (DecodeError,), _ICE),
    Target(
        "account_url",
        lambda data: AccountUrl.parse(data.decode(errors="replace")),
        (ConfigError,),
        (b"https://user:secret@turn.example.org/v1/credentials?key=x",),
    ),
    Target(
        "relay_ticket",
        _ticket,
        (DecodeError, ServiceError),
        (b'{"username":"1767229200:k","password":"p","ttl":3600}', b'{"error":"not let in"}'),
    ),
    Target(
        "relay_ticket_sealed",
        lambda data: open_ticket(BOB, data),
        (DecodeError, AuthenticationError, ServiceError),
        (seal_ticket(BOB.public_key, Ticket(Credentials("u", "p"), 3600)),),
    ),
    Target("websocket", _websocket, (ProtocolError,), (_UPGRADED + _FRAMES, _UPGRADED)),
    Target(
        "web_proxy",
        _proxy,
        (ProtocolError, ServiceError),
        (b"HTTP/1.1 200 Connection established\r\n\r\n", b"HTTP/1.0 407 Who\r\nX: y\r\n\r\n"),
    ),
    Target(
        "socks",
        _socks,
        (ProtocolError,),
        (b"\x05\x01\x05\x01\0\x03\x07example\x01\xbb", b"\x05\x01\x05\x01\0\x01\x7f\0\0\x01\0\x50"),
    ),
)
