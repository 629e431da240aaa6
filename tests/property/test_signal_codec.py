"""Signals and envelopes: round trips; garbage from strangers and key holders raises the errors it may."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ALICE, BOB, fixed, mutated, only, signals, sixteen

from warpgate.errors import DecodeError, ProtocolError
from warpgate.model.identity import hpke_seal
from warpgate.proto.envelope import MAX_ENVELOPE, open_envelope, seal
from warpgate.proto.marks import MARK_SIZE
from warpgate.proto.signals import Signal, SignalKind, decode_signal, encode_signal

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@fixed
@given(signals)
def test_signals_come_back(signal: Signal) -> None:
    assert decode_signal(encode_signal(signal)) == signal


@fixed
@given(
    st.binary(max_size=200)
    | mutated(signals.map(encode_signal))
    | anything.map(msgspec.msgpack.encode)
    | st.lists(anything, min_size=5, max_size=11).map(msgspec.msgpack.encode)
)
def test_garbage_is_a_decode_error_and_what_passes_is_within_bounds(data: bytes) -> None:
    signal = only(decode_signal, data, DecodeError)
    if signal is not None:
        assert decode_signal(encode_signal(signal)) == signal


@fixed
@given(signals, sixteen)
def test_envelopes_come_back(signal: Signal, message_id: bytes) -> None:
    opened = open_envelope(BOB, seal(ALICE, BOB.public_key, signal, message_id))
    assert (opened.sender, opened.message_id, opened.signal) == (ALICE.public_key, message_id, signal)


@fixed
@given(st.binary(max_size=200) | mutated(signals.map(lambda s: seal(ALICE, BOB.public_key, s, bytes(16)))))
def test_no_tampered_envelope_opens(data: bytes) -> None:
    """Decode or authentication error, nothing else; sealed again by chance it would still be Alice's."""
    opened = only(lambda given: open_envelope(BOB, given), data, ProtocolError)
    assert opened is None or opened.sender == ALICE.public_key


@fixed
@given(st.binary(max_size=200))
def test_what_strangers_seal_is_refused(content: bytes) -> None:
    data = bytes(MARK_SIZE) + hpke_seal(BOB.public_key, content, b"warpgate/2 envelope")
    assert only(lambda given: open_envelope(BOB, given), data, ProtocolError) is None


@fixed
@given(mutated(signals.map(encode_signal)) | st.binary(max_size=200))
def test_what_key_holders_sign_is_refused_or_a_signal(packed: bytes) -> None:
    body = bytes(16) + packed
    signature = ALICE.sign(b"warpgate/2 signal" + ALICE.public_key + BOB.public_key + body)
    sealed = hpke_seal(BOB.public_key, ALICE.public_key + signature + body, b"warpgate/2 envelope")
    data = bytes(MARK_SIZE) + sealed
    opened = only(lambda given: open_envelope(BOB, given), data, ProtocolError)
    assert opened is None or opened.address.public_key == ALICE.public_key
    assert len(data) <= MAX_ENVELOPE


@pytest.mark.parametrize("time", [1e308, 2.0**37, -1.0])
def test_a_time_that_no_clock_shows_is_a_decode_error(time: float) -> None:
    """What is said of it to people stays short."""
    signal = Signal(SignalKind.OFFER, bytes(16), 1, time, b"x")
    with pytest.raises(DecodeError):
        decode_signal(encode_signal(signal))
