"""Checks as bytes: garbage raises its one error, what was packed is opened, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import endpoints, fixed, mutated, plugin_names

from warpgate.errors import DecodeError, ProtocolError
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.proto.check_wire import CheckCodec, introduction_of, session_of
from warpgate.proto.stun import Attribute, StunClass, StunMessage, decode, encode

keys = st.binary(min_size=32, max_size=32)
sessions = nonces = st.binary(min_size=16, max_size=16)
points = st.binary(min_size=33, max_size=33)
ids = st.binary(min_size=12, max_size=12)
names = st.just("") | plugin_names
modes = st.sampled_from(Mode)
SOMEWHERE = Endpoint.of("192.0.2.1", 1)
codecs = st.builds(CheckCodec, st.booleans(), sessions, keys, nonces, st.none() | points, modes)


def opposite(codec: CheckCodec, nonce: bytes) -> CheckCodec:
    return CheckCodec(not codec.controlling, codec.session, codec.key, nonce)


@fixed
@given(codecs, nonces, ids, names)
def test_a_request_is_opened_by_the_other_side(
    codec: CheckCodec, nonce: bytes, id_: bytes, name: str
) -> None:
    opened = opposite(codec, nonce).open(codec.request(id_, name, None))
    assert (opened.nominating, opened.nonce, opened.plugin) == (False, codec.nonce, name)
    assert opened.message.transaction_id == id_


@fixed
@given(codecs, nonces, ids, endpoints)
def test_an_answer_is_opened_by_the_other_side(
    codec: CheckCodec, nonce: bytes, id_: bytes, seen: object
) -> None:
    data = codec.answer(id_, seen)
    opened = opposite(codec, nonce).open(data)
    assert (opened.nominating, opened.nonce, opened.message.cls) == (False, codec.nonce, StunClass.SUCCESS)
    assert opened.message.mapped == seen
    assert session_of(data) == codec.session


@fixed
@given(keys, sessions, nonces, nonces, nonces, ids)
def test_a_nomination_holds_for_one_pair_of_nonces(
    key: bytes, session: bytes, nonce_a: bytes, nonce_b: bytes, other: bytes, id_: bytes
) -> None:
    initiator, responder = CheckCodec(True, session, key, nonce_a), CheckCodec(False, session, key, nonce_b)
    data = initiator.request(id_, "direct", nonce_b, Attribute.USE_CANDIDATE)
    assert responder.open(data).nominating
    if other != nonce_b:
        with pytest.raises(ProtocolError):
            CheckCodec(False, session, key, other).open(data)
    with pytest.raises(ProtocolError):
        initiator.open(data)


@fixed
@given(codecs, points, ids, names, modes)
def test_an_introduction_says_who_and_what_for(
    codec: CheckCodec, point: bytes, id_: bytes, name: str, mode: Mode
) -> None:
    initiator = CheckCodec(True, codec.session, codec.key, codec.nonce, point, mode)
    introduction = introduction_of(initiator.request(id_, name, None))
    assert (introduction.session, introduction.public_key) == (codec.session, point)
    assert (introduction.plugin, introduction.mode) == (name, mode)
    for no_introduction in (
        initiator.request(id_, name, codec.nonce),  # the peer is known by then
        initiator.request(id_, name, codec.nonce, Attribute.USE_CANDIDATE),
        CheckCodec(False, codec.session, codec.key, codec.nonce, point).request(id_, name, None),
        initiator.answer(id_, SOMEWHERE),
    ):
        with pytest.raises(DecodeError):
            introduction_of(no_introduction)


@fixed
@given(codecs, keys, sessions, ids)
def test_another_key_or_session_opens_nothing(
    codec: CheckCodec, key: bytes, session: bytes, id_: bytes
) -> None:
    data = codec.request(id_, "direct", None)
    for other in (
        CheckCodec(not codec.controlling, codec.session, key, codec.nonce),
        CheckCodec(not codec.controlling, session, codec.key, codec.nonce),
    ):
        if (other.key, other.session) != (codec.key, codec.session):
            with pytest.raises(ProtocolError):
                other.open(data)


@fixed
@given(codecs, nonces, st.binary(max_size=300))
def test_garbage_is_refused(codec: CheckCodec, nonce: bytes, data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.open(data)
    with pytest.raises(DecodeError):
        introduction_of(data)
    assert session_of(data) is None


SAMPLE = CheckCodec(True, b"s" * 16, b"k" * 32, b"n" * 16, b"\2" * 33)
valid = st.sampled_from([
    SAMPLE.request(b"t" * 12, "direct", None),
    SAMPLE.request(b"t" * 12, "direct", b"p" * 16, Attribute.USE_CANDIDATE),
    SAMPLE.request(b"t" * 12, "direct", b"p" * 16, Attribute.WG_CLOSE),
    SAMPLE.answer(b"t" * 12, SOMEWHERE),
])  # fmt: skip


@fixed
@given(mutated(valid))
def test_what_was_tampered_with_is_refused_or_means_the_same(data: bytes) -> None:
    """What stands behind the MAC is not covered by it, and not looked at either (RFC 8489 section 14.6)."""
    codec = CheckCodec(False, b"s" * 16, b"k" * 32, b"p" * 16)
    try:
        opened = codec.open(data)
    except ProtocolError:
        return
    assert opened.nonce == b"n" * 16
    assert opened.message.transaction_id == b"t" * 12


@fixed
@given(codecs, ids)
def test_a_message_without_a_mac_is_refused(codec: CheckCodec, id_: bytes) -> None:
    whole = decode(codec.request(id_, "direct", None))
    kept = tuple(
        (kind, value) for kind, value in whole.attributes
        if kind not in (Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256)
    )  # fmt: skip
    bare = encode(StunMessage(whole.method, whole.cls, id_, kept))
    with pytest.raises(ProtocolError):
        opposite(codec, b"x" * 16).open(bare)
