"""The STUN Binding client: retransmission, keepalive, servers that fail, mappings that change."""

from __future__ import annotations

import pytest
from stun_world import (
    BASE,
    FIRST,
    OTHER,
    REFLEXIVE,
    SECOND,
    answer,
    events,
    refusal,
    run,
    sent,
    transaction_ids,
)

from warpgate.model.endpoint import Endpoint
from warpgate.proto.binding import BindingClient, Mapped, OtherAddress, ServerSilent
from warpgate.proto.stun import BINDING, StunClass, StunMessage, decode, encode

MOVED = Endpoint.of("203.0.113.9", 31111)


def client(*servers: Endpoint, jitter: float = 0.5) -> BindingClient:
    return BindingClient(BASE, servers, 0.0, new_transaction_id=transaction_ids(), jitter=lambda: jitter)


def settled(*servers: Endpoint) -> BindingClient:
    """A client whose servers all answered, the first one fastest."""
    made = client(*servers)
    for index, request in enumerate(sent(made)):
        made.receive(answer(request), request.remote, 0.01 * (index + 1))
    events(made.poll_event)
    return made


def test_every_server_is_asked_at_once_and_the_answers_reported() -> None:
    made = client(FIRST, SECOND)
    first, second = sent(made)
    assert [(item.base, item.remote, item.ttl) for item in (first, second)] == [
        (BASE, FIRST, None),
        (BASE, SECOND, None),
    ]
    request = decode(first.data)
    assert (request.method, request.cls, request.attributes) == (BINDING, StunClass.REQUEST, ())
    made.receive(answer(second, other=OTHER), SECOND, 0.03)
    made.receive(answer(first), FIRST, 0.05)
    assert events(made.poll_event) == [
        Mapped(SECOND, REFLEXIVE, 0.03, changed=True),
        OtherAddress(SECOND, OTHER),
        Mapped(FIRST, REFLEXIVE, 0.05, changed=True),
    ]
    assert made.mappings == ((FIRST, REFLEXIVE), (SECOND, REFLEXIVE))


def test_the_nearest_server_is_as_far_as_its_quickest_answer_says() -> None:
    """A lost request counts half a second, a queue what it likes. From another endpoint all may be further."""
    made = client(FIRST, SECOND)
    assert made.round_trip is None
    for at, seconds, mapped, known in (
        (0.0, 0.2, REFLEXIVE, 0.2),
        (30.0, 0.05, REFLEXIVE, 0.05),
        (60.0, 0.5, REFLEXIVE, 0.05),
        (90.0, 0.3, MOVED, 0.3),
    ):
        made.measure(at)
        for index, request in enumerate(sent(made)):
            made.receive(answer(request, mapped), request.remote, at + seconds + index)
        assert made.round_trip == pytest.approx(known)


def test_an_unanswered_request_is_repeated_unchanged_then_given_up() -> None:
    made = client(FIRST)
    (first,) = sent(made)
    again = run(made, until=10.0)
    assert [at for at, _ in again] == [0.25, 0.75, 1.75]
    assert {transmit.data for _, transmit in again} == {first.data}
    assert events(made.poll_event) == [ServerSilent(FIRST, "no answer to 4 requests in 3.75 s")]
    made.receive(answer(first), FIRST, 10.0)
    assert events(made.poll_event) == []


def test_an_answer_stops_the_repetition() -> None:
    made = client(FIRST)
    (first,) = sent(made)
    made.receive(answer(first), FIRST, 0.1)
    assert made.poll_timeout() == 23.0
    assert run(made, until=22.9) == []


@pytest.mark.parametrize(("jitter", "at"), [(0.0, 20.0), (0.999, 25.994)])
def test_keepalives_are_jittered_between_the_bounds(jitter: float, at: float) -> None:
    made = client(FIRST, jitter=jitter)
    (first,) = sent(made)
    made.receive(answer(first), FIRST, 0.1)
    ((due, _),) = run(made, until=at)
    assert due == pytest.approx(at)
    assert made.poll_timeout() == pytest.approx(at + 0.25)


def test_keepalives_go_to_the_nearest_server_only() -> None:
    made = settled(FIRST, SECOND)
    ((_, keepalive),) = run(made, until=23.0)
    assert keepalive.remote == FIRST
    made.receive(answer(keepalive), FIRST, 23.01)
    assert events(made.poll_event) == [Mapped(FIRST, REFLEXIVE, pytest.approx(0.01), changed=False)]


def test_a_changed_mapping_is_reported_and_all_servers_asked() -> None:
    made = settled(FIRST, SECOND)
    ((_, keepalive),) = run(made, until=23.0)
    made.receive(answer(keepalive, mapped=MOVED), FIRST, 23.01)
    assert events(made.poll_event) == [Mapped(FIRST, MOVED, pytest.approx(0.01), changed=True)]
    asked = sent(made)
    assert {item.remote for item in asked} == {FIRST, SECOND}
    for number, request in enumerate(asked):  # a NAT that never stops changing is not asked for ever
        made.receive(answer(request, mapped=Endpoint.of("203.0.113.9", 40000 + number)), request.remote, 23.02)
    assert sent(made) == []


def test_a_server_that_falls_silent_is_replaced_at_once() -> None:
    made = settled(FIRST, SECOND)
    asked = run(made, until=23.0 + 3.75)
    assert [item.remote for _, item in asked] == [FIRST, FIRST, FIRST, FIRST, SECOND]
    assert asked[-1][0] == 26.75
    assert [event.server for event in events(made.poll_event)] == [FIRST]
    assert made.mappings == ((SECOND, REFLEXIVE),)


def test_when_all_are_silent_all_are_asked_until_one_is_back() -> None:
    made = client(FIRST, SECOND)
    sent(made)
    run(made, until=22.9)
    assert len(events(made.poll_event)) == 2
    asked = run(made, until=23.0)
    assert {item.remote for _, item in asked} == {FIRST, SECOND}
    made.receive(answer(asked[1][1]), SECOND, 23.1)
    assert made.mappings == ((SECOND, REFLEXIVE),)


def test_measure_asks_again_but_not_twice_at_the_same_time() -> None:
    made = settled(FIRST)
    made.measure(5.0)
    made.measure(5.0)
    (request,) = sent(made)
    made.receive(answer(request), FIRST, 5.02)
    assert events(made.poll_event) == [Mapped(FIRST, REFLEXIVE, pytest.approx(0.02), changed=False)]
    made.add_server(FIRST, 6.0)
    assert sent(made) == []
    made.add_server(SECOND, 6.0)
    assert [item.remote for item in sent(made)] == [SECOND]


def test_only_the_asked_servers_answer_to_our_request_counts() -> None:
    made = client(FIRST, SECOND)
    first, _ = sent(made)
    good = answer(first)
    request_back = encode(StunMessage(BINDING, StunClass.REQUEST, decode(first.data).transaction_id))
    for data, source in [
        (good, SECOND),
        (good, OTHER),
        (request_back, FIRST),
        (good[:-4], FIRST),
        (good[:23] + b"\xff" + good[24:], FIRST),
        (b"", FIRST),
        (encode(StunMessage(BINDING, StunClass.SUCCESS, b"x" * 12)), FIRST),
        (encode(StunMessage(3, StunClass.SUCCESS, decode(first.data).transaction_id)), FIRST),
    ]:
        made.receive(data, source, 0.1)
    assert events(made.poll_event) == []
    assert made.owns(good)
    made.receive(good, FIRST, 0.1)
    assert len(events(made.poll_event)) == 1
    assert not made.owns(good)


def test_useless_answers_count_as_silence_with_a_reason() -> None:
    made = client(FIRST, SECOND)
    first, second = sent(made)
    made.receive(refusal(first, 420), FIRST, 0.1)
    made.receive(answer(second, mapped=None), SECOND, 0.1)
    assert events(made.poll_event) == [
        ServerSilent(FIRST, "answered: 420 no"),
        ServerSilent(SECOND, "answered: no mapped address"),
    ]


def test_without_servers_there_is_nothing_to_wait_for() -> None:
    assert client().poll_timeout() is None


def test_keepalives_follow_a_nat_that_forgets_sooner() -> None:
    """Each pause is half of the one before, until a mapping outlives it; one that was renewed first changes nothing."""
    made = settled(FIRST, SECOND)
    now, port, pauses = 0.0, REFLEXIVE.port, []
    for renewed in (False, False, True, False, False):
        due = made.poll_timeout()
        assert due is not None
        pauses.append(round(due - now, 3))
        now, port = due, port + (not renewed)
        made.handle_timeout(now)
        for _ in range(2):  # the keepalive, and the measurement that a change brings
            for request in sent(made):
                mapped = Endpoint(REFLEXIVE.ip, port)
                made.receive(answer(request, mapped), request.remote, now + 0.01)
            now += 0.01
    assert made.shortened
    assert pauses == [pytest.approx(pause, abs=0.1) for pause in (23.0, 11.5, 5.75, 5.75, 5.75)]
