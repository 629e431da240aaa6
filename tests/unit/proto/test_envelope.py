"""Envelopes and signals: who can open them, who can have made them, and what is too much."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import ip_address

import msgspec
import pytest

from warpgate.errors import AuthenticationError, DecodeError, ProtocolError
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.identity import Identity, hpke_seal
from warpgate.proto import envelope
from warpgate.proto.envelope import MAX_ENVELOPE, Opened, open_envelope, seal
from warpgate.proto.marks import MARK_SIZE
from warpgate.proto.signals import (
    MAX_BODY,
    MAX_MESSAGES,
    PluginMessage,
    Signal,
    SignalKind,
    decode_signal,
    encode_signal,
)

ALICE, BOB, EVE = Identity.generate(), Identity.generate(), Identity.generate()
ADDRESS = NodeAddress(ALICE.public_key, (), (Attachment(ip_address("192.0.2.7")),))
MESSAGE_ID = bytes(range(16))
OFFER = Signal(
    kind=SignalKind.OFFER,
    session=b"s" * 16,
    sequence=3,
    time=1_700_000_000.25,
    address=ADDRESS.encode(),
    messages=(PluginMessage("udp_punch", b"\x01\x02"), PluginMessage("j\u00f6rg", b"")),
    known=b"d" * 8,
    held=0.25,
    mode="stream",
    reason="",
)


def changed(**fields: object) -> Signal:
    return msgspec.structs.replace(OFFER, **fields)


def test_the_receiver_gets_signal_sender_id_and_address() -> None:
    data = seal(ALICE, BOB.public_key, OFFER, MESSAGE_ID)
    assert open_envelope(BOB, data) == Opened(ALICE.public_key, MESSAGE_ID, OFFER, ADDRESS)
    assert ALICE.public_key not in data


def test_nobody_else_opens_it_and_a_changed_byte_is_noticed() -> None:
    data = seal(ALICE, BOB.public_key, OFFER, MESSAGE_ID)
    with pytest.raises(AuthenticationError):
        open_envelope(EVE, data)
    for index in range(MARK_SIZE, len(data), 7):
        with pytest.raises(AuthenticationError):
            open_envelope(BOB, data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :])


def test_a_receiver_cannot_pass_an_envelope_on_as_if_sent_to_another() -> None:
    sealed = seal(ALICE, EVE.public_key, OFFER, MESSAGE_ID)[MARK_SIZE:]
    content = EVE.hpke_open(sealed, b"warpgate/2 envelope")
    with pytest.raises(AuthenticationError):
        open_envelope(BOB, bytes(MARK_SIZE) + hpke_seal(BOB.public_key, content, b"warpgate/2 envelope"))


def test_nobody_speaks_for_another() -> None:
    # Eve signs properly, but the address inside is Alice's.
    with pytest.raises(AuthenticationError, match="not its sender's"):
        open_envelope(BOB, seal(EVE, BOB.public_key, OFFER, MESSAGE_ID))


@pytest.mark.parametrize("content", [b"", bytes(112), bytes(113), b"\x02" * 200])
def test_sealed_nonsense_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        open_envelope(BOB, bytes(MARK_SIZE) + hpke_seal(BOB.public_key, content, b"warpgate/2 envelope"))


@pytest.mark.parametrize("packed", [b"", b"\xc1", encode_signal(changed(address=b"\x01nonsense"))])
def test_well_signed_nonsense_is_a_decode_error(packed: bytes) -> None:
    body = MESSAGE_ID + packed
    signed = b"warpgate/2 signal" + ALICE.public_key + BOB.public_key + body
    content = ALICE.public_key + ALICE.sign(signed) + body
    with pytest.raises(DecodeError):
        open_envelope(BOB, bytes(MARK_SIZE) + hpke_seal(BOB.public_key, content, b"warpgate/2 envelope"))


def test_size_is_bounded_both_ways() -> None:
    big = tuple(PluginMessage(f"p{index}", bytes(MAX_BODY)) for index in range(4))
    with pytest.raises(ProtocolError, match="4096"):
        seal(ALICE, BOB.public_key, changed(messages=big), MESSAGE_ID)
    fits = seal(ALICE, BOB.public_key, changed(messages=big[:3]), MESSAGE_ID)
    assert len(fits) <= MAX_ENVELOPE
    with pytest.raises(DecodeError):
        open_envelope(BOB, bytes(MAX_ENVELOPE + 1))
    with pytest.raises(DecodeError):
        open_envelope(BOB, bytes(80))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": 6},
        {"token": bytes(33)},
        {"session": bytes(15)},
        {"sequence": -1},
        {"sequence": 2**32},
        {"time": -1.0},
        {"time": float("nan")},
        {"time": float("inf")},
        {"held": -2.0},
        {"held": float("nan")},
        {"address": b""},
        {"address": bytes(1025)},
        {"known": bytes(9)},
        {"known": bytes(3)},
        {"mode": "x" * 17},
        {"reason": "x" * 201},
        {"messages": (PluginMessage("x", b""),) * (MAX_MESSAGES + 1)},
    ],
)
def test_fields_out_of_bounds_are_refused_by_both_sides(fields: dict[str, object]) -> None:
    values = [fields.get(name, getattr(OFFER, name)) for name in OFFER.__struct_fields__]
    with pytest.raises(DecodeError):
        decode_signal(msgspec.msgpack.encode(values))


@pytest.mark.parametrize(("name", "body"), [("", b""), ("x" * 33, b""), ("\u00f6" * 17, b""), ("x", bytes(1025))])
def test_plugin_messages_are_bounded_too(name: str, body: bytes) -> None:
    values = [getattr(OFFER, field) for field in OFFER.__struct_fields__]
    values[5] = [[name, body]]
    with pytest.raises(DecodeError):
        decode_signal(msgspec.msgpack.encode(values))


def test_a_signal_that_peers_would_refuse_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=r"\$\[1\]"):
        seal(ALICE, BOB.public_key, changed(session=b""), MESSAGE_ID)
    with pytest.raises(AuthenticationError):
        seal(ALICE, bytes(33), OFFER, MESSAGE_ID)
    with pytest.raises(ValueError, match="message id"):
        seal(ALICE, BOB.public_key, OFFER, b"")


def test_fields_of_later_versions_pass_and_deep_ones_do_no_harm() -> None:
    values = [getattr(OFFER, field) for field in OFFER.__struct_fields__]
    assert decode_signal(msgspec.msgpack.encode([*values, "new"])) == OFFER
    packed = bytearray(msgspec.msgpack.encode([*values, 0])[:-1])
    with contextlib.suppress(DecodeError):  # Python before 3.12 nests less deeply
        assert decode_signal(bytes(packed) + b"\x91" * 3000 + b"\x90") == OFFER


def test_text_that_is_not_utf8_is_a_decode_error() -> None:
    packed = encode_signal(OFFER)
    assert b"stream" in packed
    with pytest.raises(DecodeError):
        decode_signal(packed.replace(b"stream", b"str\xff\xffm"))


def test_the_address_needs_no_second_decoding() -> None:
    opened = open_envelope(BOB, seal(ALICE, BOB.public_key, OFFER, MESSAGE_ID))
    assert opened.address == ADDRESS
    assert replace(opened, sender=b"") != opened
    assert envelope.MAX_ENVELOPE == 4096
