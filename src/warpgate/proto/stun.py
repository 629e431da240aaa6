"""STUN messages (RFC 8489): encode, decode, integrity, and finding messages in a TCP stream.

Pure functions over bytes; transaction ids and keys are passed in. `decode` checks all that needs no key, the
FINGERPRINT included; `verify` checks the integrity attribute of the same bytes.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import hmac
from binascii import crc32
from collections.abc import Iterator, Set

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.proto.stun_attributes import (
    MAGIC_COOKIE,
    Attribute,
    Attributes,
    AttributeValue,
    ChangeRequest,
    ErrorCode,
    FamilyError,
    PasswordAlgorithm,
    pack,
    unpack,
)

__all__ = [
    "BINDING",
    "Attribute",
    "AttributeValue",
    "Attributes",
    "ChangeRequest",
    "ErrorCode",
    "FamilyError",
    "Integrity",
    "Method",
    "PasswordAlgorithm",
    "StreamDecoder",
    "StunClass",
    "StunMessage",
    "decode",
    "encode",
    "integrity_of",
    "is_stun",
    "raw_values",
    "verify",
]

HEADER_SIZE = 20
TRANSACTION_ID_SIZE = 12
COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
_COMPREHENSION_OPTIONAL = 0x8000  # from here on (section 14)
_FINGERPRINT_XOR = 0x5354554E  # RFC 8489 section 14.7: "STUN"
# The longest real message (a TURN answer) has about 15; 64 KiB of empty ones would take 10 ms to decode.
_MAX_ATTRIBUTES = 64
_NAMES = {attribute.value: attribute for attribute in Attribute}
_FINGERPRINT = Attribute.FINGERPRINT.value
_INTEGRITY_NUMBERS = (Attribute.MESSAGE_INTEGRITY.value, Attribute.MESSAGE_INTEGRITY_SHA256.value)


class StunClass(enum.IntEnum):
    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Method(enum.IntEnum):
    """RFC 8489, RFC 8656 (TURN) and RFC 6062 (TURN over TCP)."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009
    CONNECT = 0x00A
    CONNECTION_BIND = 0x00B
    CONNECTION_ATTEMPT = 0x00C


BINDING = Method.BINDING


class Integrity(enum.Enum):
    """Which of the two integrity attributes (RFC 8489 sections 14.5 and 14.6)."""

    SHA1 = Attribute.MESSAGE_INTEGRITY
    SHA256 = Attribute.MESSAGE_INTEGRITY_SHA256

    def mac(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, hashlib.sha256 if self is Integrity.SHA256 else hashlib.sha1)

    @property
    def size(self) -> int:
        return 32 if self is Integrity.SHA256 else 20


@dataclass(frozen=True, slots=True)
class StunMessage:
    """One message. `transaction_id` has 12 bytes; unknown attributes are (number, bytes).

    Integrity and FINGERPRINT are put in by `encode` and taken out by `decode`: they are not listed here.
    """

    method: int
    cls: StunClass
    transaction_id: bytes
    attributes: Attributes = ()

    def get(self, attribute: int) -> AttributeValue | None:
        """The first one counts (RFC 8489 section 14: later duplicates are ignored)."""
        for number, value in self.attributes:
            if number == attribute:
                return value
        return None

    def __contains__(self, attribute: int) -> bool:
        return self.get(attribute) is not None

    def unknown(self, understood: Set[int]) -> tuple[int, ...]:
        """Comprehension-required attributes that are none of these, each once (RFC 8489 section 6.3.1)."""
        numbers = dict.fromkeys(number for number, _ in self.attributes)
        return tuple(number for number in numbers if number < _COMPREHENSION_OPTIONAL and number not in understood)

    def endpoint(self, attribute: int) -> Endpoint | None:
        value = self.get(attribute)
        return value if isinstance(value, Endpoint) else None

    def number(self, attribute: int) -> int | None:
        value = self.get(attribute)
        return value if isinstance(value, int) else None

    def raw(self, attribute: int) -> bytes | None:
        value = self.get(attribute)
        return value if isinstance(value, bytes) else None

    def text(self, attribute: int) -> str | None:
        value = self.get(attribute)
        return value if isinstance(value, str) else None

    @property
    def error(self) -> ErrorCode | None:
        value = self.get(Attribute.ERROR_CODE)
        return value if isinstance(value, ErrorCode) else None

    @property
    def mapped(self) -> Endpoint | None:
        """The reflexive endpoint: XOR-MAPPED-ADDRESS, from ancient servers MAPPED-ADDRESS."""
        return self.endpoint(Attribute.XOR_MAPPED_ADDRESS) or self.endpoint(Attribute.MAPPED_ADDRESS)


def is_stun(data: bytes | bytearray | memoryview) -> bool:
    """Whether these bytes can be one STUN message (first bits, cookie, length). Cheap; proves nothing."""
    size = len(data)
    return (
        size >= HEADER_SIZE
        and data[0] < 0x40
        and size % 4 == 0
        and data[4:8] == COOKIE
        and (data[2] << 8 | data[3]) == size - HEADER_SIZE
    )


def encode(
    message: StunMessage,
    *,
    key: bytes | None = None,
    integrity: Integrity = Integrity.SHA256,
    fingerprint: bool = False,
) -> bytes:
    """The message's bytes, with an integrity attribute if a key is given; ValueError when it does not fit."""
    tid = message.transaction_id
    if len(tid) != TRANSACTION_ID_SIZE:
        raise ValueError(f"a transaction id has {TRANSACTION_ID_SIZE} bytes, this one {len(tid)}")
    out = bytearray(_type(message.method, message.cls).to_bytes(2, "big") + bytes(2) + COOKIE + tid)
    for attribute, value in message.attributes:
        try:
            out += _framed(attribute, pack(attribute, value, tid))
        except OverflowError as error:
            raise ValueError(f"attribute {attribute:#06x}: {error}") from None
    if key is not None:
        _set_length(out, integrity.size + 4)
        out += _framed(integrity.value, integrity.mac(key, bytes(out)))
    if fingerprint:
        _set_length(out, 8)
        out += _framed(Attribute.FINGERPRINT, (crc32(out) ^ _FINGERPRINT_XOR).to_bytes(4, "big"))
    _set_length(out, 0)
    return bytes(out)


def decode(data: bytes) -> StunMessage:
    """Raises DecodeError. What follows an integrity attribute is left out (sections 14.5 and 14.6)."""
    if not is_stun(data):
        raise DecodeError(f"{len(data)} bytes that are not a STUN message")
    kind = data[0] << 8 | data[1]
    cls = StunClass((kind >> 7 & 2) | (kind >> 4 & 1))
    method = (kind & 0x3E00) >> 2 | (kind & 0x00E0) >> 1 | kind & 0x000F
    tid = bytes(data[8:HEADER_SIZE])
    attributes: list[tuple[int, AttributeValue]] = []
    sealed = False
    for number, offset, value in _walk(data):
        if number == _FINGERPRINT:
            _check_fingerprint(data, offset, value)
        elif number in _INTEGRITY_NUMBERS:
            unpack(number, value, tid)  # for its size
            sealed = True
        elif not sealed:
            attributes.append((_NAMES.get(number, number), unpack(number, value, tid)))
    return StunMessage(method, cls, tid, tuple(attributes))


def verify(data: bytes, key: bytes, integrity: Integrity = Integrity.SHA256) -> None:
    """Raises AuthenticationError unless the message holds that integrity attribute and it fits the key.

    `data` is what `decode` accepted.
    """
    try:
        if not is_stun(data):
            raise DecodeError("not a STUN message")
        wanted = integrity.value.value
        found = next((item for item in _walk(data) if item[0] == wanted), None)
    except DecodeError as error:
        raise AuthenticationError(f"the message proves nothing: {error}") from None
    if found is None:
        raise AuthenticationError(f"the message has no {integrity.value.name}")
    _, offset, mac = found
    # Section 14.5: the length field in the hashed text points to the end of the integrity attribute.
    covered = bytearray(data[:offset])
    _set_length(covered, integrity.size + 4)
    if not hmac.compare_digest(mac, integrity.mac(key, bytes(covered))):
        raise AuthenticationError(f"{integrity.value.name} does not fit the key")


def raw_values(data: bytes) -> dict[int, bytes] | None:
    """The attributes before the integrity attribute, each kind's first, as they came; None when this is no message.

    A quarter of the price of `decode`, for what has proved nothing yet; it checks the frame alone.
    """
    values: dict[int, bytes] = {}
    if not is_stun(data):
        return None
    with contextlib.suppress(DecodeError):
        for number, _, value in _walk(data):
            if number in _INTEGRITY_NUMBERS:
                break
            values.setdefault(number, value)
        return values
    return None


def integrity_of(data: bytes) -> Integrity | None:
    """Which integrity attribute the message holds, the stronger one of two; None for one that is not signed."""
    with contextlib.suppress(DecodeError):
        found = {attribute for attribute, _, _ in _walk(data)}
        return next((each for each in (Integrity.SHA256, Integrity.SHA1) if each.value in found), None)
    return None


def _type(method: int, cls: StunClass) -> int:
    # RFC 8489 figure 3: the two class bits sit inside the method's twelve.
    if not 0 <= method <= 0xFFF:
        raise ValueError(f"{method} is not a STUN method")
    spread = (method & 0xF80) << 2 | (method & 0x070) << 1 | method & 0x00F
    return spread | (cls & 2) << 7 | (cls & 1) << 4


def _framed(attribute: int, value: bytes) -> bytes:
    return attribute.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def _set_length(out: bytearray, more: int) -> None:
    length = len(out) - HEADER_SIZE + more
    if length > 0xFFFF:
        raise ValueError(f"a STUN message of {length} bytes does not fit its length field")
    out[2:4] = length.to_bytes(2, "big")


def _walk(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(attribute, offset of its header, value) of a message that passed `is_stun`; DecodeError where it goes wrong."""
    found, offset, total = 0, HEADER_SIZE, len(data)
    while offset < total:
        attribute = data[offset] << 8 | data[offset + 1]
        size = data[offset + 2] << 8 | data[offset + 3]
        start, end = offset + 4, offset + 4 + size
        if end > total:
            raise DecodeError(f"STUN attribute {attribute:#06x} of {size} bytes runs past the message's end")
        found += 1
        if found > _MAX_ATTRIBUTES:
            raise DecodeError(f"a STUN message with more than {_MAX_ATTRIBUTES} attributes")
        yield attribute, offset, bytes(data[start:end])
        offset = end + -size % 4


def _check_fingerprint(data: bytes, offset: int, value: bytes) -> None:
    if len(value) != 4 or offset + 8 != len(data):
        raise DecodeError("FINGERPRINT is not the last attribute")
    if crc32(data[:offset]) ^ _FINGERPRINT_XOR != int.from_bytes(value, "big"):
        raise DecodeError("FINGERPRINT does not fit the message")


class StreamDecoder:
    """Cuts a TCP or TLS byte stream into STUN messages (RFC 8489 section 6.2.2) and, for TURN, ChannelData.

    `feed` bytes, then take `next_frame` until it returns None. A frame is one STUN message (for `decode`) or
    one ChannelData message without its padding. `leftover` is what was fed and not taken: after a
    ConnectionBind answer (RFC 6062 section 4.4) these are the peer's bytes.
    """

    __slots__ = ("_buffer", "_channel_data", "_limit")

    def __init__(self, *, channel_data: bool = False, limit: int = HEADER_SIZE + 0xFFFF) -> None:
        self._buffer = bytearray()
        self._channel_data = channel_data
        self._limit = limit

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """Raises DecodeError when the next bytes start no frame or one over the limit: all is lost then."""
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        length = buffer[2] << 8 | buffer[3]
        if buffer[0] < 0x40:
            size = padded = HEADER_SIZE + length
            if length % 4 or (len(buffer) >= 8 and buffer[4:8] != COOKIE):
                raise DecodeError("the stream holds bytes that are not STUN")
        elif self._channel_data and buffer[0] < 0x50:
            # RFC 8656 section 12.5: padded to a multiple of four; the length field does not count that.
            size = 4 + length
            padded = size + -size % 4
        else:
            raise DecodeError(f"the stream holds a byte {buffer[0]:#04x} where a message must start")
        if size > self._limit:
            raise DecodeError(f"the stream announces a message of {size} bytes, more than {self._limit}")
        if len(buffer) < padded:
            return None
        frame = bytes(buffer[:size])
        del buffer[:padded]
        return frame

    def leftover(self) -> bytes:
        """Everything not taken yet; the decoder is empty afterwards."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
