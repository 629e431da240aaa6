"""What turns bytes or text of strangers into messages. What is under a key is given that key: a peer may be hostile."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from ipaddress import ip_address

import msgspec
from fuzz_corpus import ALICE, BOB, SESSION_KEY, VECTORS
from fuzz_engine import Target

from warpgate.errors import (
    AddressError,
    AuthenticationError,
    ConfigError,
    DecodeError,
    ProtocolError,
    TransferRefused,
)
from warpgate.model.address import MAX_ADDRESS_SIZE, NodeAddress
from warpgate.model.code import OneTimeCode
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import hpke_seal, verify
from warpgate.model.nickname import fold
from warpgate.model.rendezvous import Rendezvous
from warpgate.model.servers import BrokerUrl, NameServerUrl, StunServer
from warpgate.model.text import printable, printable_lines
from warpgate.model.turn_server import TurnServer
from warpgate.model.wanted import MAX_SERVICE
from warpgate.plugins.guesses import Guess
from warpgate.plugins.punching import Punch
from warpgate.plugins.reverse import CallBack
from warpgate.plugins.turn import Relayed
from warpgate.proto import hello, igd, igd_soap, name_record, ssdp, stun, transfer_wire
from warpgate.proto.channel_wire import (
    TAKEN,
    CreditReader,
    NewsReader,
    PipeHeadReader,
    ReplyReader,
    decode_datagram,
    encode_credit,
    encode_datagram,
    encode_pipe_head,
    encode_refusal,
    is_pipe,
)
from warpgate.proto.check_wire import CheckCodec, introduction_of, session_of, verify_introduction
from warpgate.proto.code_talk import Answer, Confirm, Open, Taken, decode_code_message, encode_code_message
from warpgate.proto.datagram_frames import FrameReader, encode_frame
from warpgate.proto.device_xml import LONGEST_TEXT, MOST_ELEMENTS
from warpgate.proto.envelope import open_envelope
from warpgate.proto.marks import MARK_SIZE
from warpgate.proto.mqtt_framing import LARGEST_PACKET, Framing
from warpgate.proto.portmap_wire import decode_response
from warpgate.proto.quic_proof import check_head
from warpgate.proto.quic_wire import connection_id_of, is_first_packet
from warpgate.proto.signals import decode_body, decode_signal
from warpgate.proto.stun import StreamDecoder
from warpgate.proto.transfer_names import NameRules, check_name, partial_name
from warpgate.proto.turn_wire import pack_channel_data, unpack_channel_data

GATEWAY = ip_address("192.168.1.1")
LOCATION = "http://192.168.1.1:5000/root.xml"
ACTION = "GetExternalIPAddress"
SEEN_AT = Endpoint.of("203.0.113.42", 25000)
SESSION_ID = VECTORS["quic-head"][:16]
MESSAGE_ID = b"\xcc" * 16
CHECKS = (VECTORS["check"], VECTORS["answer"], VECTORS["nomination"])

DESCRIPTION = (
    f"<?xml version='1.0'?><root><URLBase>{LOCATION}</URLBase><device><serviceList><service><serviceType>"
    f"{igd.CONNECTION_SERVICES[1]}</serviceType><controlURL>/ctl</controlURL></service></serviceList></device></root>"
).encode()
ANSWER = (
    f"<s:Envelope xmlns:s='e'><s:Body><u:{ACTION}Response xmlns:u='x'><NewExternalIPAddress>203.0.113.1"
    f"</NewExternalIPAddress></u:{ACTION}Response></s:Body></s:Envelope>"
).encode()
FAULT = (
    b"<s:Envelope><s:Body><s:Fault><detail><UPnPError><errorCode>718</errorCode><errorDescription>no&#x9b;"
    b"</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>"
)
SSDP = b"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: http://192.168.1.1:5000/d.xml\r\n\r\n"
PCP = bytes.fromhex("02810000000004b000000064") + bytes(12) + bytes(range(12)) + bytes.fromhex(
    "110000001388138800000000000000000000ffffcb007101"
)  # fmt: skip
NAT_PMP = (bytes.fromhex("0080000000000064cb007101"), bytes.fromhex("00810000000000641388138800000e10"))
TURN_DATA = bytes.fromhex("0017001c2112a442000102030405060708090a0b00120008000140baea12d56800130004") + b"user"
TURN_DATA += bytes.fromhex("000d000400000258")
ERROR_401 = bytes.fromhex("011300182112a442000102030405060708090a0b00090004000004010014000372656100001500036e6f6e00")


def _text(function: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: function(data.decode(errors="replace"))


def _stun(data: bytes) -> None:
    """What was read can be said again, and means the same."""
    message = stun.decode(data)
    for attribute in stun.Attribute:
        message.raw(attribute)
    assert stun.decode(stun.encode(message)) == message
    with contextlib.suppress(AuthenticationError):
        stun.verify(data, SESSION_KEY)


def _stun_stream(data: bytes) -> None:
    decoder = StreamDecoder(channel_data=True)
    for start in range(0, len(data), 50):
        decoder.feed(data[start : start + 50])
        while (frame := decoder.next_frame()) is not None:
            assert len(frame) <= len(data)
    assert len(decoder.leftover()) <= len(data)


def _introduction(data: bytes) -> None:
    session_of(data)
    introduced = introduction_of(data)
    assert len(introduced.session) == 16
    verify_introduction(data, SESSION_KEY)


def _check(data: bytes) -> None:
    """Whatever a peer says under the right key."""
    codec = CheckCodec(False, SESSION_ID, SESSION_KEY, bytes(32))
    key = codec._key
    codec.open(stun.encode(stun.decode(data), key=key), SEEN_AT)


def _hello(data: bytes) -> None:
    handshake = hello.Handshake.accept(b"\xbb" * 16)
    handshake.receive(data)
    if isinstance(said := handshake.next_event(), hello.HelloReceived):
        assert printable(said.plugin) == said.plugin
        handshake.prove(SESSION_KEY)
    if len(data) >= hello.HEADER_SIZE:
        hello.rest_of_message(data[: hello.HEADER_SIZE])


def _welcome(data: bytes) -> None:
    handshake = hello.Handshake.dial(
        role=hello.Role.INITIATOR,
        session=SESSION_ID,
        session_key=SESSION_KEY,
        public_key=ALICE.public_key,
        peer_key=BOB.public_key,
        nonce=b"\xaa" * 16,
        plugin="direct",
    )
    handshake.receive(data)


def _signal(data: bytes) -> None:
    signal = decode_signal(data)
    assert printable(signal.reason) == signal.reason
    for message in signal.messages:
        assert printable(message.name) == message.name


def _envelope(data: bytes) -> None:
    """Signed and sealed as it should be, whatever is in it."""
    body = MESSAGE_ID + data[:3000]
    signed = b"warpgate/2 signal" + ALICE.public_key + BOB.public_key + body
    content = ALICE.public_key + ALICE.sign(signed) + body
    open_envelope(BOB, bytes(MARK_SIZE) + hpke_seal(BOB.public_key, content, b"warpgate/2 envelope"))


def _plugin_messages(data: bytes) -> None:
    for kind in (Punch, Guess, Relayed, CallBack):
        try:
            decode_body(data, kind)
        except DecodeError:
            continue


def _address(data: bytes) -> None:
    address = NodeAddress.decode(data)
    assert NodeAddress.decode(address.encode()) == address
    assert NodeAddress.from_text(address.to_text()) == address


def _record(signed: bytes) -> None:
    """Signed by the key in the seeds."""
    name_record.open_record(signed + ALICE.sign(b"warpgate/1 name\0" + signed))


def _key(data: bytes) -> None:
    """Whoever sends a key sends bytes that may be none: for all that is done with one."""
    for use in (
        lambda: verify(data, bytes(range(64)), b""),
        lambda: BOB.session_key(data, SESSION_ID, initiator=False),
        lambda: hpke_seal(data, b"", b""),
    ):
        with contextlib.suppress(ProtocolError):
            use()


def _description(data: bytes) -> None:
    for service in igd.decode_description(data, LOCATION, GATEWAY):
        assert service.control.target.isprintable()


def _url(text: str) -> None:
    place = igd.place_at(text, GATEWAY)
    assert "192.168.1.1" in text or "c0a8:101" in text.lower() or "c0a8:0101" in text.lower()
    assert place.target.startswith("/")


def _soap(data: bytes) -> None:
    answer = igd_soap.decode_answer(data, ACTION)
    if isinstance(answer, igd_soap.Fault):
        assert answer.reason.isprintable()
    else:
        assert len(answer) <= MOST_ELEMENTS
        assert all(len(text) <= LONGEST_TEXT for text in answer.values())


def _transfer(data: bytes) -> None:
    deframer = transfer_wire.Deframer()
    for start in range(0, len(data), 100):
        for message in deframer.feed(data[start : start + 100]):
            assert transfer_wire.decode(msgspec.msgpack.encode(message)) == message


def _file_name(text: str) -> None:
    check_name(text, NameRules())
    assert "/" not in text
    assert text not in (".", "..", "")
    assert printable(partial_name(text, "p" * 26))


def _printable(text: str) -> None:
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printable(text))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printable_lines(text))


def _mqtt(data: bytes) -> None:
    framing = Framing()
    for start in range(0, len(data), 7):
        framing.feed(data[start : start + 7])
    assert framing._body <= LARGEST_PACKET


def _quic_head(data: bytes) -> None:
    is_first_packet(data)
    assert len(connection_id_of(data)) <= 255
    with contextlib.suppress(AuthenticationError):
        check_head(ALICE.public_key, SESSION_KEY, data)


MQTT = (
    b"\x20\x03\0\0\0" + b"\x90\x04\0\1\0\0" + b"\x30\x05\0\1ab\0" + b"\xd0\0",
    b"\x20\x03\0\0\0" + b"\x30\x80\x20" + bytes(4096) + b"\xe0\0",
)
CODE_MESSAGES = [
    encode_code_message(message)
    for message in (
        Open(1, bytes(16), bytes(33)),
        Answer(bytes(16), bytes(33), bytes(60)),
        Confirm(bytes(16), bytes(60)),
        Taken(bytes(16)),
    )
]
_ADDRESS = NodeAddress.decode(VECTORS["address"])
_URLS = (
    b"mqtts://broker.example:8883",
    b"mqtt://[2001:db8::1]:1884",
    b"stun.example:3478",
    b"https://names.example/x",
    b"turn:user:secret@relay.example:3478?transport=tcp",
    b"192.0.2.1:5",
    b"[fe80::1%eth0]:5",
)
_LINES = (
    str(Rendezvous("198.51.100.1", 8080, 1883, (3478, 3479))).encode(),
    str(Rendezvous("x.example", 443, 8883, (3478,), True, 3478, 443, "s" * 24)).encode(),
)
_PLACES = (b"http://192.168.1.1:5000/ctl", b"http://192.168.1.1@127.0.0.1/", b"//[::1]/", b"/ctl?x#y")

PIPE_HEADS = (encode_pipe_head("ssh") + TAKEN + b"data", encode_pipe_head("") + encode_refusal("no \x1b[2J"))
NEWS = encode_frame(VECTORS["address"]) * 2
FRAMES = encode_frame(bytes(30)) + encode_frame(bytes(1200))


def _pipe_head(data: bytes) -> None:
    """As the one who is called, then as the one who calls, in pieces."""
    head, reply = PipeHeadReader(), ReplyReader()
    for start in range(0, len(data), 7):
        rest = head.feed(data[start : start + 7])
        assert len(head._partial) <= 1 + MAX_SERVICE + 7
        reply.feed(rest)
    assert head.service is None or printable(head.service) == head.service
    assert reply.reason.isprintable()


def _credit(data: bytes) -> None:
    reader = CreditReader()
    found = [pair for start in range(0, len(data), 5) for pair in reader.feed(data[start : start + 5])]
    assert len(found) == len(data) // 16
    for stream, _ in found:
        is_pipe(stream)


def _news(data: bytes) -> None:
    reader = NewsReader()
    for start in range(0, len(data), 100):
        for address in reader.feed(data[start : start + 100]):
            NodeAddress.decode(address)
        assert len(reader._partial) <= 2 + MAX_ADDRESS_SIZE + 100


def _frames(data: bytes) -> None:
    reader = FrameReader()
    found = [frame for start in range(0, len(data), 100) for frame in reader.feed(data[start : start + 100])]
    assert b"".join(map(encode_frame, found)) + reader._partial == data


def _datagram(data: bytes) -> None:
    stream, rest = decode_datagram(data)
    assert 0 <= stream < 1 << 62
    assert len(rest) < len(data)


DECODERS = (
    Target(
        "durable_datagram",
        _datagram,
        (DecodeError,),
        (encode_datagram(4, b"x"), encode_datagram(1 << 40, b"")),
    ),
    Target("durable_pipe_head", _pipe_head, (DecodeError,), PIPE_HEADS),
    Target("durable_credit", _credit, (), (encode_credit(4, 1 << 20) * 2,)),
    Target("durable_news", _news, (ProtocolError, AddressError), (NEWS,)),
    Target("durable_frames", _frames, (DecodeError,), (FRAMES,)),
    Target("stun", _stun, (ProtocolError,), (*CHECKS, TURN_DATA, ERROR_401)),
    Target("stun_stream", _stun_stream, (DecodeError,), (*CHECKS, TURN_DATA, b"\x40\x00\x00\x04data")),
    Target("first_check", _introduction, (ProtocolError,), CHECKS),
    Target("check", _check, (ProtocolError,), CHECKS),
    Target("hello", _hello, (ProtocolError,), (VECTORS["hello"], VECTORS["welcome"], VECTORS["nominate"])),
    Target("welcome", _welcome, (ProtocolError,), (VECTORS["welcome"], VECTORS["nominate"])),
    Target("signal", _signal, (DecodeError,), (VECTORS["signal"],)),
    Target("envelope", _envelope, (ProtocolError,), (VECTORS["signal"],)),
    Target("envelope_unsealed", lambda data: open_envelope(BOB, data), (ProtocolError,), (VECTORS["envelope"],)),
    Target(
        "plugin_messages",
        _plugin_messages,
        (),
        [VECTORS[name] for name in ("callback", "punch-0", "punch-2", "meet-2", "guess-opened", "relayed")],
    ),
    Target("key", _key, (), (ALICE.public_key,)),
    Target("address", _address, (AddressError,), (VECTORS["address"],)),
    Target(
        "address_text",
        _text(NodeAddress.from_text),
        (AddressError,),
        (_ADDRESS.to_text().encode(), _ADDRESS.to_host_name().encode()),
    ),
    Target("endpoint", _text(Endpoint.parse), (AddressError,), _URLS),
    Target("broker_url", _text(BrokerUrl.parse), (ConfigError, AddressError), _URLS),
    Target("stun_url", _text(StunServer.parse), (ConfigError, AddressError), _URLS),
    Target("turn_url", _text(TurnServer.parse), (ConfigError, AddressError), _URLS),
    Target("name_server_url", _text(NameServerUrl.parse), (ConfigError, AddressError), _URLS),
    Target("rendezvous_line", _text(Rendezvous.parse), (ConfigError, AddressError), (*_LINES, *_URLS)),
    Target("nickname", _text(fold), (AddressError,), ("ёж".encode(), b"alice", "ﬁ".encode())),
    Target("name_record", _record, (ProtocolError,), (VECTORS["claim"][:-64], VECTORS["release"][:-64])),
    Target("quic_head", _quic_head, (), (VECTORS["quic-head"], b"\xc0\0\0\0\1\x08" + bytes(1200))),
    Target("mqtt", _mqtt, (ProtocolError,), MQTT),
    Target("code", _text(OneTimeCode.parse), (AddressError,), (b"7-piano-zebra", "٣-piano-zebra".encode())),
    Target("code_messages", decode_code_message, (DecodeError,), CODE_MESSAGES),
    Target(
        "channel_data",
        unpack_channel_data,
        (DecodeError,),
        (pack_channel_data(0x4000, b"data", padded=True),),
    ),
    Target("port_mapping", decode_response, (DecodeError,), (PCP, *NAT_PMP)),
    Target("ssdp", ssdp.decode_answer, (DecodeError,), (SSDP,)),
    Target("igd_description", _description, (DecodeError,), (DESCRIPTION,)),
    Target("igd_url", _text(_url), (DecodeError,), _PLACES),
    Target("igd_soap", _soap, (DecodeError,), (ANSWER, FAULT)),
    Target("transfer_frames", _transfer, (DecodeError,), [VECTORS[name] for name in ("offer", "entries", "have")]),
    Target(
        "file_name",
        _text(_file_name),
        (TransferRefused,),
        (b".ssh", b"a.txt", "a\u202egpj.exe".encode(), b"aux"),
    ),
    Target("terminal", _text(_printable), (), (b"\x1b[2J", "\u202e\u200b\x9b".encode(), b"a\r\nb")),
)
