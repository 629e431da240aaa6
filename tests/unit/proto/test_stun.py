"""STUN against the RFC's test vectors, aioice as the oracle, and the rules that keep strangers out."""

from __future__ import annotations

import hashlib
import hmac

import aioice.stun as oracle
import pytest

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.model.endpoint import Endpoint, Family
from warpgate.proto.stun import (
    Attribute,
    AttributeValue,
    ChangeRequest,
    ErrorCode,
    FamilyError,
    Integrity,
    Method,
    PasswordAlgorithm,
    StreamDecoder,
    StunClass,
    StunMessage,
    decode,
    encode,
    is_stun,
    verify,
)

TID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
V4 = Endpoint.of("192.0.2.1", 32853)
V6 = Endpoint.of("2001:db8:1234:5678:11:2233:4455:6677", 32853)
KEY = b"k" * 32

# RFC 5769 section 2: password of all four samples, and samples 2.1, 2.2 and 2.3.
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
HEADER = "2112a442b7e7a701bc34d686fa87dfae"
REQUEST = bytes.fromhex(
    f"00010058{HEADER}802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
RESPONSE_V4 = bytes.fromhex(
    f"0101003c{HEADER}8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_V6 = bytes.fromhex(
    f"01010048{HEADER}8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)


def binding(*attributes: tuple[int, AttributeValue], cls: StunClass = StunClass.REQUEST) -> StunMessage:
    return StunMessage(Method.BINDING, cls, TID, attributes)


def test_the_sample_request_of_rfc_5769() -> None:
    message = decode(REQUEST)
    assert message == binding(
        (Attribute.SOFTWARE, "STUN test client"),
        (Attribute.PRIORITY, 0x6E0001FF),
        (Attribute.ICE_CONTROLLED, 0x932FF9B151263B36),
        (Attribute.USERNAME, "evtj:h6vY"),
    )
    verify(REQUEST, PASSWORD, Integrity.SHA1)


@pytest.mark.parametrize(("data", "mapped"), [(RESPONSE_V4, V4), (RESPONSE_V6, V6)])
def test_the_sample_responses_of_rfc_5769(data: bytes, mapped: Endpoint) -> None:
    message = decode(data)
    assert message.cls is StunClass.SUCCESS
    assert message.mapped == mapped
    assert message.text(Attribute.SOFTWARE) == "test vector"
    verify(data, PASSWORD, Integrity.SHA1)


def test_sha256_integrity_is_the_hmac_that_rfc_8489_describes() -> None:
    # Section 14.6, computed by hand: the length counts up to and including the integrity attribute.
    message = binding((Attribute.PRIORITY, 7))
    plain = encode(message)
    covered = plain[:2] + (8 + 36).to_bytes(2, "big") + plain[4:]
    data = encode(message, key=KEY, fingerprint=True)
    assert data[len(plain) : len(plain) + 36] == b"\x00\x1c\x00\x20" + hmac.digest(KEY, covered, hashlib.sha256)
    assert decode(data) == message
    verify(data, KEY)


@pytest.mark.parametrize(
    "values",
    [
        {"SOFTWARE": "warpgate", "PRIORITY": 2**31, "ICE-CONTROLLING": 2**63, "USE-CANDIDATE": None},
        {"XOR-MAPPED-ADDRESS": ("192.0.2.1", 80), "MAPPED-ADDRESS": ("2001:db8::1", 81)},
        {"XOR-RELAYED-ADDRESS": ("2001:db8::1", 81), "LIFETIME": 600, "CHANNEL-NUMBER": 0x4001},
        {"ERROR-CODE": (438, "Stale Nonce"), "NONCE": b"abc", "REALM": "example.org"},
    ],
)
def test_what_aioice_encodes_we_decode_and_encode_alike(values: dict[str, object]) -> None:
    theirs = oracle.Message(oracle.Method.ALLOCATE, oracle.Class.ERROR, TID, dict(values))
    theirs.add_message_integrity(KEY)
    data = bytes(theirs)
    message = decode(data)
    assert (message.method, message.cls) == (Method.ALLOCATE, StunClass.ERROR)
    assert [Attribute(number).name.replace("_", "-") for number, _ in message.attributes] == list(values)
    assert encode(message, key=KEY, integrity=Integrity.SHA1, fingerprint=True) == data


EVERY_VALUE: list[tuple[Attribute, AttributeValue]] = [
    (Attribute.MAPPED_ADDRESS, V6),
    (Attribute.XOR_MAPPED_ADDRESS, V4),
    (Attribute.XOR_PEER_ADDRESS, V6),
    (Attribute.XOR_RELAYED_ADDRESS, V4),
    (Attribute.ALTERNATE_SERVER, V4),
    (Attribute.RESPONSE_ORIGIN, V4),
    (Attribute.OTHER_ADDRESS, V6),
    (Attribute.USERNAME, "j\u00f6rg"),
    (Attribute.REALM, "example.org"),
    (Attribute.NONCE, b"obMatJos2\xff"),
    (Attribute.SOFTWARE, "x"),
    (Attribute.ALTERNATE_DOMAIN, "example.org"),
    (Attribute.ERROR_CODE, ErrorCode(401, "Unauthenticated")),
    (Attribute.UNKNOWN_ATTRIBUTES, (1, 0x7FFF)),
    (Attribute.PASSWORD_ALGORITHM, PasswordAlgorithm.SHA256),
    (Attribute.PASSWORD_ALGORITHMS, (2, 1)),
    (Attribute.USERHASH, bytes(32)),
    (Attribute.CHANGE_REQUEST, ChangeRequest.IP | ChangeRequest.PORT),
    (Attribute.PADDING, bytes(5)),
    (Attribute.RESPONSE_PORT, 5),
    (Attribute.CACHE_TIMEOUT, 5),
    (Attribute.PRIORITY, 2**32 - 1),
    (Attribute.USE_CANDIDATE, True),
    (Attribute.ICE_CONTROLLED, 2**64 - 1),
    (Attribute.ICE_CONTROLLING, 0),
    (Attribute.CHANNEL_NUMBER, 0x4FFF),
    (Attribute.LIFETIME, 0),
    (Attribute.DATA, b"abc"),
    (Attribute.REQUESTED_ADDRESS_FAMILY, Family.V6),
    (Attribute.ADDITIONAL_ADDRESS_FAMILY, Family.V4),
    (Attribute.ADDRESS_ERROR_CODE, FamilyError(Family.V6, ErrorCode(440, "no"))),
    (Attribute.EVEN_PORT, True),
    (Attribute.REQUESTED_TRANSPORT, 17),
    (Attribute.DONT_FRAGMENT, True),
    (Attribute.RESERVATION_TOKEN, bytes(8)),
    (Attribute.CONNECTION_ID, 77),
    (Attribute.WG_KEY, bytes(33)),
    (Attribute.WG_NONCE, bytes(16)),
    (Attribute.WG_PLUGIN, "udp_punch"),
    (Attribute.WG_CLOSE, True),
    (Attribute.WG_SESSION, bytes(16)),
    (Attribute.WG_MODE, 1),
    (Attribute.WG_ECHO, b"e" * 16),
    (Attribute.WG_WANTED, bytes((0, 3)) + b"ssh"),
]


@pytest.mark.parametrize(("attribute", "value"), EVERY_VALUE, ids=lambda item: getattr(item, "name", ""))
def test_every_attribute_goes_there_and_back(attribute: Attribute, value: AttributeValue) -> None:
    message = decode(encode(binding((attribute, value)), key=KEY, fingerprint=True))
    assert message.get(attribute) == value
    assert attribute in message


def test_every_attribute_is_in_the_list_above() -> None:
    put_in_by_encode = {
        Attribute.MESSAGE_INTEGRITY,
        Attribute.MESSAGE_INTEGRITY_SHA256,
        Attribute.FINGERPRINT,
    }
    assert {attribute for attribute, _ in EVERY_VALUE} | put_in_by_encode == set(Attribute)


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("cls", list(StunClass))
def test_method_and_class_bits(method: Method, cls: StunClass) -> None:
    message = StunMessage(method, cls, TID)
    assert decode(encode(message)) == message


def test_typed_getters_give_none_for_what_is_not_there() -> None:
    message = binding()
    assert message.endpoint(Attribute.OTHER_ADDRESS) is None
    assert message.number(Attribute.LIFETIME) is None
    assert message.raw(Attribute.NONCE) is None
    assert message.text(Attribute.REALM) is None
    assert message.error is message.mapped is None
    assert Attribute.USE_CANDIDATE not in message


def test_the_first_of_duplicates_counts() -> None:
    data = encode(binding((Attribute.PRIORITY, 1), (Attribute.PRIORITY, 2)))
    assert decode(data).number(Attribute.PRIORITY) == 1


def test_unknown_attributes_are_kept() -> None:
    message = decode(encode(binding((0x7F00, b"abc"), (0xFF00, b""))))
    assert message.attributes == ((0x7F00, b"abc"), (0xFF00, b""))


def test_an_ipv4_endpoint_written_as_ipv6_is_an_ipv4_endpoint() -> None:
    wire = bytearray(encode(binding((Attribute.MAPPED_ADDRESS, V6))))
    wire[-16:] = bytes(10) + b"\xff\xff" + V4.ip.packed
    assert decode(bytes(wire)).mapped == V4


def test_what_follows_the_integrity_attribute_does_not_count() -> None:
    sealed = encode(binding((Attribute.PRIORITY, 1)), key=KEY)
    more = encode(binding((Attribute.USE_CANDIDATE, True)))[20:]
    forged = bytearray(sealed + more)
    forged[2:4] = (len(forged) - 20).to_bytes(2, "big")
    message = decode(bytes(forged))
    assert Attribute.USE_CANDIDATE not in message
    verify(bytes(forged), KEY)


def test_a_message_proves_only_what_it_holds() -> None:
    sealed = encode(binding((Attribute.PRIORITY, 1)), key=KEY)
    verify(sealed, KEY)
    altered = bytearray(sealed)
    altered[27] ^= 1
    for data, key, integrity in [
        (sealed, b"other", Integrity.SHA256),
        (sealed, KEY, Integrity.SHA1),
        (bytes(altered), KEY, Integrity.SHA256),
        (encode(binding()), KEY, Integrity.SHA256),
        (b"garbage", KEY, Integrity.SHA256),
    ]:
        with pytest.raises(AuthenticationError):
            verify(data, key, integrity)


def test_a_wrong_fingerprint_or_one_in_the_middle_is_refused() -> None:
    good = encode(binding((Attribute.PRIORITY, 1)), fingerprint=True)
    with pytest.raises(DecodeError, match="FINGERPRINT"):
        decode(good[:-1] + bytes([good[-1] ^ 1]))
    middle = bytearray(good + encode(binding((Attribute.PRIORITY, 1)))[20:])
    middle[2:4] = (len(middle) - 20).to_bytes(2, "big")
    with pytest.raises(DecodeError, match="last"):
        decode(bytes(middle))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (Attribute.PRIORITY, b"abc"),
        (Attribute.XOR_MAPPED_ADDRESS, b"\0\1" + bytes(18)),
        (Attribute.XOR_MAPPED_ADDRESS, b"\0\3" + bytes(6)),
        (Attribute.MAPPED_ADDRESS, b""),
        (Attribute.ERROR_CODE, b"\0\0\2\0"),
        (Attribute.ERROR_CODE, b"\0\0\4\x64"),
        (Attribute.ERROR_CODE, b"\0"),
        (Attribute.USERNAME, b"\xff"),
        (Attribute.USERNAME, bytes(509)),
        (Attribute.WG_PLUGIN, bytes(33)),
        (Attribute.WG_KEY, bytes(32)),
        (Attribute.USE_CANDIDATE, b"abcd"),
        (Attribute.UNKNOWN_ATTRIBUTES, b"abc"),
        (Attribute.PASSWORD_ALGORITHMS, b"\0\1\0"),
        (Attribute.PASSWORD_ALGORITHMS, b"\0\1\0\4"),
        (Attribute.PASSWORD_ALGORITHM, b""),
        (Attribute.REQUESTED_ADDRESS_FAMILY, b"\3\0\0\0"),
        (Attribute.MESSAGE_INTEGRITY_SHA256, bytes(16)),
    ],
)
def test_malformed_attributes_are_decode_errors(attribute: Attribute, value: bytes) -> None:
    framed = attribute.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
    with pytest.raises(DecodeError):
        decode(b"\0\1" + len(framed).to_bytes(2, "big") + REQUEST[4:20] + framed)


def test_messages_with_too_many_attributes_are_refused() -> None:
    with pytest.raises(DecodeError, match="64"):
        decode(encode(binding(*[(0xFF00, b"")] * 65)))


def test_is_stun_looks_at_bits_cookie_and_length() -> None:
    good = encode(binding((Attribute.PRIORITY, 1)))
    assert is_stun(good)
    assert is_stun(memoryview(good))
    for bad in (
        b"",
        good[:-1],
        good + bytes(4),
        b"\x40" + good[1:],
        good[:4] + b"\0" + good[5:],
        good[:2] + b"\0\1" + good[4:],
    ):
        assert not is_stun(bad)
        with pytest.raises(DecodeError):
            decode(bad)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (Attribute.PRIORITY, 2**32),
        (Attribute.PRIORITY, -1),
        (Attribute.USERNAME, "x" * 509),
        (Attribute.WG_PLUGIN, "x" * 33),
        (Attribute.WG_KEY, b""),
        (Attribute.ERROR_CODE, ErrorCode(200, "")),
        (Attribute.DATA, bytes(65536)),
    ],
)
def test_values_that_do_not_fit_are_the_callers_error(attribute: Attribute, value: AttributeValue) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(binding((attribute, value)))


def test_a_transaction_id_has_12_bytes_and_a_method_12_bits() -> None:
    with pytest.raises(ValueError, match="transaction id"):
        encode(StunMessage(Method.BINDING, StunClass.REQUEST, b"short"))
    with pytest.raises(ValueError, match="method"):
        encode(StunMessage(0x1000, StunClass.REQUEST, TID))


def test_a_stream_is_cut_into_messages_wherever_it_is_split() -> None:
    channel = b"\x40\x01\x00\x03abc\x00"
    stream = REQUEST + channel + RESPONSE_V4
    for cut in range(len(stream)):
        decoder = StreamDecoder(channel_data=True)
        frames = []
        for piece in (stream[:cut], stream[cut:]):
            decoder.feed(piece)
            while (frame := decoder.next_frame()) is not None:
                frames.append(frame)
        assert frames == [REQUEST, channel[:7], RESPONSE_V4]


def test_bytes_after_the_last_taken_message_are_left_over() -> None:
    decoder = StreamDecoder()
    decoder.feed(REQUEST + b"user bytes")
    assert decoder.next_frame() == REQUEST
    assert decoder.leftover() == b"user bytes"
    assert decoder.leftover() == b""


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x40\x01\x00\x00",
        b"\x00\x01\x00\x03",
        b"\x00\x01\x00\x00abcd",
        b"\x00\x01\x01\x00",
    ],
)
def test_a_stream_of_something_else_is_a_decode_error(data: bytes) -> None:
    decoder = StreamDecoder(limit=200)
    decoder.feed(data)
    with pytest.raises(DecodeError):
        decoder.next_frame()
