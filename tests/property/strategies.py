"""What the codecs are tried with: every value that can be built, and bytes that were tampered with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings
from hypothesis import strategies as st

from warpgate.model.address import Attachment, BrokerRef, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, Family, IPAddress
from warpgate.model.identity import Identity
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.model.text import is_plugin_name, printable
from warpgate.model.wanted import INSTANCE_SIZE
from warpgate.proto.signals import PluginMessage, Signal, SignalKind
from warpgate.proto.stun import (
    Attribute,
    AttributeValue,
    ChangeRequest,
    ErrorCode,
    FamilyError,
    StunClass,
    StunMessage,
)

ValueT = TypeVar("ValueT")
# The same examples every time: a failure is the change's fault, never the day's.
fixed = settings(derandomize=True, deadline=None, max_examples=100)

ALICE, BOB = (Identity(ec.derive_private_key(secret, ec.SECP256R1())) for secret in (1234, 5678))

ports = st.integers(0, 65535)
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None)
endpoints = st.builds(Endpoint, v4 | v6, ports)


def mutated(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Valid messages with bytes changed, cut out, or put in: garbage that gets far into a decoder."""

    def tamper(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
        for position, length, replacement in cuts:
            start = position % (len(data) + 1)
            data = data[:start] + replacement + data[start + length :]
        return data

    cut = st.tuples(st.integers(0, 4095), st.integers(0, 8), st.binary(max_size=8))
    flip = st.tuples(st.integers(0, 4095), st.just(1), st.binary(min_size=1, max_size=1))
    return st.builds(tamper, valid, st.lists(flip | cut, min_size=1, max_size=4))


def _attachments(ips: st.SearchStrategy[IPAddress]) -> st.SearchStrategy[Attachment]:
    pools = st.lists(ips, max_size=3).map(tuple)
    return st.builds(Attachment, ips, st.none() | ips, listenings, listenings, profiles, pools)


listenings = st.builds(Listening, ports, st.none() | st.integers(1, 65535), st.sampled_from(LearntBy))
assignments = st.one_of(
    st.builds(
        PortAssignment,
        st.sampled_from((Assignment.UNKNOWN, Assignment.PRESERVING, Assignment.RANDOM)),
        parity=st.booleans(),
    ),
    st.builds(
        PortAssignment,
        st.sampled_from((Assignment.SEQUENTIAL, Assignment.PER_ADDRESS)),
        step=st.integers(-32768, 32767),
    ),
    st.builds(PortAssignment, st.just(Assignment.BLOCK), low=ports, high=ports, fixed=ports, parity=st.booleans()),
)
profiles = st.builds(
    NatProfile,
    mapping=st.sampled_from(Mapping),
    filtering=st.sampled_from(Filtering),
    assignment=assignments,
    udp_blocked=st.sampled_from((None, False, True)),
    mapping_samples=st.integers(0, 15),
    filtering_samples=st.integers(0, 15),
    assignment_samples=st.integers(0, 15),
    pooled=st.booleans(),
)
labels = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,20}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=3).map(".".join).filter(lambda name: not name[-1].isdigit())
brokers = st.builds(
    lambda kind, host, port, rtt: BrokerRef.of(
        f"{kind[0]}://{f'[{host}]' if ':' in str(host) else host}:{port}{kind[1]}", rtt
    ),
    st.sampled_from([("mqtt", ""), ("mqtts", ""), ("ws", ""), ("wss", "/"), ("wss", "/mqtt"), ("wss", "/A/b.c%20/")]),
    names | v4 | v6,
    st.integers(1, 65535),
    st.none() | st.integers(0, 65535).map(lambda milliseconds: milliseconds / 1000),
)
addresses = st.builds(
    NodeAddress,
    st.sampled_from((ALICE.public_key, BOB.public_key)),
    st.lists(brokers, max_size=4).map(tuple),
    st.lists(_attachments(v4) | _attachments(v6), max_size=8).map(tuple),
    st.just(b"") | st.binary(min_size=INSTANCE_SIZE, max_size=INSTANCE_SIZE),
    st.booleans(),
)

_errors = st.builds(ErrorCode, st.integers(300, 699), st.text(max_size=40))
_values: tuple[tuple[st.SearchStrategy[AttributeValue], tuple[Attribute, ...]], ...] = (
    (
        endpoints,
        (
            Attribute.MAPPED_ADDRESS,
            Attribute.XOR_MAPPED_ADDRESS,
            Attribute.XOR_PEER_ADDRESS,
            Attribute.XOR_RELAYED_ADDRESS,
            Attribute.OTHER_ADDRESS,
        ),
    ),
    (st.text(max_size=60), (Attribute.USERNAME, Attribute.REALM, Attribute.SOFTWARE)),
    (st.binary(max_size=100), (Attribute.NONCE, Attribute.DATA, Attribute.PADDING)),
    (st.integers(0, 2**32 - 1), (Attribute.PRIORITY, Attribute.LIFETIME, Attribute.CONNECTION_ID)),
    (st.integers(0, 2**64 - 1), (Attribute.ICE_CONTROLLED, Attribute.ICE_CONTROLLING)),
    (ports, (Attribute.CHANNEL_NUMBER, Attribute.RESPONSE_PORT)),
    (st.just(True), (Attribute.USE_CANDIDATE, Attribute.DONT_FRAGMENT, Attribute.WG_CLOSE)),
    (st.booleans(), (Attribute.EVEN_PORT,)),
    (_errors, (Attribute.ERROR_CODE,)),
    (st.builds(FamilyError, st.sampled_from(Family), _errors), (Attribute.ADDRESS_ERROR_CODE,)),
    (st.lists(ports, max_size=5).map(tuple), (Attribute.UNKNOWN_ATTRIBUTES, Attribute.PASSWORD_ALGORITHMS)),
    (st.integers(0, 3).map(lambda bits: ChangeRequest(bits << 1)), (Attribute.CHANGE_REQUEST,)),
    (st.sampled_from(Family), (Attribute.REQUESTED_ADDRESS_FAMILY, Attribute.ADDITIONAL_ADDRESS_FAMILY)),
    (st.binary(min_size=16, max_size=16), (Attribute.WG_NONCE, Attribute.WG_SESSION)),
    (st.binary(min_size=33, max_size=33), (Attribute.WG_KEY,)),
    (st.text(max_size=8), (Attribute.WG_PLUGIN,)),
)
attributes = st.one_of(
    *(st.tuples(st.sampled_from(numbers), values) for values, numbers in _values),
    st.tuples(st.sampled_from((0x7F01, 0xFF01)), st.binary(max_size=20)),
)
stun_messages = st.builds(
    StunMessage,
    method=st.integers(0, 0xFFF),
    cls=st.sampled_from(StunClass),
    transaction_id=st.binary(min_size=12, max_size=12),
    attributes=st.lists(attributes, max_size=8).map(tuple),
)

sixteen = st.binary(min_size=16, max_size=16)
plugin_names = st.text(min_size=1, max_size=8).filter(is_plugin_name)
plugin_messages = st.builds(PluginMessage, plugin_names, st.binary(max_size=100))
signals = st.builds(
    Signal,
    kind=st.sampled_from(SignalKind),
    session=sixteen,
    sequence=st.integers(0, 2**32 - 1),
    time=st.floats(0, 2e9),
    address=st.sampled_from([NodeAddress(ALICE.public_key).encode()]),
    messages=st.lists(plugin_messages, max_size=4).map(tuple),
    known=st.just(b"") | st.binary(min_size=8, max_size=8),
    held=st.just(-1.0) | st.floats(0, 60),
    mode=st.sampled_from(("", "stream", "datagram")),
    reason=st.text(max_size=40).map(printable),
)


def only(decode: Callable[[bytes], ValueT], data: bytes, error: type[Exception]) -> ValueT | None:
    """Decode; None when it raised the one error it may raise. Anything else fails the test."""
    try:
        return decode(data)
    except error:
        return None
