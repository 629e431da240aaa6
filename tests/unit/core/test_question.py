"""A question to the peer and its repetitions."""

from __future__ import annotations

from warpgate.core.connection.question import REMEMBERED, Question


def test_any_repetition_answers_it_and_nothing_from_before() -> None:
    question = Question()
    assert not question.is_answered(7)
    question.ask(7, 1.0)
    question.ask(9, 1.5)
    assert (question.asked_at, question.times) == (1.0, 2)
    assert not question.is_answered(6)
    assert question.is_answered(9)
    assert question.sent_at(9) == 1.5


def test_the_next_one_counts_anew() -> None:
    question = Question()
    question.ask(7, 1.0)
    question.drop()
    assert not question.open
    assert not question.is_answered(7)
    question.ask(8, 2.0)
    assert (question.asked_at, question.times, question.sent_at(7)) == (2.0, 1, None)


def test_of_many_repetitions_the_last_ones_are_remembered() -> None:
    question = Question()
    for number in range(2 * REMEMBERED):
        question.ask(number, float(number))
    assert question.times == REMEMBERED
    assert question.sent_at(REMEMBERED - 1) is None
    assert question.sent_at(REMEMBERED) == REMEMBERED
    assert question.is_answered(0)
