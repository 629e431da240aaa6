"""The worked examples of docs/protocol.md, taken out of the page and checked against the code."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.config import Budgets, Timing
from warpgate.core.connection import quic_bounds, quic_channels, quic_stream
from warpgate.core.disk import claim
from warpgate.core.pipes import plain_datagram, tls
from warpgate.core.search import links, relays, responder, session, twins
from warpgate.core.udp import demultiplexer
from warpgate.errors import AuthenticationError
from warpgate.model.address import (
    MAX_ADDRESS_SIZE,
    MAX_ATTACHMENTS,
    MAX_BROKERS,
    Attachment,
    BrokerRef,
    LearntBy,
    Listening,
    NodeAddress,
)
from warpgate.model.broker import encode_broker
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity, listen_port_of, node_id_of
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.model.wanted import ANYTHING, INSTANCE_SIZE, LARGEST, MAX_SERVICE, Wanted
from warpgate.plan import volley
from warpgate.plan.targets import MAX_PAIRS_UNINVITED
from warpgate.plugins import base, punching, tcp_punch, turn, udp_punch
from warpgate.plugins.guesses import Guess
from warpgate.plugins.punching import Punch
from warpgate.plugins.reverse import CallBack
from warpgate.plugins.turn import Relayed
from warpgate.proto import check, gate, hello, instances, signals
from warpgate.proto.channel_wire import (
    DATAGRAMS,
    LARGEST_DATAGRAM,
    SEEN,
    decode_datagram,
    encode_datagram,
    encode_pipe_head,
)
from warpgate.proto.check_wire import CheckCodec, introduction_of
from warpgate.proto.envelope import MAX_ENVELOPE, open_envelope
from warpgate.proto.hello import Authenticated, Handshake, Nominated, Refused, Role
from warpgate.proto.marks import MARKS, Marks
from warpgate.proto.quic_proof import ALPN, HEAD_SIZE, check_head, session_of
from warpgate.proto.quic_wire import FIRST_PACKET_SIZE
from warpgate.proto.signals import PluginMessage, Signal, SignalKind, decode_signal, encode_signal
from warpgate.proto.stun import Attribute

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
BLOCK = re.compile(r"^```(?P<kind>hex|values) (?P<name>[\w-]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {(found["kind"], found["name"]): found["body"] for found in BLOCK.finditer(PAGE)}

ALICE = Identity(ec.derive_private_key(1, ec.SECP256R1()))
BOB = Identity(ec.derive_private_key(2, ec.SECP256R1()))
SESSION = bytes(range(16))
KEY = ALICE.session_key(BOB.public_key, SESSION, initiator=True)
NONCE_A, NONCE_B = b"\xaa" * 16, b"\xbb" * 16
CHECK_ID, NOMINATION_ID = bytes(range(0x10, 0x1C)), bytes(range(0x20, 0x2C))
ASKED_AT = Endpoint.of("198.51.100.7", 19096)
SEEN_AT = Endpoint.of("203.0.113.42", 25000)
MESSAGE_ID = b"\xcc" * 16
HEX_NAMES = {
    "alice-key",
    "bob-key",
    "address",
    "session-key",
    "wanted",
    "refused",
    "signal",
    "envelope",
    "mark",
    "hello",
    "welcome",
    "nominate",
    "check",
    "answer",
    "nomination",
    "callback",
    "guess-open",
    "guess-opened",
    "punch-0",
    "punch-1",
    "punch-2",
    "durable-pipe",
    "durable-datagrams",
    "durable-datagram-4",
    "durable-datagram-16384",
    "quic-head",
    "relayed",
    "relayed-pending",
    "meet-1",
    "meet-2",
    "web-broker",
}


def example(name: str) -> bytes:
    """The bytes of a `hex` block, without its comments."""
    return bytes.fromhex(re.sub(r"#.*", "", BLOCKS["hex", name]))


def values(name: str) -> dict[str, str]:
    pairs = (line.split(" = ", 1) for line in BLOCKS["values", name].splitlines())
    return dict(pairs)


def row(what: str) -> str:
    """The second cell of the row of section 9 that begins with `what`."""
    found = re.search(rf"^\| {re.escape(what)}[^|]*\| (?P<limit>[^|]*) \|$", PAGE, re.MULTILINE)
    assert found is not None, what
    return found["limit"]


def alice_address() -> NodeAddress:
    nat = NatProfile(
        mapping=Mapping.EIM,
        filtering=Filtering.APDF,
        assignment=PortAssignment(Assignment.PRESERVING),
        udp_blocked=False,
        mapping_samples=3,
        filtering_samples=2,
        assignment_samples=3,
    )
    same = Listening(25000, 25000, LearntBy.STUN)
    other = Listening(25000, 40001, LearntBy.STUN)
    v6 = ip_address("2001:db8::5")
    return NodeAddress(
        ALICE.public_key,
        (BrokerRef("mqtts://broker.example:8883", 0.04), BrokerRef("mqtt://192.0.2.9:1884")),
        (
            Attachment(ip_address("192.168.1.5"), ip_address("203.0.113.42"), same, other, nat),
            Attachment(v6, v6, same, same),
        ),
    )


def offer() -> Signal:
    return Signal(
        kind=SignalKind.OFFER,
        session=SESSION,
        sequence=1,
        time=1767225600.0,
        address=NodeAddress(ALICE.public_key).encode(),
        messages=(
            PluginMessage("reverse", example("callback")),
            PluginMessage("udp_punch", example("punch-1")),
        ),
        known=bytes(8),
        mode="stream",
    )


def alice_dials(*, secure: bool = False, wanted: Wanted = ANYTHING) -> Handshake:
    return Handshake.dial(
        role=Role.INITIATOR,
        session=SESSION,
        session_key=KEY,
        public_key=ALICE.public_key,
        peer_key=BOB.public_key,
        nonce=NONCE_A,
        plugin="direct",
        secure=secure,
        wanted=wanted,
    )


def test_every_example_is_checked_here() -> None:
    assert {name for kind, name in BLOCKS if kind == "hex"} == HEX_NAMES


def test_keys_and_names() -> None:
    assert (example("alice-key"), example("bob-key")) == (ALICE.public_key, BOB.public_key)
    assert values("names") == {
        "alice-id": node_id_of(ALICE.public_key),
        "alice-port": str(listen_port_of(ALICE.public_key)),
        "bob-id": node_id_of(BOB.public_key),
        "bob-port": str(listen_port_of(BOB.public_key)),
    }


def test_address() -> None:
    address = alice_address()
    assert NodeAddress.decode(example("address")) == address
    assert address.encode() == example("address")
    relayed = replace(address, relay=True)
    assert f"with a relay it begins `{relayed.encode()[:1].hex()}`" in PAGE
    assert relayed.encode()[1:] == address.encode()[1:]
    assert NodeAddress.decode(relayed.encode()) == relayed
    assert (relayed.reach_digest, relayed.plan_digest(address)) == (
        address.reach_digest,
        address.plan_digest(address),
    )
    assert encode_broker(BrokerRef.of("wss://broker.example/")) == example("web-broker")
    assert values("address") == {
        "reach-digest": address.reach_digest.hex(),
        "plan-digest": address.plan_digest(address).hex(),
        "text": address.to_text(),
        "host-name": address.to_host_name(),
    }


def test_what_is_wanted_of_a_peer() -> None:
    wanted = Wanted(bytes((1, 2, 3, 4)), "ssh")
    assert (wanted.encode(), Wanted.decode(example("wanted"))) == (example("wanted"), wanted)
    one = replace(alice_address(), instance=wanted.instance).encode()
    words = " ".join(PAGE.split())
    assert f"the key, `{one[34:35].hex()} {one[35:39].hex()}`, and goes on as above" in words
    assert one[39:] == example("address")[35:]
    sizes = f"length(1)=0|{INSTANCE_SIZE}  [instance]  length(1)=0 to {MAX_SERVICE}"
    assert sizes in PAGE
    assert f"| 13 | wanted | bin, at most {LARGEST} |" in PAGE


def test_several_processes_with_one_key() -> None:
    words = " ".join(PAGE.split())
    assert f"it remembers {claim.REMEMBERED})" in words
    assert f"the last question within {instances.ANSWER_LIFE:g} s runs" in words
    assert f"not answered {instances.PATIENCE:g} s after it" in words
    assert f"every {twins.LOOK_AGAIN:g} s while a twin is known" in words
    assert (twins.ANSWERS_AT_ONCE, twins.ANSWERS_PER_SECOND) == (8, 2)


def test_what_is_said_before_there_is_a_path() -> None:
    words = " ".join(PAGE.split())
    assert f"each of the first {demultiplexer.GREETED_PAIRS} pairs" in words
    assert f"has proved itself, {demultiplexer.EXPECTED_LIMIT} at most. They count" in words
    assert f"among the {demultiplexer.UNVALIDATED_DATAGRAMS} datagrams to a pair" in words
    assert f"answers {quic_bounds.AHEAD} connections at once" in words


def test_session_key() -> None:
    assert example("session-key") == KEY == BOB.session_key(ALICE.public_key, SESSION, initiator=False)


def test_signal_and_envelope() -> None:
    assert encode_signal(offer()) == example("signal")
    opened = open_envelope(BOB, example("envelope"))
    assert (opened.sender, opened.message_id, opened.signal) == (ALICE.public_key, MESSAGE_ID, offer())


def test_mark_of_an_acquaintance() -> None:
    near, far = Marks(), Marks()
    for marks, role in ((near, Role.INITIATOR), (far, Role.RESPONDER)):
        marks.met("peer")
        marks.renew("peer", KEY, role)
    assert near.mark("peer", b"\0") == example("mark")
    assert far.take(example("mark") + b"\0")
    assert f"both nodes have {MARKS} tags" in PAGE


def test_a_signal_may_end_after_the_fifth_field_or_have_more_than_sixteen() -> None:
    fields = msgspec.msgpack.decode(example("signal"))
    assert len(fields) == 16
    longer = msgspec.msgpack.encode([*fields, "of a later version"])
    assert decode_signal(longer) == offer()
    assert f"| 15 | flight | array, at most {signals.FLIGHT_PACKETS} |" in PAGE
    assert f"of its QUIC client, each bin, at most {signals.MAX_FLIGHT_PACKET};" in PAGE
    shortest = decode_signal(msgspec.msgpack.encode(fields[:5]))
    assert (shortest.messages, shortest.known, shortest.held, shortest.acknowledges) == ((), b"", -1.0, 0)
    assert not shortest.secure


def test_hello_welcome_nominate() -> None:
    alice, bob = alice_dials(), Handshake.accept(NONCE_B)
    assert alice.data_to_send() == example("hello")
    bob.receive(example("hello"))
    bob.next_event()
    bob.prove(KEY)
    assert isinstance(bob.next_event(), Authenticated)
    assert bob.data_to_send() == example("welcome")
    alice.receive(example("welcome"))
    alice.nominate()
    assert alice.data_to_send() == example("nominate")
    bob.receive(example("nominate"))
    assert isinstance(bob.next_event(), Nominated)


def test_a_hello_for_a_service_that_there_is_not() -> None:
    alice, bob = alice_dials(wanted=Wanted(service="ssh")), Handshake.accept(NONCE_B)
    hello = alice.data_to_send()
    assert hello[:-32].endswith(b"direct" + bytes.fromhex("00 03 737368"))
    assert "`00 03 737368` before the MAC" in PAGE
    bob.receive(hello)
    bob.next_event()
    bob.prove(KEY)
    bob.refuse("there is no service 'ssh'")
    assert bob.data_to_send() == example("refused")
    with pytest.raises(Refused, match="there is no service 'ssh'"):
        alice.receive(example("refused"))


def test_tls_on_tcp_links() -> None:
    assert f'"{tls.ALPN}" and the session id' in PAGE
    wanted = alice_dials(secure=True).data_to_send()
    assert (wanted[72], example("hello")[72]) == (2, 1)
    certificate = x509.load_pem_x509_certificate(ALICE.certificate())
    issuer, subject = certificate.issuer.rfc4514_string(), certificate.subject.rfc4514_string()
    assert (issuer, subject) == ("CN=warpgate/1 node key", f"CN={ALICE.node_id}")
    assert f'common name "{issuer.removeprefix("CN=")}"' in PAGE


def test_checks() -> None:
    alice = CheckCodec(True, SESSION, KEY, 2 * NONCE_A, introduction=ALICE.public_key)
    bob = CheckCodec(False, SESSION, KEY, 2 * NONCE_B)
    assert alice.request(CHECK_ID, "direct", ASKED_AT, introduce=True) == example("check")
    assert introduction_of(example("check")).public_key == ALICE.public_key
    assert bob.open(example("check"), SEEN_AT).plugin == "direct"
    assert bob.answer(CHECK_ID, SEEN_AT) == example("answer")
    answer = alice.open(example("answer"), ASKED_AT)
    assert answer.message.mapped == SEEN_AT
    flag = Attribute.USE_CANDIDATE
    nomination = alice.request(NOMINATION_ID, "direct", ASKED_AT, flag, echo=answer.nonce)
    assert nomination == example("nomination")
    opened = bob.open(nomination, SEEN_AT)
    assert (opened.chooses, opened.echoed) == (True, True)


def test_head_of_a_stream_over_udp() -> None:
    head = example("quic-head")
    assert (len(head), session_of(head)) == (HEAD_SIZE, SESSION)
    check_head(ALICE.public_key, b"\xdd" * 32, head)
    with pytest.raises(AuthenticationError):
        check_head(ALICE.public_key, b"\xde" * 32, head)
    assert f'ALPN "{ALPN}"' in PAGE
    assert f"| {quic_stream.USER} | both |" in PAGE
    assert f"| {quic_stream.CLIENT_CREDIT} | client to server |" in PAGE
    assert f"| {quic_stream.SERVER_CREDIT} | server to client |" in PAGE


def test_pipes_of_a_durable_connection() -> None:
    assert encode_pipe_head("voice") == example("durable-pipe")
    assert encode_pipe_head("voice", datagrams=True) == example("durable-datagrams")
    assert decode_datagram(example("durable-datagram-4")) == (4, b"hello")
    assert encode_datagram(16384, b"hello") == example("durable-datagram-16384")
    for words in (
        f"the error code {SEEN:,} + n",
        f"{LARGEST_DATAGRAM:,} bytes at most, is a DATAGRAM frame",
        f"begins with {DATAGRAMS} more",
        f"are kept, {quic_channels.HELD} of a connection",
        f"`max_datagram_frame_size` {FIRST_PACKET_SIZE};",
    ):
        assert words in PAGE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("callback", CallBack()),
        ("punch-0", Punch(0, ("203.0.113.42:25003", "203.0.113.42:25004"))),
        ("punch-1", Punch(1)),
        ("guess-open", Guess("open", "203.0.113.42:25001")),
        (
            "guess-opened",
            Guess("opened", "198.51.100.9:4000", "203.0.113.42", 5696, 63055, fixed=0x0FF0, bits=0x0640),
        ),
        ("punch-2", Punch(2, ("203.0.113.42:25001",))),
        ("relayed-pending", Relayed("udp", (), True)),
        ("relayed", Relayed("udp", ("198.51.100.1:49160",))),
        ("meet-1", Punch(1)),
        ("meet-2", Punch(2, ("203.0.113.42:25001",), 0.04)),
    ],
)
def test_messages_of_strategies(name: str, message: object) -> None:
    assert msgspec.msgpack.encode(message) == example(name)
    assert msgspec.msgpack.decode(example(name), type=type(message)) == message


@pytest.mark.parametrize(
    "attribute",
    [
        Attribute.XOR_MAPPED_ADDRESS,
        Attribute.USE_CANDIDATE,
        Attribute.MESSAGE_INTEGRITY_SHA256,
        Attribute.ICE_CONTROLLED,
        Attribute.ICE_CONTROLLING,
        Attribute.WG_KEY,
        Attribute.WG_NONCE,
        Attribute.WG_PLUGIN,
        Attribute.WG_CLOSE,
        Attribute.WG_SESSION,
        Attribute.WG_MODE,
        Attribute.WG_ECHO,
        Attribute.WG_WANTED,
    ],
)
def test_attribute_numbers(attribute: Attribute) -> None:
    name = attribute.name.replace("_", "-")
    assert f"| {name} | {attribute.value:#06x} |" in PAGE


def numbers(offsets: tuple[float, ...]) -> str:
    *head, last = (f"{offset:g}" for offset in offsets)
    return f"{', '.join(head)} and {last} s"


def test_timing() -> None:
    timing = Timing()
    words = " ".join(PAGE.split())
    assert f"is a check at {numbers(timing.check_offsets)}" in words
    assert f"is repeated {numbers(timing.offer_offsets)} after it was first sent" in words
    assert f"is acknowledged within {timing.answer_delay:g} s" in words
    assert f"otherwise after {timing.correction_delay:g} s, unless the session has ended" in words
    assert f"on one verified pair at {numbers(check.NOMINATION_OFFSETS)}" in words
    assert f"It is sent at {numbers(check.CLOSE_OFFSETS)} until answered" in words
    assert f"when {timing.consent_silence:g} s have passed since one of its own was answered" in words
    assert f"and again every {check.CONSENT_REPEAT:g} s until one is" in words
    few = f"{plain_datagram.UNVALIDATED_DATAGRAMS} datagrams of the user's at most"
    assert f"{few}, {plain_datagram.UNVALIDATED_BYTES:,} bytes together" in words
    early = f"{demultiplexer.EARLY_LIMIT} of a pair at most, {demultiplexer.EARLY_BYTES // 2**20} MiB in all"
    assert early in words
    assert f"at {timing.consent_timeout:g} s the pipe is over" in words
    assert f"one check with TTL {volley.PRIMING_TTL}" in words
    assert f"| s + max({udp_punch.LATE_SIGNAL:g} s, s/2) |" in words
    assert f"| s + {udp_punch.VOLLEY_PATIENCE:g} s |" in words
    assert f"| s + {tcp_punch.VOLLEY_PATIENCE:g} s |" in words
    assert base.UNKNOWN_SIGNAL_DELAY == 0.15
    assert punching.VOLLEYS == 4


def test_gate() -> None:
    assert f"`time` is within {gate.WINDOW:g} s" in PAGE
    assert f"A copy within {gate.DUPLICATE_DELAY:g} s" in PAGE
    assert f"remembered for {2 * gate.WINDOW:g} s, {gate.MAX_IDS:,} of them" in PAGE
    assert f"{gate.GLOBAL_RATE:g} a second, {gate.GLOBAL_BURST:g} at once" in row("envelopes opened")
    assert f"{gate.SENDER_RATE:g} and {gate.SENDER_BURST:g}" in row("envelopes opened")


def test_limits() -> None:
    budgets = Budgets()
    assert row("address") == f"{MAX_ADDRESS_SIZE} bytes, {MAX_BROKERS} brokers, {MAX_ATTACHMENTS} attachments"
    assert row("envelope") == f"{MAX_ENVELOPE} bytes"
    assert row("messages") == f"{signals.MAX_MESSAGES}, of at most {signals.MAX_BODY} bytes each"
    assert row("sessions begun") == f"{budgets.offers_per_peer_per_minute} a minute"
    assert row("sessions that") == f"{budgets.sessions_at_once}; the oldest makes room"
    proofless = f"{budgets.unauthenticated_connections}, {budgets.hello_patience:g} s and {hello.MAX_UNPROVED}"
    assert row("TCP connections that") == f"{proofless} bytes each"
    unchosen = f"{links.LINKS_A_SESSION} of a session, {budgets.unchosen_links} of all"
    assert row("TCP connections proved") == f"{unchosen}; the oldest makes room"
    assert f"at most {gate.TOKEN_LIFE:g} s ago" in PAGE
    offers = f"{budgets.offers_per_second:g} a second, {budgets.offers_at_once:g} at once"
    assert row("sessions begun by offers") == offers
    assert row("introductions") == f"{budgets.introductions_per_second:g} a second"
    assert row("HELLO nonces") == f"{4 * session.BACKLOG}"
    assert row("pairs of endpoints") == f"{MAX_PAIRS_UNINVITED} for each transport"
    window = f"{quic_stream.WINDOW // 2**20} MiB beyond the credit given"
    assert row("stream over") == f"{window}; {quic_bounds.UNPROVED} unproved connections, 5 s each"
    unproved = quic_bounds.UNPROVED_BYTES // 2**10, quic_bounds.UNPROVED_TOTAL // 2**20
    assert row("datagrams of a QUIC") == f"{unproved[0]} KiB a connection, {unproved[1]} MiB in all"
    assert row("pieces of streams") == f"{quic_bounds.PIECES} a connection, {quic_bounds.PIECES_TOTAL} in all"
    rate = f"{budgets.relay_targets_per_second:g} a second in all"
    assert row("relayed endpoints") == f"{relays.ENDPOINTS_PER_SESSION} in a session, {rate}"
    assert f"UDP endpoints at {numbers(turn.CHECK_OFFSETS)}" in " ".join(PAGE.split())
    assert row("time until") == f"{Timing().responder_patience:g} s"
    assert responder.SESSIONS_REMEMBERED == 4096
