"""Marks of acquaintances: recognised once, by one node, for one envelope."""

from __future__ import annotations

import itertools

import pytest

from warpgate.proto.hello import Role
from warpgate.proto.marks import MARK_SIZE, MARKS, SESSIONS, STRANGERS, Marks

KEY, OTHER = b"k" * 32, b"o" * 32
SEALED = b"sealed"


def pair(*keys: bytes) -> tuple[Marks, Marks]:
    """Of a, which began the sessions, and of b."""
    a, b = Marks(), Marks()
    for one, peer, role in ((a, "b", Role.INITIATOR), (b, "a", Role.RESPONDER)):
        one.met(peer)
        for key in keys:
            one.renew(peer, key, role)
    return a, b


def said(one: Marks, peer: str, sealed: bytes = SEALED) -> bytes:
    mark = one.mark(peer, sealed)
    assert mark is not None
    assert len(mark) == MARK_SIZE
    return mark + sealed


def test_an_envelope_is_recognised_in_either_direction_and_once() -> None:
    a, b = pair(KEY)
    for _ in range(MARKS):
        for near, far, peer in ((a, b, "b"), (b, a, "a")):
            envelope = said(near, peer)
            assert far.take(envelope) == ("a" if peer == "b" else "b")
            assert not far.take(envelope)
    assert (a.mark("b", SEALED), b.mark("a", SEALED)) == (None, None)
    assert a._expected == b._expected == {}


def test_no_two_marks_have_a_byte_string_in_common() -> None:
    a, b = pair(KEY, OTHER)
    both = [said(one, peer) for one, peer in ((a, "b"), (b, "a")) for _ in range(2 * MARKS)]
    assert len({mark[:8] for mark in both}) == len({mark[8:MARK_SIZE] for mark in both}) == 4 * MARKS


@pytest.mark.parametrize("at", [0, 7, 8, 15, 16, 21])
def test_whoever_copies_a_tag_neither_passes_nor_spends_it(at: int) -> None:
    a, b = pair(KEY)
    envelope = said(a, "b")
    forged = bytearray(envelope)
    forged[at] ^= 1
    assert not b.take(bytes(forged))
    assert not b.take(envelope[:MARK_SIZE] + b"of somebody else")
    assert b.take(envelope)


def test_our_own_mark_sent_back_to_us_is_nobodys() -> None:
    a, _ = pair(KEY)
    assert not a.take(said(a, "b"))


def test_sessions_that_ended_in_another_order_or_at_one_side_alone_keep_some() -> None:
    a, b = pair()
    for key in (KEY, OTHER):
        a.renew("b", key, Role.INITIATOR)
    for key in (OTHER, KEY):
        b.renew("a", key, Role.RESPONDER)
    assert all(b.take(said(a, "b")) for _ in range(2 * MARKS))
    a, b = pair(KEY)
    a.renew("b", OTHER, Role.INITIATOR)  # b has not heard of its end
    assert [b.take(said(a, "b")) for _ in range(4)] == [None, "a", None, "a"]


def test_what_is_held_of_a_peer_and_of_strangers_is_bounded() -> None:
    one = Marks()
    keys = (number.to_bytes(32, "big") for number in itertools.count())
    for number in range(2 * STRANGERS):
        one.renew(f"stranger {number}", next(keys), Role.RESPONDER)
    assert (len(one._latest), len(one._expected)) == (STRANGERS, 0)
    one.met("friend")
    for _ in range(10):
        one.renew("friend", next(keys), Role.RESPONDER)
    assert (len(one._sessions["friend"]), len(one._expected)) == (SESSIONS, SESSIONS * MARKS)
    one.forget("friend")
    assert (one._sessions, one._expected) == ({}, {})


def test_the_session_before_the_pipe_counts() -> None:
    a, b = Marks(), Marks()
    a.renew("b", KEY, Role.INITIATOR)
    b.renew("a", KEY, Role.RESPONDER)
    assert a.mark("b", SEALED) is None
    a.met("b")
    b.met("a")
    assert b.take(said(a, "b"))
