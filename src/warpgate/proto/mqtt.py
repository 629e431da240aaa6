"""MQTT 5 and 3.1.1, as far as a client needs them that subscribes once and publishes, both at QoS 0.

So nothing is to be acknowledged, every packet that belongs to an acknowledged delivery is out of place, and a broker
can make us keep no state. Sections are those of MQTT 5; version 3.1.1 has the same packets without properties.
"""

from __future__ import annotations

import struct

from warpgate.errors import ProtocolError
from warpgate.lazy_dataclass import dataclass

# An envelope has at most 4 KiB; the topic and the packet's head come on top.
LARGEST_PACKET = 4096 + 512

CONNACK, PUBLISH, SUBACK, PINGRESP, DISCONNECT = 2, 3, 9, 13, 14
PING, LEAVING = b"\xc0\x00", b"\xe0\x00"
_CONNECT_HEAD, _SUBSCRIBE_HEAD, _PUBLISH_HEAD = 0x10, 0x82, 0x30
_QOS, _RETAIN = 0x06, 0x01  # of a PUBLISH's first byte
_LENGTH_BYTES = 4
_CLEAN_START, _WITH_LOGIN = 0x02, 0xC0
_MAXIMUM_PACKET_SIZE, _SERVER_KEEP_ALIVE = 0x27, 0x13
_NO_RETAINED = 0x20  # section 3.8.3.1: "Do not send retained messages at the time of the subscribe"
_SUBSCRIPTION = 1  # the packet identifier of the only one

FAILURE = 0x80  # section 2.4: reasons from here on are errors
UNSUPPORTED_VERSION = 0x84
# Reasons of CONNACK in version 3.1.1 (its section 3.2.2.3), in numbers of version 5.
_OLD_REASONS = {1: UNSUPPORTED_VERSION, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
_REASONS = {
    0x00: "normal disconnection",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
}
# Properties of a CONNACK (section 3.2.2.3) that are not text, by the size of their values.
_SIZES = {0x11: 4, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
_TEXTS = {0x12: 1, 0x15: 1, 0x16: 1, 0x1A: 1, 0x1C: 1, 0x1F: 1, 0x26: 2}  # so many each


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker's answer to `connect`; `keep_alive`: the seconds that it wants in place of ours."""

    reason: int
    keep_alive: int | None


@dataclass(frozen=True, slots=True)
class Subscribed:
    reason: int


@dataclass(frozen=True, slots=True)
class Published:
    """A message on the topic that was subscribed to. `retained`: it was kept since somebody said so."""

    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Alive:
    """The answer to `PING`."""


@dataclass(frozen=True, slots=True)
class Dismissed:
    """The broker ends the connection."""

    reason: int


Packet = Connected | Subscribed | Published | Alive | Dismissed


def connect(client_id: str, login: tuple[str, str] | None, keep_alive: int, *, mqtt5: bool) -> bytes:
    """Section 3.1. `keep_alive` in seconds."""
    flags = _CLEAN_START | (_WITH_LOGIN if login else 0)
    head = _text("MQTT") + struct.pack("!BBH", 5 if mqtt5 else 4, flags, keep_alive)
    properties = struct.pack("!BBI", 5, _MAXIMUM_PACKET_SIZE, LARGEST_PACKET) if mqtt5 else b""
    return _packet(_CONNECT_HEAD, head, properties, _text(client_id), *map(_text, login or ()))


def subscribe(topic: str, *, mqtt5: bool) -> bytes:
    """Section 3.8."""
    number = _SUBSCRIPTION.to_bytes(2, "big")
    return _packet(_SUBSCRIBE_HEAD, number, b"\0" * mqtt5, _text(topic), bytes((_NO_RETAINED if mqtt5 else 0,)))


def publish(topic: str, payload: bytes, *, mqtt5: bool) -> bytes:
    """Section 3.3."""
    return _packet(_PUBLISH_HEAD, _text(topic), b"\0" * mqtt5, payload)


def reason_text(code: int) -> str:
    return _REASONS.get(code, f"reason {code:#04x}")


class PacketReader:
    """Follows the stream of one connection: `feed` it everything in order, in pieces of any size, and take `next`."""

    def __init__(self, *, mqtt5: bool) -> None:
        self.held = bytearray()
        self._mqtt5 = mqtt5
        self._expected = {CONNACK, DISCONNECT}

    def feed(self, data: bytes) -> None:
        self.held += data

    def next(self) -> Packet | None:
        """None: the next one is not complete. ProtocolError as soon as its header shows that it is not for us."""
        if not self.held:
            return None
        first = self.held[0]
        kind = first >> 4
        if kind not in self._expected:
            raise ProtocolError(f"the broker sent an MQTT packet of type {kind} out of place")
        if kind == PUBLISH and first & _QOS:
            raise ProtocolError("the broker publishes at a QoS that was not subscribed to")
        size = self._size()
        if size is None or len(self.held) < size[0] + size[1]:
            return None
        start, length = size
        body = bytes(self.held[start : start + length])
        del self.held[: start + length]
        if kind == CONNACK:
            self._expected = {SUBACK, PUBLISH, PINGRESP, DISCONNECT}
        elif kind == SUBACK:
            self._expected.discard(SUBACK)
        try:
            return self._decode(kind, first, body)
        except (IndexError, KeyError, struct.error):
            raise ProtocolError(f"the broker sent a malformed MQTT packet of type {kind}") from None

    def _size(self) -> tuple[int, int] | None:
        """Bytes of the head, and of the body (section 1.5.5); None: not known yet."""
        length = 0
        for place, byte in enumerate(self.held[1 : 1 + _LENGTH_BYTES]):
            length |= (byte & 0x7F) << (7 * place)
            if length > LARGEST_PACKET or (byte & 0x80 and place == _LENGTH_BYTES - 1):
                raise ProtocolError("the broker sent a packet that is too large")
            if not byte & 0x80:
                return 2 + place, length
        return None

    def _decode(self, kind: int, first: int, body: bytes) -> Packet:
        if kind == CONNACK:
            reason = _OLD_REASONS.get(body[1], body[1])
            return Connected(reason, _server_keep_alive(body[2:]) if self._mqtt5 else None)
        if kind == PUBLISH:
            rest = body[2 + _number(body) :]
            if self._mqtt5:
                size, start = _variable(rest)
                rest = rest[start + size :]
            return Published(rest, bool(first & _RETAIN))
        if kind == SUBACK:
            if _number(body) != _SUBSCRIPTION:
                raise ProtocolError("the broker acknowledges a subscription that was not asked for")
            return Subscribed(body[-1])
        if kind == DISCONNECT:
            return Dismissed(body[0] if body else 0)
        return Alive()


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length, rest = bytearray(), len(body)
    while True:
        rest, low = rest >> 7, rest & 0x7F
        length.append(low | 0x80 if rest else low)
        if not rest:
            return bytes((first,)) + length + body


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _number(data: bytes) -> int:
    return int(struct.unpack_from("!H", data)[0])


def _variable(data: bytes) -> tuple[int, int]:
    """A variable byte integer (section 1.5.5), and how many bytes it has."""
    value = 0
    for place in range(_LENGTH_BYTES):
        value |= (data[place] & 0x7F) << (7 * place)
        if not data[place] & 0x80:
            return value, place + 1
    raise IndexError


def _server_keep_alive(properties: bytes) -> int | None:
    """Of a CONNACK; b"" where an old broker has none."""
    if not properties:
        return None
    size, at = _variable(properties)
    end = at + size
    while at < end:
        kind = properties[at]
        at += 1
        if kind == _SERVER_KEEP_ALIVE:
            return _number(properties[at:])
        for _ in range(_TEXTS.get(kind, 0)):
            at += 2 + _number(properties[at:])
        if kind not in _TEXTS:
            at += _SIZES[kind]
    return None
