"""STUN attributes: one table of number, RFC name, pack and unpack. `proto.stun` puts them into messages.

Values: Endpoint for addresses, int, bytes, str, True for attributes that are only there or not, and the small
dataclasses below. Unpacking raises DecodeError and nothing else; packing a value that does not fit is the
caller's bug and raises ValueError.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, IPAddress
from warpgate.model.text import MAX_PLUGIN_NAME, printable

MAGIC_COOKIE = 0x2112A442  # RFC 8489 section 5
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
# RFC 8489 sections 14.8 to 14.14: REALM, SOFTWARE and reason phrases have fewer than 128 characters, "which
# can be as long as [...] 763 bytes when decoding"; section 14.3: USERNAME has fewer than 509 bytes.
_MAX_TEXT = 763
_MAX_USERNAME = 508


class Attribute(enum.IntEnum):
    """IANA's "STUN Attributes" registry; names as in the RFCs. From 0x8000 on: comprehension-optional."""

    # RFC 8489
    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_DOMAIN = 0x8003
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    # RFC 5780 (NAT behaviour discovery)
    CHANGE_REQUEST = 0x0003
    PADDING = 0x0026
    RESPONSE_PORT = 0x0027
    CACHE_TIMEOUT = 0x8027
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C
    # RFC 8445 (ICE)
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A
    # RFC 8656 (TURN)
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    RESERVATION_TOKEN = 0x0022
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    # RFC 6062 (TURN over TCP)
    CONNECTION_ID = 0x002A
    # warpgate's own: comprehension-optional, so that a foreign agent passes over them
    WG_KEY = 0xC0D1
    WG_NONCE = 0xC0D2
    WG_PLUGIN = 0xC0D3
    WG_CLOSE = 0xC0D4
    WG_SESSION = 0xC0D5
    WG_MODE = 0xC0D6
    WG_ECHO = 0xC0D7
    WG_WANTED = 0xC0D8


class ChangeRequest(enum.IntFlag):
    """RFC 5780 section 7.2: what the server is asked to change in the source of its answer."""

    NOTHING = 0
    PORT = 0x2
    IP = 0x4


class PasswordAlgorithm(enum.IntEnum):
    """RFC 8489 section 18.5; numbers not listed stay plain ints."""

    MD5 = 1
    SHA256 = 2


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """RFC 8489 section 14.8: `code` is 300..699."""

    code: int
    reason: str = ""  # as it came: `str` makes it printable

    def __str__(self) -> str:
        return f"{self.code} {printable(self.reason)}".rstrip()


@dataclass(frozen=True, slots=True)
class FamilyError:
    """RFC 8656 section 18.12: why one address family of a dual allocation was refused."""

    family: Family
    error: ErrorCode


# What it is depends on the attribute (see TABLE); `StunMessage`'s typed getters tell it to the type checker.
AttributeValue = Any
Attributes = tuple[tuple[int, AttributeValue], ...]
Pack = Callable[[Any, bytes], bytes]  # (value, transaction id)
Unpack = Callable[[bytes, bytes], AttributeValue]  # (data, transaction id)


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise DecodeError(f"a STUN attribute has {len(data)} bytes instead of {size}")
    return data


def _fixed(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ValueError(f"{len(value)} bytes for a STUN attribute of {size}")
    return bytes(value)


def _xor(ip: bytes, transaction_id: bytes) -> bytes:
    # RFC 8489 section 14.2: IPv4 with the cookie, IPv6 with cookie || transaction id.
    mask = (_COOKIE + transaction_id)[: len(ip)]
    return (int.from_bytes(ip, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(ip), "big")


def _pack_endpoint(value: Endpoint, _tid: bytes) -> bytes:
    family = 1 if value.ip.version == 4 else 2
    return bytes((0, family)) + value.port.to_bytes(2, "big") + value.ip.packed


def _unpack_endpoint(data: bytes, _tid: bytes) -> Endpoint:
    ip: IPAddress
    if len(data) == 8 and data[1] == 1:
        ip = IPv4Address(data[4:])
    elif len(data) == 20 and data[1] == 2:
        ip = IPv6Address(data[4:])
        # Dual-stack servers report ::ffff:192.0.2.1; it is an IPv4 endpoint, here as everywhere.
        ip = ip.ipv4_mapped or ip
    else:
        raise DecodeError(f"a STUN address attribute of {len(data)} bytes fits no family")
    return Endpoint(ip, int.from_bytes(data[2:4], "big"))


def _pack_xor_endpoint(value: Endpoint, tid: bytes) -> bytes:
    plain = _pack_endpoint(value, tid)
    port = value.port ^ (MAGIC_COOKIE >> 16)
    return plain[:2] + port.to_bytes(2, "big") + _xor(plain[4:], tid)


def _unpack_xor_endpoint(data: bytes, tid: bytes) -> Endpoint:
    if len(data) not in (8, 20):
        raise DecodeError(f"a STUN address attribute of {len(data)} bytes fits no family")
    port = int.from_bytes(data[2:4], "big") ^ (MAGIC_COOKIE >> 16)
    return _unpack_endpoint(data[:2] + port.to_bytes(2, "big") + _xor(data[4:], tid), tid)


def _pack_error(value: ErrorCode, _tid: bytes) -> bytes:
    if not 300 <= value.code <= 699:
        raise ValueError(f"{value.code} is not a STUN error code")
    reason = _pack_text(value.reason, _tid)
    return bytes((0, 0, value.code // 100, value.code % 100)) + reason


def _unpack_error(data: bytes, _tid: bytes) -> ErrorCode:
    if len(data) < 4:
        raise DecodeError(f"ERROR-CODE has {len(data)} bytes, at least 4 are needed")
    hundreds, rest = data[2] & 7, data[3]
    if not 3 <= hundreds <= 6 or rest > 99:
        raise DecodeError(f"ERROR-CODE holds class {hundreds} and number {rest}")
    return ErrorCode(hundreds * 100 + rest, _lenient_text(data[4:]))


def _pack_family_error(value: FamilyError, tid: bytes) -> bytes:
    return _pack_family(value.family, tid)[:1] + _pack_error(value.error, tid)[1:]


def _unpack_family_error(data: bytes, tid: bytes) -> FamilyError:
    return FamilyError(_unpack_family(data[:1] + bytes(3), tid), _unpack_error(data, tid))


def _pack_family(value: Family, _tid: bytes) -> bytes:
    return bytes((1 if value is Family.V4 else 2, 0, 0, 0))


def _unpack_family(data: bytes, _tid: bytes) -> Family:
    number = _exactly(data, 4)[0]
    if number not in (1, 2):
        raise DecodeError(f"{number} is not an address family of STUN")
    return Family.V4 if number == 1 else Family.V6


def _pack_text(value: str, _tid: bytes, limit: int = _MAX_TEXT) -> bytes:
    data = value.encode()
    if len(data) > limit:
        raise ValueError(f"{len(data)} bytes of text for a STUN attribute of at most {limit}")
    return data


def _unpack_text(data: bytes, _tid: bytes, limit: int = _MAX_TEXT) -> str:
    if len(data) > limit:
        raise DecodeError(f"a STUN text attribute has {len(data)} bytes, more than {limit}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"a STUN text attribute is not UTF-8: {error}") from None


def _lenient_text(data: bytes) -> str:
    # For people only (reasons, SOFTWARE): one odd character must not cost us the message.
    return data[:_MAX_TEXT].decode(errors="replace")


def _unpack_change(data: bytes, _tid: bytes) -> ChangeRequest:
    both = ChangeRequest.IP | ChangeRequest.PORT
    return ChangeRequest(int.from_bytes(_exactly(data, 4), "big") & both)


def _pack_numbers(value: tuple[int, ...], _tid: bytes) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in value)


def _unpack_numbers(data: bytes, _tid: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise DecodeError(f"a list of 16-bit numbers has {len(data)} bytes")
    return tuple(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))


def _pack_algorithms(value: tuple[int, ...], _tid: bytes) -> bytes:
    # RFC 8489 section 14.11; none of the registered algorithms has parameters.
    return b"".join(number.to_bytes(2, "big") + bytes(2) for number in value)


def _unpack_algorithms(data: bytes, _tid: bytes) -> tuple[int, ...]:
    numbers: list[int] = []
    offset = 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise DecodeError("a password algorithm is cut short")
        numbers.append(int.from_bytes(data[offset : offset + 2], "big"))
        size = int.from_bytes(data[offset + 2 : offset + 4], "big")
        offset += 4 + size + -size % 4
    if offset != len(data):
        raise DecodeError("a password algorithm's parameters are cut short")
    return tuple(numbers)


def _unpack_algorithm(data: bytes, tid: bytes) -> int:
    numbers = _unpack_algorithms(data, tid)
    if len(numbers) != 1:
        raise DecodeError(f"PASSWORD-ALGORITHM names {len(numbers)} algorithms")
    return numbers[0]


def _uint(size: int, reserved: int = 0) -> tuple[Pack, Unpack]:
    """An unsigned number of `size` bytes and `reserved` ones that are sent as zero and not looked at."""

    def pack(value: int, _tid: bytes) -> bytes:
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"{value} does not fit in {size} bytes")
        return int(value).to_bytes(size, "big") + bytes(reserved)

    return pack, lambda data, _tid: int.from_bytes(_exactly(data, size + reserved)[:size], "big")


def _raw(size: int) -> tuple[Pack, Unpack]:
    return (lambda value, _tid: _fixed(value, size)), (lambda data, _tid: _exactly(data, size))


_ENDPOINT: tuple[Pack, Unpack] = (_pack_endpoint, _unpack_endpoint)
_XOR_ENDPOINT: tuple[Pack, Unpack] = (_pack_xor_endpoint, _unpack_xor_endpoint)
_TEXT: tuple[Pack, Unpack] = (_pack_text, _unpack_text)
_USERNAME: tuple[Pack, Unpack] = (
    partial(_pack_text, limit=_MAX_USERNAME),
    partial(_unpack_text, limit=_MAX_USERNAME),
)
_PLUGIN: tuple[Pack, Unpack] = (
    partial(_pack_text, limit=MAX_PLUGIN_NAME),
    partial(_unpack_text, limit=MAX_PLUGIN_NAME),
)
_FREE_TEXT: tuple[Pack, Unpack] = (_pack_text, lambda data, _tid: _lenient_text(data))
_BYTES: tuple[Pack, Unpack] = ((lambda value, _tid: bytes(value)), (lambda data, _tid: data))
_FLAG: tuple[Pack, Unpack] = ((lambda _value, _tid: b""), (lambda data, _tid: _exactly(data, 0) == b""))
_FAMILY: tuple[Pack, Unpack] = (_pack_family, _unpack_family)
_CHANGE: tuple[Pack, Unpack] = (_uint(4)[0], _unpack_change)
_EVEN_PORT: tuple[Pack, Unpack] = (
    (lambda value, _tid: bytes((value << 7,))),
    (lambda data, _tid: bool(_exactly(data, 1)[0] & 0x80)),
)

TABLE: Mapping[int, tuple[Pack, Unpack]] = MappingProxyType({
    Attribute.MAPPED_ADDRESS: _ENDPOINT,
    Attribute.CHANGE_REQUEST: _CHANGE,
    Attribute.USERNAME: _USERNAME,
    Attribute.MESSAGE_INTEGRITY: _raw(20),
    Attribute.ERROR_CODE: (_pack_error, _unpack_error),
    Attribute.UNKNOWN_ATTRIBUTES: (_pack_numbers, _unpack_numbers),
    Attribute.CHANNEL_NUMBER: _uint(2, reserved=2),
    Attribute.LIFETIME: _uint(4),
    Attribute.XOR_PEER_ADDRESS: _XOR_ENDPOINT,
    Attribute.DATA: _BYTES,
    Attribute.REALM: _TEXT,
    Attribute.NONCE: _BYTES,  # echoed as it came
    Attribute.XOR_RELAYED_ADDRESS: _XOR_ENDPOINT,
    Attribute.REQUESTED_ADDRESS_FAMILY: _FAMILY,
    Attribute.EVEN_PORT: _EVEN_PORT,
    Attribute.REQUESTED_TRANSPORT: _uint(1, reserved=3),  # IANA protocol number: 17 UDP, 6 TCP
    Attribute.DONT_FRAGMENT: _FLAG,
    Attribute.MESSAGE_INTEGRITY_SHA256: _raw(32),  # section 14.6 allows cutting it only where a usage says so
    Attribute.PASSWORD_ALGORITHM: (lambda value, tid: _pack_algorithms((value,), tid), _unpack_algorithm),
    Attribute.USERHASH: _raw(32),
    Attribute.XOR_MAPPED_ADDRESS: _XOR_ENDPOINT,
    Attribute.RESERVATION_TOKEN: _raw(8),
    Attribute.PRIORITY: _uint(4),
    Attribute.USE_CANDIDATE: _FLAG,
    Attribute.PADDING: _BYTES,
    Attribute.RESPONSE_PORT: _uint(2, reserved=2),
    Attribute.CONNECTION_ID: _uint(4),
    Attribute.ADDITIONAL_ADDRESS_FAMILY: _FAMILY,
    Attribute.ADDRESS_ERROR_CODE: (_pack_family_error, _unpack_family_error),
    Attribute.PASSWORD_ALGORITHMS: (_pack_algorithms, _unpack_algorithms),
    Attribute.ALTERNATE_DOMAIN: _TEXT,
    Attribute.SOFTWARE: _FREE_TEXT,
    Attribute.ALTERNATE_SERVER: _ENDPOINT,
    Attribute.CACHE_TIMEOUT: _uint(4),
    Attribute.FINGERPRINT: _uint(4),
    Attribute.ICE_CONTROLLED: _uint(8),
    Attribute.ICE_CONTROLLING: _uint(8),
    Attribute.RESPONSE_ORIGIN: _ENDPOINT,
    Attribute.OTHER_ADDRESS: _ENDPOINT,
    Attribute.WG_KEY: _raw(33),
    Attribute.WG_NONCE: _raw(16),
    Attribute.WG_PLUGIN: _PLUGIN,
    Attribute.WG_CLOSE: _FLAG,
    Attribute.WG_SESSION: _raw(16),
    Attribute.WG_MODE: _uint(1, reserved=3),
    Attribute.WG_ECHO: _raw(16),
})  # fmt: skip


def pack(attribute: int, value: AttributeValue, transaction_id: bytes) -> bytes:
    """The attribute's value as bytes, without header and padding. Attributes not in the table take bytes."""
    packer = TABLE.get(attribute, _BYTES)[0]
    return packer(value, transaction_id)


def unpack(attribute: int, data: bytes, transaction_id: bytes) -> AttributeValue:
    """Raises DecodeError; attributes not in the table come back as bytes."""
    unpacker = TABLE.get(attribute, _BYTES)[1]
    return unpacker(data, transaction_id)
