"""One-time codes: two machines with each other, on a line that loses, doubles and forges; in no time."""

from __future__ import annotations

import itertools
import random

import pytest

from warpgate.errors import DecodeError
from warpgate.model.address import NodeAddress
from warpgate.model.code import OneTimeCode
from warpgate.model.identity import Identity
from warpgate.proto import code_talk
from warpgate.proto.code_talk import (
    CODE_LIFETIME,
    CONFIRM_PATIENCE,
    TAKER_PATIENCE,
    Agreed,
    Answer,
    CodeOfferer,
    CodeTaker,
    Confirm,
    NotAgreed,
    Open,
    Taken,
    decode_code_message,
    encode_code_message,
)

CODE, WRONG = OneTimeCode.parse("7-piano-zebra"), OneTimeCode.parse("7-piano-robot")
ALICE, BOB = NodeAddress(Identity.generate().public_key), NodeAddress(Identity.generate().public_key)


def entropy(seed: int):
    return random.Random(seed).randbytes


def offerer(code: OneTimeCode = CODE) -> CodeOfferer:
    return CodeOfferer(code, ALICE.encode(), entropy(1), 0.0)


def taker(code: OneTimeCode = CODE, seed: int = 2) -> CodeTaker:
    return CodeTaker(code, BOB.encode(), entropy(seed), entropy(seed)(16), 0.0)


def said(side: CodeOfferer | CodeTaker) -> list[bytes]:
    return list(iter(side.poll_transmit, None))


def events(side: CodeOfferer | CodeTaker) -> list[object]:
    return list(iter(side.poll_event, None))


def talk(one: CodeOfferer, other: CodeTaker, now: float = 0.0) -> list[bytes]:
    """Until neither has anything to say; all that went over the brokers."""
    seen = []
    while messages := [(other, data) for data in said(one)] + [(one, data) for data in said(other)]:
        for receiver, data in messages:
            seen.append(data)
            receiver.receive(data, now)
    return seen


def test_both_learn_the_other_ones_address() -> None:
    alice, bob = offerer(), taker()
    seen = [decode_code_message(data) for data in talk(alice, bob)]
    assert [type(message) for message in seen] == [Open, Answer, Confirm]
    assert events(alice) == [Agreed(BOB)]
    assert events(bob) == [Agreed(ALICE)]
    assert alice.poll_timeout() is None
    assert bob.poll_timeout() is None


def test_a_wrong_code_fails_at_both_ends_and_burns_it() -> None:
    alice, mallory = offerer(), taker(WRONG)
    talk(alice, mallory)
    assert [type(event) for event in events(alice)] == [NotAgreed]
    (told,) = events(mallory)
    assert isinstance(told, NotAgreed)
    assert "wrong" in told.reason
    bob = taker(seed=3)
    assert [type(decode_code_message(data)) for data in talk(alice, bob)] == [Open, Taken]
    assert [type(event) for event in events(bob)] == [NotAgreed]
    assert events(alice) == []


def test_a_guesser_who_says_nothing_more_burns_it_too() -> None:
    alice, mallory = offerer(), taker(WRONG)
    alice.receive(said(mallory)[0], 0.0)
    alice.handle_timeout(CONFIRM_PATIENCE)
    assert [type(event) for event in events(alice)] == [NotAgreed]


def test_the_offerers_own_answer_sent_back_to_it_is_no_proof() -> None:
    alice, mallory = offerer(), taker(WRONG)
    (hello,) = said(mallory)
    alice.receive(hello, 0.0)
    answer = decode_code_message(said(alice)[0])
    assert isinstance(answer, Answer)
    alice.receive(encode_code_message(Confirm(answer.id, answer.sealed)), 0.0)
    assert [type(event) for event in events(alice)] == [NotAgreed]


def test_a_second_taker_gets_nothing() -> None:
    alice, bob, eve = offerer(), taker(), taker(seed=5)
    (hello,) = said(bob)
    alice.receive(hello, 0.0)
    answers = said(alice)
    alice.receive(said(eve)[0], 0.0)
    (refusal,) = said(alice)
    assert isinstance(decode_code_message(refusal), Taken)
    for data in (refusal, *answers):
        eve.receive(data, 0.0)
    assert [type(event) for event in events(eve)] == [NotAgreed]
    bob.receive(answers[0], 0.0)
    alice.receive(said(bob)[0], 0.0)
    assert events(alice) == [Agreed(BOB)]
    [flood] = said(taker(seed=6))
    for _ in range(100):
        alice.receive(flood, 0.0)
    assert len(said(alice)) < 20, "a flood gets no flood of answers"


@pytest.mark.parametrize("seed", range(6))
def test_messages_get_lost_and_doubled(seed: int) -> None:
    chance = random.Random(seed)
    alice, bob = offerer(), taker()
    now, told = 0.0, []
    while len(told) < 2 and now < CONFIRM_PATIENCE:
        for side, other in ((alice, bob), (bob, alice)):
            for data in said(side):
                for _ in range(chance.choice((0, 1, 2))):
                    other.receive(data, now)
            told += events(side)
        now += 0.25
        for side in (alice, bob):
            deadline = side.poll_timeout()
            if deadline is not None and deadline <= now:
                side.handle_timeout(now)
    assert sorted(told, key=str) == sorted([Agreed(ALICE), Agreed(BOB)], key=str)


def test_it_ends_by_itself() -> None:
    alice, bob = offerer(), taker()
    alice.handle_timeout(CODE_LIFETIME)
    assert [type(event) for event in events(alice)] == [NotAgreed]
    for now in itertools.count(1):
        bob.handle_timeout(float(now))
        if bob.poll_timeout() is None:
            break
    assert now == TAKER_PATIENCE
    assert [type(event) for event in events(bob)] == [NotAgreed]
    assert len(said(bob)) < 35


def test_what_a_listener_sees_fits_every_code() -> None:
    """For each other code there are secrets of both sides that make the very same elements: nothing to compare with.

    What can be shown here: with the true elements and another password, neither sealed address opens.
    """
    alice, bob = offerer(), taker()
    seen = [decode_code_message(data) for data in talk(alice, bob)]
    answer = next(message for message in seen if isinstance(message, Answer))
    for guess in ("7-piano-robot", "7-zebra-zebra"):
        eve = CodeTaker(OneTimeCode.parse(guess), BOB.encode(), entropy(2), entropy(2)(16), 0.0)
        eve.receive(encode_code_message(answer), 0.0)  # even with the taker's own randomness
        assert [type(event) for event in events(eve)] == [NotAgreed]


@pytest.mark.parametrize("element", [b"B" + bytes(32), b"B" + b"\xff" * 32, b"A" + bytes(32), b"B\x01" + bytes(31)])
def test_elements_that_are_none(element: bytes) -> None:
    alice = offerer()
    alice.receive(encode_code_message(Open(1, b"i" * 16, element)), 0.0)
    assert [type(event) for event in events(alice)] == [NotAgreed]
    bob = taker()
    bob.receive(encode_code_message(Answer(entropy(2)(16), b"A" + element[1:], b"x" * 40)), 0.0)
    assert [type(event) for event in events(bob)] == [NotAgreed]


def test_our_own_messages_reflected_and_other_versions_change_nothing() -> None:
    alice, bob = offerer(), taker()
    (hello,) = said(bob)
    bob.receive(hello, 0.0)
    opening = decode_code_message(hello)
    assert isinstance(opening, Open)
    alice.receive(encode_code_message(Open(2, b"i" * 16, opening.element)), 0.0)
    alice.receive(b"garbage", 0.0)
    alice.receive(encode_code_message(Confirm(b"i" * 16, b"x" * 40)), 0.0)
    assert (events(alice), events(bob)) == ([], [])
    alice.receive(hello, 0.0)
    assert said(alice)


@pytest.mark.parametrize(
    "data", [b"", b"\x93", b"\x92\x05\xc4\x00", b"\xff" * 50, encode_code_message(Taken(b"short"))]
)
def test_garbage(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_code_message(data)


def test_the_largest_message_is_an_envelope() -> None:
    largest = Answer(bytes(16), bytes(33), bytes(code_talk.MAX_ADDRESS_SIZE + 16))
    assert len(encode_code_message(largest)) < 4096
