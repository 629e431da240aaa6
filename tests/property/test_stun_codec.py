"""STUN: what was encoded comes back, garbage is a DecodeError, and no tampered message verifies."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import fixed, mutated, only, stun_messages

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.proto.stun import (
    Attribute,
    Integrity,
    StreamDecoder,
    StunMessage,
    decode,
    encode,
    is_stun,
    verify,
)

KEY = b"k" * 32
garbage = st.binary(max_size=100)
sealed = stun_messages.map(lambda message: encode(message, key=KEY, fingerprint=True))
plain = stun_messages.map(encode)


def framed(attributes: list[tuple[int, bytes]]) -> bytes:
    """A proper header before attributes with arbitrary content."""
    body = b"".join(
        number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
        for number, value in attributes
    )
    return b"\x01\x01" + len(body).to_bytes(2, "big") + bytes.fromhex("2112a442") + bytes(12) + body


nonsense = st.lists(st.tuples(st.sampled_from(Attribute), st.binary(max_size=40)), min_size=1, max_size=4).map(framed)


@fixed
@given(stun_messages, st.sampled_from([None, KEY]), st.sampled_from(Integrity), st.booleans())
def test_messages_come_back(message: StunMessage, key: bytes | None, integrity: Integrity, fingerprint: bool) -> None:
    data = encode(message, key=key, integrity=integrity, fingerprint=fingerprint)
    assert is_stun(data)
    assert decode(data) == message
    if key is not None:
        verify(data, key, integrity)


@fixed
@given(garbage | mutated(plain) | mutated(sealed) | nonsense)
def test_garbage_is_a_decode_error_and_what_passes_comes_back(data: bytes) -> None:
    message = only(decode, data, DecodeError)
    if message is not None:
        assert decode(encode(message)) == message


@fixed
@given(garbage | mutated(sealed) | nonsense)
def test_what_verifies_is_what_was_sealed(data: bytes) -> None:
    """Only what lies behind the integrity attribute can have been changed."""
    try:
        verify(data, KEY)
    except AuthenticationError:
        return
    message = only(decode, data, DecodeError)
    if message is not None:
        again = encode(message, key=KEY)
        assert data[4 : len(again)] == again[4:]


@fixed
@given(st.lists(plain, max_size=4), st.lists(st.integers(0, 2000), max_size=4))
def test_a_stream_gives_the_messages_back_wherever_it_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(messages)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder, found = StreamDecoder(), []
    for start, end in pairwise(edges):
        decoder.feed(stream[start:end])
        while (frame := decoder.next_frame()) is not None:
            found.append(frame)
    assert found == messages


@fixed
@given(garbage, st.booleans())
def test_a_stream_of_garbage_gives_frames_or_a_decode_error(data: bytes, channel_data: bool) -> None:
    decoder = StreamDecoder(channel_data=channel_data)
    decoder.feed(data)
    try:
        while decoder.next_frame() is not None:
            pass
    except DecodeError:
        return
    assert len(decoder.leftover()) <= len(data)


def test_the_tampering_gets_past_the_first_checks() -> None:
    """The properties above mean something only if some garbage is well-formed enough."""
    with pytest.raises(DecodeError, match="STUN address"):
        decode(framed([(Attribute.XOR_MAPPED_ADDRESS, b"abc")]))
