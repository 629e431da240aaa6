"""TURN's messages apart from its state: ChannelData, what requests hold, and error codes in words.

RFC 8656 (UDP relays) and RFC 6062 (TCP relays). The STUN parts are in `proto/stun.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import PROTOCOL_NUMBERS, Endpoint, Family, Transport
from warpgate.model.text import printable
from warpgate.proto.stun import Attribute, Attributes, AttributeValue, ErrorCode, Method, StunClass, StunMessage, encode

# RFC 8656 section 12: channel numbers are 0x4000 to 0x4FFF.
FIRST_CHANNEL = 0x4000
LAST_CHANNEL = 0x4FFF

# RFC 8656 section 19, RFC 6062 section 6.3, RFC 8489 section 14.8: for people.
_MEANINGS: Mapping[int, str] = MappingProxyType({
    300: "sends us to another server",
    400: "did not understand us",
    401: "does not accept the user name or password",
    403: "forbids that peer or this use",
    420: "does not know something it must know to do this",
    437: "already knows this connection, or not any more (allocation mismatch)",
    438: "keeps changing its nonce",
    440: "has no address of that family",
    441: "was asked with other credentials than the allocation was made with",
    442: "does not relay that transport",
    443: "cannot reach that peer's address family from this relay",
    446: "already has a connection to that peer",
    447: "could not connect to that peer",
    486: "has reached this user's number of allocations",
    500: "had an error of its own",
    508: "has no relay port left",
})  # fmt: skip


def explain(error: ErrorCode) -> str:
    """A sentence's second half: `the server ...`."""
    reason = printable(error.reason, 80)
    meaning = _MEANINGS.get(error.code, "refused")
    return f"{meaning} (error {error.code}{': ' + reason if reason else ''})"


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """What to allocate: `transport` is spoken with the peers.

    `families`: one, or IPv4 and IPv6 together, for which an extra address is asked in the same request (RFC 8656
    section 7.1); RFC 6062 section 4.1 knows no such pair for TCP.
    """

    transport: Transport = Transport.UDP
    families: frozenset[Family] = frozenset({Family.V4})

    @property
    def attributes(self) -> Attributes:
        found: list[tuple[int, AttributeValue]] = [(Attribute.REQUESTED_TRANSPORT, PROTOCOL_NUMBERS[self.transport])]
        if self.families == {Family.V6}:
            found.append((Attribute.REQUESTED_ADDRESS_FAMILY, Family.V6))
        elif Family.V6 in self.families:
            found.append((Attribute.ADDITIONAL_ADDRESS_FAMILY, Family.V6))
        return tuple(found)


def pack_channel_data(channel: int, data: bytes, *, padded: bool) -> bytes:
    """RFC 8656 section 12.4; padded to a multiple of four on streams (section 12.5). ValueError beyond 65,535 bytes."""
    if len(data) > 0xFFFF:
        raise ValueError(f"{len(data)} bytes do not fit a ChannelData message")
    head = channel.to_bytes(2, "big") + len(data).to_bytes(2, "big")
    return head + data + bytes(-len(data) % 4 if padded else 0)


def unpack_channel_data(frame: bytes) -> tuple[int, bytes]:
    """(channel, data), padding left out; raises DecodeError."""
    if len(frame) < 4 or not FIRST_CHANNEL <= (channel := frame[0] << 8 | frame[1]) <= LAST_CHANNEL:
        raise DecodeError(f"{len(frame)} bytes that are no ChannelData message")
    size = frame[2] << 8 | frame[3]
    if size > len(frame) - 4:
        raise DecodeError(f"a ChannelData message announces {size} bytes and has {len(frame) - 4}")
    return channel, frame[4 : 4 + size]


def pack_send(transaction_id: bytes, peer: Endpoint, data: bytes) -> bytes:
    """A Send indication (RFC 8656 section 11.1); ValueError when it does not fit."""
    attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
    return encode(StunMessage(Method.SEND, StunClass.INDICATION, transaction_id, attributes))


def pack_keepalive(transaction_id: bytes) -> bytes:
    """A Binding indication: no answer, but the NATs on the way see traffic (RFC 8489 section 2)."""
    return encode(StunMessage(Method.BINDING, StunClass.INDICATION, transaction_id))
