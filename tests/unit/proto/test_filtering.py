"""The filtering test against servers and filters of every kind."""

from __future__ import annotations

import pytest
from stun_world import BASE, FIRST, OTHER, SECOND, answer, events, refusal, run, sent, transaction_ids

from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Filtering
from warpgate.proto.filtering import FilteringTest
from warpgate.proto.machine import Transmit
from warpgate.proto.stun import Attribute, ChangeRequest, decode

SAME_IP = Endpoint(FIRST.ip, OTHER.port)
SAME_PORT = Endpoint(OTHER.ip, FIRST.port)


def change_of(request: Transmit) -> ChangeRequest | None:
    return decode(request.data).get(Attribute.CHANGE_REQUEST)


def started() -> tuple[FilteringTest, Transmit, Transmit]:
    """A test whose first request was answered, and its two changed requests."""
    test = FilteringTest(BASE, FIRST, 0.0, new_transaction_id=transaction_ids())
    (plain,) = sent(test)
    assert change_of(plain) is None
    test.receive(answer(plain, other=OTHER), FIRST, 0.05)
    both, port = sent(test)
    assert change_of(both) == ChangeRequest.IP | ChangeRequest.PORT
    assert change_of(port) == ChangeRequest.PORT
    assert plain.remote == both.remote == port.remote == FIRST  # nothing ever goes to the other address
    return test, both, port


def result(test: FilteringTest) -> tuple[Filtering, int]:
    (event,) = events(test.poll_event)
    assert event.server == FIRST
    assert test.poll_timeout() is None
    return event.filtering, event.samples


def test_an_answer_from_elsewhere_means_endpoint_independent() -> None:
    test, both, _ = started()
    test.receive(answer(both), OTHER, 0.1)
    assert result(test) == (Filtering.EIF, 1)
    assert run(test, until=60.0) == []


def test_only_another_port_means_address_dependent_once_the_other_was_given_up() -> None:
    test, both, port = started()
    test.receive(answer(port), SAME_IP, 0.1)
    assert events(test.poll_event) == []
    repeated = run(test, until=60.0)
    assert [transmit.data for _, transmit in repeated] == [both.data] * 3
    assert result(test) == (Filtering.ADF, 2)


def test_a_late_answer_from_elsewhere_still_counts() -> None:
    test, both, port = started()
    test.receive(answer(port), SAME_IP, 0.1)
    run(test, until=0.3)
    test.receive(answer(both), OTHER, 0.3)
    assert result(test) == (Filtering.EIF, 2)


def test_silence_means_address_and_port_dependent() -> None:
    test, _, _ = started()
    assert len(run(test, until=60.0)) == 6
    assert result(test) == (Filtering.APDF, 2)


@pytest.mark.parametrize(("round_trip", "over"), [(0.001, 0.3), (0.04, 0.3), (0.2, 1.5)])
def test_silence_is_believed_after_some_round_trips(round_trip: float, over: float) -> None:
    test = FilteringTest(BASE, FIRST, 0.0, new_transaction_id=transaction_ids())
    (plain,) = sent(test)
    test.receive(answer(plain, other=OTHER), FIRST, round_trip)
    run(test, until=round_trip + over - 0.01)
    assert events(test.poll_event) == []
    run(test, until=round_trip + over + 0.01)
    assert result(test) == (Filtering.APDF, 2)


def test_a_server_that_never_answers_tells_nothing() -> None:
    test = FilteringTest(BASE, FIRST, 0.0, new_transaction_id=transaction_ids())
    sent(test)
    assert len(run(test, until=60.0)) == 3
    assert result(test) == (Filtering.UNKNOWN, 0)


@pytest.mark.parametrize("other", [None, SAME_IP, SAME_PORT, FIRST])
def test_a_server_without_a_whole_other_endpoint_cannot_test(other: Endpoint | None) -> None:
    test = FilteringTest(BASE, FIRST, 0.0, new_transaction_id=transaction_ids())
    (plain,) = sent(test)
    test.receive(answer(plain, other=other), FIRST, 0.05)
    assert sent(test) == []
    assert result(test) == (Filtering.UNKNOWN, 0)


@pytest.mark.parametrize("source", [FIRST, SECOND, SAME_IP])
def test_a_server_that_ignores_change_requests_is_not_believed(source: Endpoint) -> None:
    test, both, _ = started()
    test.receive(answer(both), source, 0.1)
    assert result(test) == (Filtering.UNKNOWN, 0)


def test_a_server_that_changes_more_than_asked_is_not_believed() -> None:
    test, _, port = started()
    test.receive(answer(port), OTHER, 0.1)
    assert result(test) == (Filtering.UNKNOWN, 0)


def test_a_refusal_ends_the_test() -> None:
    test, both, _ = started()
    test.receive(refusal(both, 420), FIRST, 0.1)
    assert result(test) == (Filtering.UNKNOWN, 0)


def test_garbage_and_repeated_answers_change_nothing() -> None:
    test, both, _ = started()
    test.receive(b"garbage", OTHER, 0.1)
    test.receive(answer(both), OTHER, 0.1)
    test.receive(answer(both), OTHER, 0.1)
    assert result(test) == (Filtering.EIF, 1)
