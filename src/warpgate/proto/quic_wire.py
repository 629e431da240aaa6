"""What can be told of a QUIC packet without its keys (RFC 8999, RFC 9000 section 17): whose it is, if anybody's. And
its integers.
"""

from __future__ import annotations

from warpgate.errors import DecodeError

# Of our connections (RFC 9000 section 5.1: at least 8 bytes are needed in a first packet anyway).
CONNECTION_ID_SIZE = 8
# Of the connections that durable pipes share: by this a first packet, sealed as it is, tells what it is for.
DURABLE_ID_SIZE = 9
# RFC 9000 section 14.1: a client's first packets fill their datagrams up to this size at least.
FIRST_PACKET_SIZE = 1200

_LONG = 0x80
_FIRST = 0xC0  # long header, fixed bit, type Initial: 0b1100xxxx
_HANDSHAKE = 0xE0  # type Handshake
_TYPE_MASK = 0xF0
VERSION = b"\0\0\0\1"


def connection_id_of(data: bytes) -> bytes:
    """The destination connection id of the (first) packet in a datagram, CONNECTION_ID_SIZE bytes of it at most.

    b"" or nonsense when it is no QUIC.
    """
    if not data:
        return b""
    if data[0] & _LONG:
        return data[6 : 6 + min(data[5], CONNECTION_ID_SIZE)] if len(data) > 5 else b""
    return data[1 : 1 + CONNECTION_ID_SIZE]


def first_id_of(data: bytes) -> bytes:
    """The whole destination connection id of a first packet."""
    return data[6 : 6 + data[5]]


def is_durable(data: bytes) -> bool:
    """Whether a first packet begins one of the connections that durable pipes share."""
    source = 6 + data[5]
    return data[source : source + 1] == bytes((DURABLE_ID_SIZE,))


def is_first_packet(data: bytes) -> bool:
    """Whether a datagram looks like the first of a client's: an Initial packet of version 1."""
    return len(data) >= FIRST_PACKET_SIZE and data[0] & _TYPE_MASK == _FIRST and data[1:5] == VERSION


def is_protected(data: bytes) -> bool:
    """Whether a datagram looks like one under the keys that a handshake ends with: a short header."""
    return bool(data) and not data[0] & _LONG


def is_of_handshake(data: bytes) -> bool:
    """Whether it looks like the first of a client's, or like one of those that follow until both have their keys."""
    return data[1:5] == VERSION and (data[0] & _TYPE_MASK == _HANDSHAKE or is_first_packet(data))


def encode_integer(value: int) -> bytes:
    """RFC 9000 section 16; `value` below 2^62."""
    for form, size in enumerate((1, 2, 4, 8)):
        if value < 1 << (8 * size - 2):
            return (form << (8 * size - 2) | value).to_bytes(size, "big")
    raise ValueError(f"{value} does not fit an integer of QUIC's")


def integer_at(data: bytes, at: int) -> tuple[int, int]:
    """The integer there, and where it ends. DecodeError when it is cut short."""
    size = 1 << (data[at] >> 6) if at < len(data) else 1
    if at + size > len(data):
        raise DecodeError("a QUIC frame that is cut short")
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size
