"""Packets of a broker: what is let through to the client library, and what ends the link."""

from __future__ import annotations

import pytest

from warpgate.errors import ProtocolError
from warpgate.proto.mqtt_framing import LARGEST_PACKET, Framing

CONNACK, SUBACK = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x00"
PUBLISH, PINGRESP, DISCONNECT = b"\x30\x05\x00\x01ab\x00", b"\xd0\x00", b"\xe0\x00"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_a_broker_says_to_a_subscriber_passes_in_pieces_of_any_size(size: int) -> None:
    framing = Framing()
    stream = CONNACK + PUBLISH + SUBACK + PUBLISH * 3 + PINGRESP + b"\x30\x80\x20" + bytes(4096) + DISCONNECT
    for start in range(0, len(stream), size):
        framing.feed(stream[start : start + size])


@pytest.mark.parametrize(
    ("before", "packet"),
    [
        (b"", SUBACK),
        (b"", PUBLISH),
        (b"", PINGRESP),
        (CONNACK, CONNACK),
        (CONNACK + SUBACK, SUBACK),
        *((CONNACK + SUBACK, bytes((kind << 4, 2))) for kind in (0, 1, 4, 5, 6, 7, 8, 10, 11, 12, 15)),
        (CONNACK + SUBACK, b"\x32\x06"),
        (CONNACK + SUBACK, b"\x34\x06"),
        (CONNACK + SUBACK, b"\x36\x06"),
        (CONNACK, b"\x30" + bytes((0x80 | (LARGEST_PACKET + 1) & 0x7F, (LARGEST_PACKET + 1) >> 7))),
        (CONNACK, b"\x30\x80\x80\x80\x80"),
        (CONNACK, b"\x30\xff\xff\xff\x7f"),
    ],
)
def test_what_is_out_of_place_is_refused_by_its_header(before: bytes, packet: bytes) -> None:
    framing = Framing()
    framing.feed(before)
    with pytest.raises(ProtocolError):
        framing.feed(packet)
