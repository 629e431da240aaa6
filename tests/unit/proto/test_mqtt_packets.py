"""Packets to and from a broker: their bytes, and what ends the link."""

from __future__ import annotations

import pytest

from warpgate.errors import ProtocolError
from warpgate.proto.mqtt import (
    LARGEST_PACKET,
    Alive,
    Connected,
    Dismissed,
    Packet,
    PacketReader,
    Published,
    Subscribed,
    connect,
    publish,
    reason_text,
    subscribe,
)

CONNACK, SUBACK = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x00"
PUBLISH, PINGRESP, DISCONNECT = b"\x30\x05\x00\x01a\x00b", b"\xd0\x00", b"\xe0\x00"


def packets(data: bytes, size: int = 1000, *, mqtt5: bool = True) -> list[Packet]:
    reader, found = PacketReader(mqtt5=mqtt5), []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        while (packet := reader.next()) is not None:
            found.append(packet)
    return found


def test_what_we_say_in_version_5() -> None:
    """Sections 3.1, 3.8 and 3.3 of MQTT 5."""
    hello = connect("wg1", None, 30, mqtt5=True)
    assert hello == b"\x10\x15\x00\x04MQTT\x05\x02\x00\x1e\x05\x27\x00\x00\x12\x00\x00\x03wg1"
    assert subscribe("a/b", mqtt5=True) == b"\x82\x09\x00\x01\x00\x00\x03a/b\x20"
    assert publish("a/b", b"data", mqtt5=True) == b"\x30\x0a\x00\x03a/b\x00data"
    assert publish("t", bytes(200), mqtt5=True)[:7] == b"\x30\xcc\x01\x00\x01t\x00"


def test_what_we_say_in_version_3() -> None:
    hello = connect("wg1", ("u", "pw"), 30, mqtt5=False)
    assert hello == b"\x10\x16\x00\x04MQTT\x04\xc2\x00\x1e\x00\x03wg1\x00\x01u\x00\x02pw"
    assert subscribe("a/b", mqtt5=False) == b"\x82\x08\x00\x01\x00\x03a/b\x00"
    assert publish("a/b", b"data", mqtt5=False) == b"\x30\x09\x00\x03a/bdata"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_a_broker_says_to_a_subscriber_is_read_in_pieces_of_any_size(size: int) -> None:
    large = b"\x30\x80\x20" + b"\x00\x01a\x00" + bytes(4092)
    stream = CONNACK + PUBLISH + SUBACK + b"\x31" + PUBLISH[1:] + PINGRESP + large + DISCONNECT
    assert packets(stream, size) == [
        Connected(0, None),
        Published(b"b", False),
        Subscribed(0),
        Published(b"b", True),
        Alive(),
        Published(bytes(4092), False),
        Dismissed(0),
    ]


def test_properties_are_passed_over_and_the_broker_s_keep_alive_is_found() -> None:
    told = b"\x22\x00\x0a\x26\x00\x01k\x00\x01v\x12\x00\x02id\x13\x00\x0f\x24\x01"
    assert packets(b"\x20" + bytes((3 + len(told), 0, 0, len(told))) + told) == [Connected(0, 15)]
    message = b"\x30\x0b\x00\x01a\x05\x26\x00\x00\x00\x00b\x00"
    assert packets(CONNACK + message)[1] == Published(b"b\x00", False)


def test_version_3_has_no_properties_and_reasons_of_its_own() -> None:
    old = packets(b"\x20\x02\x00\x05\x30\x05\x00\x01a\x00b", mqtt5=False)
    assert old == [Connected(0x87, None), Published(b"\x00b", False)]
    assert packets(b"\x20\x02\x00\x01") == [Connected(0x84, None)], "an old broker's answer to version 5"
    assert reason_text(0x87) == "not authorized"
    assert reason_text(0x83) == "reason 0x83"


@pytest.mark.parametrize(
    "packet",
    [b"\x20\x01\x00", b"\x20\x04\x00\x00\x01\x99", b"\x20\x04\x00\x00\x02\x13", b"\x20\x06\0\0\xff\xff\xff\xff"],
)
def test_malformed_answers(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        packets(packet)


@pytest.mark.parametrize(
    "packet", [b"\x30\x01\x00", b"\x30\x03\x00\x01a", b"\x90\x01\x00", b"\x90\x04\x00\x02\x00\x00"]
)
def test_malformed_packets(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        packets(CONNACK + packet)


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
    reader = PacketReader(mqtt5=True)
    reader.feed(before)
    while reader.next() is not None:
        pass
    reader.feed(packet)
    with pytest.raises(ProtocolError):
        reader.next()
