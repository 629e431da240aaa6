"""How many hops a packet must make to open all filters on our side."""

from __future__ import annotations

import pytest
from stun_world import BASE, FIRST, OTHER, answer, events, refusal, run, sent, transaction_ids

from warpgate.model.endpoint import Endpoint
from warpgate.proto.opening import OPENERS, TTLS, OpeningTest

SAME_IP = Endpoint(FIRST.ip, OTHER.port)
ROUND_TRIP = 0.04
EACH = 5 * ROUND_TRIP  # no answer within this, and one hop more is tried


def started() -> OpeningTest:
    return OpeningTest(BASE, FIRST, OTHER, ROUND_TRIP, 0.0, new_transaction_id=transaction_ids())


def test_the_packet_that_dies_leaves_before_the_question() -> None:
    *openers, question = sent(started())
    assert [(each.remote, each.ttl) for each in openers] == [(OTHER, TTLS[0])] * OPENERS
    assert (question.remote, question.ttl) == (FIRST, None)


@pytest.mark.parametrize("hops", TTLS)
def test_the_first_that_lets_the_answer_in(hops: int) -> None:
    test = started()
    questions = {TTLS[0]: sent(test)[-1]}
    opened = TTLS[0]
    for _, transmit in run(test, until=(hops - TTLS[0]) * EACH + 0.001):
        opened = transmit.ttl or opened
        questions[opened] = transmit if transmit.ttl is None else questions.get(opened, transmit)
    assert opened == hops
    test.receive(answer(questions[hops]), OTHER, (hops - TTLS[0]) * EACH + ROUND_TRIP)
    assert [event.ttl for event in events(test.poll_event)] == [hops]
    assert test.poll_timeout() is None


def test_without_any_answer_nothing_is_known_and_all_is_over_soon() -> None:
    test = started()
    first = sent(test)
    later = [transmit for _, transmit in run(test, until=60.0)]
    assert [event.ttl for event in events(test.poll_event)] == [None]
    assert test.poll_timeout() is None
    assert len(first) + len(later) == len(TTLS) * (OPENERS + 3)
    assert max(transmit.ttl or 0 for transmit in (*first, *later)) == TTLS[-1]


@pytest.mark.parametrize("source", [FIRST, SAME_IP])
def test_an_answer_from_elsewhere_says_nothing(source: Endpoint) -> None:
    """A server that cannot answer from its second address does so from the first, which is open anyway."""
    test = started()
    test.receive(answer(sent(test)[-1]), source, ROUND_TRIP)
    test.receive(b"garbage", OTHER, ROUND_TRIP)
    assert events(test.poll_event) == []


def test_a_late_answer_to_a_packet_that_got_less_far_does_not_count() -> None:
    test = started()
    question = sent(test)[-1]
    run(test, until=EACH + 0.001)
    test.receive(answer(question), OTHER, EACH + 0.01)
    assert events(test.poll_event) == []


def test_a_refusal_ends_it() -> None:
    test = started()
    test.receive(refusal(sent(test)[-1], 420), OTHER, ROUND_TRIP)
    assert [event.ttl for event in events(test.poll_event)] == [None]
