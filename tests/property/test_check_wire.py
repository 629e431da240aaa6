"""Checks as bytes: garbage raises its one error, what was packed is opened, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import endpoints, fixed, mutated, plugin_names

from warpgate.errors import DecodeError, ProtocolError
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.proto.check_wire import CheckCodec, introduction_of, session_of, verify_introduction
from warpgate.proto.stun import Attribute, StunClass, StunMessage, decode, encode

keys = secrets = st.binary(min_size=32, max_size=32)
sessions = nonces = st.binary(min_size=16, max_size=16)
points = st.binary(min_size=33, max_size=33)
ids = st.binary(min_size=12, max_size=12)
names = st.just("") | plugin_names
modes = st.sampled_from(Mode)
SOMEWHERE = Endpoint.of("192.0.2.1", 1)
S, K = b"s" * 16, b"k" * 32


def both(controlling: bool, key: bytes = K, session: bytes = S) -> tuple[CheckCodec, CheckCodec]:
    """A side of a session, and the other one."""
    return (
        CheckCodec(controlling, session, key, b"m" * 32),
        CheckCodec(not controlling, session, key, b"o" * 32),
    )


@fixed
@given(st.booleans(), keys, sessions, ids, names, endpoints, st.none() | nonces)
def test_a_request_is_opened_by_the_other_side(
    side: bool, key: bytes, session: bytes, id_: bytes, name: str, remote: Endpoint, echo: bytes | None
) -> None:
    mine, other = both(side, key, session)
    opened = other.open(mine.request(id_, name, remote, echo=echo), SOMEWHERE)
    assert (opened.chooses, opened.nonce, opened.plugin) == (False, mine.nonce(remote), name)
    assert opened.message.transaction_id == id_
    assert not opened.echoed


@pytest.mark.parametrize("name", ["by \x1b]0;x\x07", "direct\nwarpgate:", "a b", "a,b", "\u202eoqkg"])
@pytest.mark.parametrize("introduces", [True, False])
def test_a_name_that_steers_a_terminal_is_none(name: str, introduces: bool) -> None:
    mine = CheckCodec(True, S, K, b"m" * 32, b"\2" * 33)
    data = mine.request(b"i" * 12, name, SOMEWHERE, introduce=introduces)
    with pytest.raises(DecodeError, match="is no name of a plugin"):
        verify_introduction(data, K) if introduces else both(False)[0].open(data, SOMEWHERE)


@fixed
@given(st.booleans(), ids, endpoints, st.booleans())
def test_an_answer_is_opened_by_the_other_side(side: bool, id_: bytes, seen: Endpoint, chosen: bool) -> None:
    mine, other = both(side)
    data = mine.answer(id_, seen, chosen=chosen)
    opened = other.open(data, SOMEWHERE)
    assert (opened.chooses, opened.nonce, opened.message.cls) == (chosen, mine.nonce(seen), StunClass.SUCCESS)
    assert opened.message.mapped == seen
    assert session_of(data) == S


@fixed
@given(endpoints, endpoints, ids)
def test_a_nonce_is_given_back_from_the_one_endpoint_that_it_was_sent_to(
    here: Endpoint, elsewhere: Endpoint, id_: bytes
) -> None:
    initiator, responder = both(True)
    nonce = initiator.open(responder.answer(id_, here), SOMEWHERE).nonce
    data = initiator.request(id_, "direct", SOMEWHERE, Attribute.USE_CANDIDATE, echo=nonce)
    opened = responder.open(data, here)
    assert (opened.chooses, opened.echoed) == (True, True)
    assert responder.open(data, elsewhere).echoed == (here == elsewhere)
    assert not CheckCodec(False, S, K, b"a restart's".ljust(32)).open(data, here).echoed
    with pytest.raises(ProtocolError):
        initiator.open(data, here)


@fixed
@given(keys, sessions, secrets, points, ids, names, modes)
def test_an_introduction_says_who_and_what_for(
    key: bytes, session: bytes, secret: bytes, point: bytes, id_: bytes, name: str, mode: Mode
) -> None:
    initiator = CheckCodec(True, session, key, secret, point, mode)
    data = initiator.request(id_, name, SOMEWHERE, introduce=True)
    introduction = introduction_of(data)
    assert (introduction.session, introduction.public_key) == (session, point)
    assert introduction.mode == mode
    verify_introduction(data, key)
    with pytest.raises(ProtocolError):
        verify_introduction(data, bytes(31) + bytes((key[0] ^ 1,)))
    for no_introduction in (
        initiator.request(id_, name, SOMEWHERE),  # the peer is known by then
        initiator.request(id_, name, SOMEWHERE, Attribute.USE_CANDIDATE, introduce=True),
        CheckCodec(False, session, key, secret, point).request(id_, name, SOMEWHERE, introduce=True),
        initiator.answer(id_, SOMEWHERE),
    ):
        with pytest.raises(DecodeError):
            introduction_of(no_introduction)


@fixed
@given(st.booleans(), keys, keys, sessions, sessions, ids)
def test_another_key_or_session_opens_nothing(
    side: bool, key: bytes, another: bytes, session: bytes, another_session: bytes, id_: bytes
) -> None:
    data = both(side, key, session)[0].request(id_, "direct", SOMEWHERE)
    others = [both(side, another, session)[1]] if another != key else []
    others += [both(side, key, another_session)[1]] if another_session != session else []
    for other in others:
        with pytest.raises(ProtocolError):
            other.open(data, SOMEWHERE)


@fixed
@given(st.booleans(), st.binary(max_size=300))
def test_garbage_is_refused(side: bool, data: bytes) -> None:
    with pytest.raises(DecodeError):
        both(side)[0].open(data, SOMEWHERE)
    with pytest.raises(DecodeError):
        introduction_of(data)
    assert session_of(data) is None


SAMPLE = CheckCodec(True, S, K, b"n" * 32, b"\2" * 33)
valid = st.sampled_from([
    SAMPLE.request(b"t" * 12, "direct", SOMEWHERE, introduce=True),
    SAMPLE.request(b"t" * 12, "direct", SOMEWHERE, Attribute.USE_CANDIDATE, echo=b"p" * 16),
    SAMPLE.request(b"t" * 12, "direct", SOMEWHERE, Attribute.WG_CLOSE, echo=b"p" * 16),
    SAMPLE.answer(b"t" * 12, SOMEWHERE),
])  # fmt: skip


@fixed
@given(mutated(valid))
def test_what_was_tampered_with_is_refused_or_means_the_same(data: bytes) -> None:
    """What stands behind the MAC is not covered by it, and not looked at either (RFC 8489 section 14.6)."""
    codec = CheckCodec(False, S, K, b"p" * 32)
    try:
        opened = codec.open(data, SOMEWHERE)
    except ProtocolError:
        return
    assert opened.nonce == SAMPLE.nonce(SOMEWHERE)
    assert opened.message.transaction_id == b"t" * 12


@fixed
@given(st.booleans(), ids)
def test_a_message_without_a_mac_is_refused(side: bool, id_: bytes) -> None:
    mine, other = both(side)
    whole = decode(mine.request(id_, "direct", SOMEWHERE))
    kept = tuple(
        (kind, value) for kind, value in whole.attributes
        if kind not in (Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256)
    )  # fmt: skip
    bare = encode(StunMessage(whole.method, whole.cls, id_, kept))
    with pytest.raises(ProtocolError):
        other.open(bare, SOMEWHERE)
