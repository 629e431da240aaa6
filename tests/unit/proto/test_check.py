"""The check agent: two of them joined by a path that loses, delays, repeats and reflects as the test says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from warpgate.errors import AuthenticationError, DecodeError, ProtocolError
from warpgate.model.endpoint import Endpoint
from warpgate.proto import check
from warpgate.proto.check import (
    CLOSE_OFFSETS,
    LAST_ANSWER,
    NOMINATION_OFFSETS,
    CheckAgent,
    CheckEvent,
    CheckingEnded,
    CheckSettings,
    Nominated,
    NominationConfirmed,
    PairVerified,
    PathValidated,
    PeerHeard,
    PeerRefused,
    Phase,
)
from warpgate.proto.check_wire import refusal_of
from warpgate.proto.machine import Transmit
from warpgate.proto.stun import Attribute, StunClass, decode

SESSION, KEY = b"S" * 16, b"K" * 32
HERE, THERE = Endpoint.of("192.0.2.1", 1000), Endpoint.of("192.0.2.2", 2000)
ELSEWHERE = Endpoint.of("192.0.2.3", 3000)
OFFSETS = (0.0, 0.1, 0.3, 0.7, 1.5, 3.0)
SETTINGS = CheckSettings(OFFSETS, consent_silence=15.0, consent_timeout=30.0)
DELAY = 0.02


def agent(controlling: bool, *, trust: bool = False, key: bytes = KEY, session: bytes = SESSION) -> CheckAgent:
    ids = itertools.count(1)
    side = b"A" if controlling else b"B"
    return CheckAgent(
        controlling=controlling,
        session=session,
        key=key,
        secret=side * 32,
        new_id=lambda: side * 4 + next(ids).to_bytes(8, "big"),
        settings=SETTINGS,
        introduction=bytes(33) if controlling else None,
        trust_heard=trust,
    )


@dataclass
class Pair:
    """A and B, a clock, and what is on its way between them."""

    a: CheckAgent = field(default_factory=lambda: agent(True))
    b: CheckAgent = field(default_factory=lambda: agent(False))
    lose: Callable[[int, Transmit], bool] = lambda number, transmit: False
    now: float = 0.0
    sent: list[tuple[float, Transmit]] = field(default_factory=list)
    events_a: list[CheckEvent] = field(default_factory=list)
    events_b: list[CheckEvent] = field(default_factory=list)
    on_the_way: list[tuple[float, Transmit]] = field(default_factory=list)
    nominate_at_once: bool = True

    def settle(self) -> None:
        """Take what both have to say."""
        for machine, events in ((self.a, self.events_a), (self.b, self.events_b)):
            while True:
                if (transmit := machine.poll_transmit()) is not None:
                    self.sent.append((self.now, transmit))
                    if not self.lose(len(self.sent), transmit):
                        self.on_the_way.append((self.now + DELAY, transmit))
                elif (event := machine.poll_event()) is not None:
                    events.append(event)
                    if isinstance(event, PairVerified) and self.nominate_at_once and self.a.phase is Phase.CHECKING:
                        self.a.nominate(event.base, event.remote, self.now)
                else:
                    break

    def run(self, until: float) -> None:
        """Let time pass."""
        while True:
            self.settle()
            times = [at for at, _ in self.on_the_way]
            times += [at for at in (self.a.poll_timeout(), self.b.poll_timeout()) if at is not None]
            if not times or min(times) > until:
                break
            self.now = max(self.now, min(times))
            arrived = [transmit for at, transmit in self.on_the_way if at <= self.now]
            self.on_the_way = [entry for entry in self.on_the_way if entry[0] > self.now]
            for transmit in arrived:
                self.deliver(transmit)
            for machine in (self.a, self.b):
                if (at := machine.poll_timeout()) is not None and at <= self.now:
                    machine.handle_timeout(self.now)
        self.now = until
        self.settle()

    def deliver(self, transmit: Transmit) -> None:
        target = self.b if transmit.base == HERE else self.a
        target.receive(transmit.data, transmit.remote, transmit.base, self.now)

    def probe(self, side: CheckAgent, plugin: str = "direct") -> None:
        base, remote = (HERE, THERE) if side is self.a else (THERE, HERE)
        side.probe(base, remote, plugin, self.now)

    @property
    def agreed(self) -> bool:
        return (
            self.a.phase is self.b.phase is Phase.SELECTED
            and self.a.selected == (HERE, THERE)
            and self.b.selected == (THERE, HERE)
        )


def kinds(events: list[CheckEvent]) -> list[type]:
    return [type(event) for event in events]


def connected() -> Pair:
    pair = Pair()
    pair.probe(pair.a)
    pair.run(1.0)
    assert pair.agreed
    return pair


# -- the usual course -----------------------------------------------------------------------------------------------


def test_the_round_trip_is_that_of_the_check_that_was_answered() -> None:
    pair = Pair(lose=lambda number, _: number <= 3)
    pair.probe(pair.a)
    pair.run(5.0)
    assert pair.agreed
    assert pair.a.round_trip == pytest.approx(2 * DELAY)
    assert pair.b.round_trip is None, "it has asked for nothing yet"


def test_a_check_its_answer_the_nomination_and_its_answer() -> None:
    pair = connected()
    assert [round(at / DELAY) for at, _ in pair.sent] == [0, 1, 2, 3]
    assert kinds(pair.events_a) == [PeerHeard, PairVerified, NominationConfirmed]
    assert kinds(pair.events_b) == [PeerHeard, Nominated]
    assert pair.events_a[1] == PairVerified(HERE, THERE, "direct")
    assert pair.events_b[1] == Nominated(THERE, HERE, "direct")


def test_the_first_check_introduces_the_key_and_later_ones_do_not() -> None:
    pair = connected()
    first, _, nomination, _ = (decode(transmit.data) for _, transmit in pair.sent)
    assert first.raw(Attribute.WG_KEY) == bytes(33)
    assert Attribute.WG_KEY not in nomination
    assert Attribute.USE_CANDIDATE in nomination


def test_checks_leave_at_their_offsets_and_stop_when_the_pair_is_verified() -> None:
    pair = Pair(lose=lambda number, _: number <= 3)
    pair.probe(pair.a)
    pair.run(10.0)
    checks = [at for at, transmit in pair.sent if transmit.base == HERE]
    assert checks[:4] == list(OFFSETS[:4])
    assert checks[4:] == [pytest.approx(0.7 + 2 * DELAY)]  # the nomination, and nothing after it


def test_a_heard_check_verifies_where_mappings_are_known_not_to_depend_on_the_destination() -> None:
    """It saves a round trip (UDP punch: s + r)."""
    for trust, verified_after in ((True, 1), (False, 3)):
        pair = Pair(a=agent(True, trust=trust))
        pair.probe(pair.b, "udp_punch")
        pair.settle()
        while PairVerified not in kinds(pair.events_a):
            pair.run(pair.now + DELAY)
        assert round(pair.now / DELAY) == verified_after
        pair.run(1.0)
        assert pair.agreed


def test_the_label_of_the_check_that_came_through_wins() -> None:
    def lose(_: int, transmit: Transmit) -> bool:
        return transmit.base == HERE and Attribute.WG_KEY in decode(transmit.data)

    pair = Pair(a=agent(True, trust=True), lose=lose)
    pair.probe(pair.a, "direct")
    pair.probe(pair.b, "udp_punch")
    pair.run(1.0)
    assert PairVerified(HERE, THERE, "udp_punch") in pair.events_a
    assert Nominated(THERE, HERE, "udp_punch") in pair.events_b


def test_priming_checks_carry_their_ttl() -> None:
    pair = Pair()
    pair.a.probe(HERE, THERE, "udp_punch", 0.0, (0.0,), ttl=2)
    pair.a.probe(HERE, THERE, "udp_punch", 0.0, (0.05,))
    pair.settle()
    assert [transmit.ttl for _, transmit in pair.sent] == [2]
    assert pair.a.poll_timeout() == 0.05
    pair.run(0.06)
    assert [transmit.ttl for _, transmit in pair.sent if transmit.base == HERE][:2] == [2, None]


# -- loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [{first, second} for first in range(1, 9) for second in range(first, 9)], ids=str)
@pytest.mark.parametrize("who", ["a", "b", "both"])
@pytest.mark.parametrize("trust", [False, True])
def test_the_loss_of_any_two_messages_changes_nothing_but_the_time(lost: set[int], who: str, trust: bool) -> None:
    """Of the check, its answer, the nomination, its answer, and their repetitions."""
    pair = Pair(a=agent(True, trust=trust), lose=lambda number, _: number in lost)
    for side in {"a": (pair.a,), "b": (pair.b,), "both": (pair.a, pair.b)}[who]:
        pair.probe(side)
    pair.run(6.0)
    assert pair.agreed
    assert kinds(pair.events_a).count(PairVerified) == 1
    assert kinds(pair.events_b).count(Nominated) == 1


@pytest.mark.parametrize("lost", range(len(NOMINATION_OFFSETS)))
def test_the_nomination_is_repeated_until_acknowledged(lost: int) -> None:
    pair = Pair()
    gone: list[float] = []

    def lose(_: int, transmit: Transmit) -> bool:
        nominating = Attribute.USE_CANDIDATE in decode(transmit.data)
        if nominating and len(gone) < lost:
            gone.append(pair.now)
            return True
        return False

    pair.lose = lose
    pair.probe(pair.a)
    pair.run(10.0)
    assert pair.agreed
    assert [at - 2 * DELAY for at in gone] == pytest.approx(list(NOMINATION_OFFSETS[:lost]))


def test_a_nomination_that_is_never_acknowledged_ends_it() -> None:
    pair = Pair(lose=lambda _, transmit: Attribute.USE_CANDIDATE in decode(transmit.data))
    pair.probe(pair.a)
    pair.run(20.0)
    [ended] = [event for event in pair.events_a if isinstance(event, CheckingEnded)]
    assert ended == CheckingEnded("the peer never acknowledged the nomination", by_peer=False)
    assert pair.b.phase is Phase.CHECKING
    assert pair.a.poll_timeout() is None
    last = max(at for at, transmit in pair.sent if transmit.base == HERE)
    assert last == pytest.approx(2 * DELAY + NOMINATION_OFFSETS[-1])


def test_acknowledgements_that_are_lost_are_given_again() -> None:
    """The responder has the pipe; the initiator learns it from the answer to a repetition."""
    pair = Pair()
    pair.lose = lambda _, transmit: transmit.base == THERE and pair.b.selected is not None and pair.now < 2.0
    pair.probe(pair.a)
    pair.run(1.9)
    assert (pair.a.phase, pair.b.phase) == (Phase.NOMINATING, Phase.SELECTED)
    pair.run(6.0)
    assert pair.agreed
    assert kinds(pair.events_b).count(Nominated) == 1


def test_late_checks_are_answered_whatever_the_phase() -> None:
    """Else the slower side would never learn of the outcome (RFC 8863)."""
    pair = connected()
    late = agent(True)
    late.probe(HERE, THERE, "direct", 5.0)
    check = late.poll_transmit()
    assert check is not None
    pair.run(5.0)
    pair.b.receive(check.data, THERE, HERE, 5.0)
    answer = pair.b.poll_transmit()
    assert answer is not None
    late.receive(answer.data, HERE, THERE, 5.0)
    assert kinds(list(iter(late.poll_event, None))) == [PeerHeard, PairVerified]
    assert pair.agreed


# -- what must not count --------------------------------------------------------------------------------------------


def first_check(of: CheckAgent) -> bytes:
    of.probe(HERE, THERE, "direct", 0.0)
    transmit = of.poll_transmit()
    assert transmit is not None
    return transmit.data


def test_our_own_check_reflected_to_us_is_refused() -> None:
    """The MAC is right, the role is not."""
    for controlling in (True, False):
        side = agent(controlling, trust=True)
        check = first_check(side)
        with pytest.raises(AuthenticationError, match="reflected"):
            side.receive(check, HERE, THERE, 0.0)
        assert side.poll_event() is None
        assert side.poll_transmit() is None
        assert not side.knows(HERE, THERE)


def test_our_own_answer_reflected_to_us_is_refused() -> None:
    side, peer = agent(False), agent(True)
    side.receive(first_check(peer), THERE, HERE, 0.0)
    answer = side.poll_transmit()
    assert answer is not None
    with pytest.raises(AuthenticationError, match="reflected"):
        side.receive(answer.data, THERE, HERE, 0.0)


@pytest.mark.parametrize("wrong", [{"key": b"X" * 32}, {"session": b"X" * 16}], ids=["key", "session"])
def test_another_key_or_session_is_refused(wrong: dict[str, bytes]) -> None:
    side = agent(False)
    with pytest.raises((AuthenticationError, DecodeError)):
        side.receive(first_check(agent(True, **wrong)), THERE, HERE, 0.0)
    assert side.poll_event() is None
    assert side.poll_transmit() is None


def test_an_altered_check_is_refused_wherever_it_was_altered() -> None:
    check = first_check(agent(True))
    for place in range(len(check)):
        for bit in (1, 128):
            side = agent(False)
            forged = bytearray(check)
            forged[place] ^= bit
            with pytest.raises((AuthenticationError, DecodeError)):
                side.receive(bytes(forged), THERE, HERE, 0.0)
            assert side.poll_event() is None


def test_a_nomination_of_an_earlier_session_opens_nothing() -> None:
    """The same session id and key again (the responder was restarted), but its nonces are new."""
    pair = connected()
    nomination = next(t.data for _, t in pair.sent if Attribute.USE_CANDIDATE in decode(t.data))
    restarted = CheckAgent(
        controlling=False,
        session=SESSION,
        key=KEY,
        secret=b"C" * 32,
        new_id=lambda: bytes(12),
        settings=SETTINGS,
    )
    restarted.receive(pair.sent[0][1].data, THERE, HERE, 0.0)  # the check is authentic: answered, no more
    assert restarted.poll_transmit() is not None
    restarted.receive(nomination, THERE, HERE, 0.0)  # likewise: the answer does not say that it is the chosen one
    answer = list(iter(restarted.poll_transmit, None))[-1]
    assert Attribute.USE_CANDIDATE not in decode(answer.data)
    assert restarted.phase is Phase.CHECKING
    assert kinds(list(iter(restarted.poll_event, None))) == [PeerHeard]


def test_only_the_controlling_side_nominates() -> None:
    pair = Pair(nominate_at_once=False)
    pair.probe(pair.a)
    pair.run(0.5)
    with pytest.raises(ProtocolError, match="cannot nominate"):
        pair.b.nominate(THERE, HERE, pair.now)
    with pytest.raises(ProtocolError, match="cannot nominate"):
        pair.a.nominate(HERE, ELSEWHERE, pair.now)
    pair.a.nominate(HERE, THERE, pair.now)
    with pytest.raises(ProtocolError, match="cannot nominate"):
        pair.a.nominate(HERE, THERE, pair.now)


def test_a_nomination_sent_by_the_wrong_side_is_refused() -> None:
    forger = agent(False)
    forger.receive(first_check(agent(True)), THERE, HERE, 0.0)
    data = forger._codec.request(bytes(12), "direct", HERE, Attribute.USE_CANDIDATE, echo=b"A" * 16)
    with pytest.raises(AuthenticationError, match="wrong side"):
        agent(True).receive(data, HERE, THERE, 0.0)


def test_a_forged_source_nominates_nothing_though_its_author_is_the_peer() -> None:
    """Whoever holds the session key may say anything in anybody's name; what it can't have is what we sent there."""
    victim = ELSEWHERE
    attacker, target = agent(True), agent(False)
    target.receive(first_check(attacker), THERE, HERE, 0.0)  # from its own address, where it gets an answer
    answer = target.poll_transmit()
    assert answer is not None
    attacker.receive(answer.data, HERE, THERE, 0.0)
    own_nonce = attacker._pairs[HERE, THERE].nonce
    assert own_nonce is not None
    for echo in (own_nonce, None, bytes(16)):
        nomination = attacker._codec.request(bytes(12), "direct", THERE, Attribute.USE_CANDIDATE, echo=echo)
        target.receive(nomination, THERE, victim, 0.0)
    assert target.phase is Phase.CHECKING
    assert target.selected is None
    sent = [transmit for transmit in iter(target.poll_transmit, None) if transmit.remote == victim]
    assert len(sent) == 3  # one answer to each, smaller than what it answers
    assert all(len(transmit.data) < len(nomination) for transmit in sent)
    assert all(Attribute.USE_CANDIDATE not in decode(transmit.data) for transmit in sent)


def test_a_pair_chosen_on_trust_is_validated_by_the_acknowledgement_and_not_before() -> None:
    """The responder may have forged the source of its check: then nobody acknowledges."""
    pair = Pair(a=agent(True, trust=True))
    pair.probe(pair.b)
    pair.run(0.03)
    assert pair.a.selected == (HERE, THERE)
    assert not pair.a.path_validated
    pair.run(0.5)
    assert pair.agreed
    assert pair.a.path_validated
    assert pair.b.path_validated
    assert kinds(pair.events_a).count(PathValidated) == 1

    forged = Pair(a=agent(True, trust=True), lose=lambda _, transmit: transmit.base == HERE)
    forged.probe(forged.b)
    forged.run(20.0)
    assert not forged.a.path_validated
    assert forged.a.phase is Phase.ENDED


def test_a_nomination_that_gives_back_another_endpoints_nonce_is_said_again_with_the_right_one() -> None:
    """We are seen at another endpoint than the one that the peer addressed; its answer says so."""
    controlling, controlled = agent(True, trust=True), agent(False)
    controlled.probe(THERE, HERE, "direct", 0.0, (0.0,))
    check = controlled.poll_transmit()
    assert check is not None
    controlling.receive(check.data, HERE, THERE, 0.0)
    controlling.nominate(HERE, THERE, 0.0)
    for _ in range(3):
        for transmit in list(iter(controlling.poll_transmit, None)):
            if decode(transmit.data).cls is StunClass.REQUEST:
                controlled.receive(transmit.data, THERE, ELSEWHERE, 0.0)  # our NAT gave it another mapping
        for transmit in list(iter(controlled.poll_transmit, None)):
            controlling.receive(transmit.data, HERE, THERE, 0.0)
    assert controlled.selected == (THERE, ELSEWHERE)
    assert controlling.phase is Phase.SELECTED


def test_a_second_nomination_is_ignored_and_the_first_stands() -> None:
    pair = connected()
    nomination = next(t for _, t in pair.sent if Attribute.USE_CANDIDATE in decode(t.data))
    pair.b.receive(nomination.data, THERE, ELSEWHERE, pair.now)
    assert pair.b.selected == (THERE, HERE)
    assert kinds(pair.events_b).count(Nominated) == 1
    assert pair.b.poll_event() is None


def test_an_answer_from_another_place_than_was_asked_verifies_nothing() -> None:
    """RFC 8445 section 7.2.5.2.1: the addresses must be symmetric."""
    pair = Pair(nominate_at_once=False)
    pair.probe(pair.a)
    pair.settle()
    pair.b.receive(pair.sent[0][1].data, THERE, HERE, 0.0)
    answer = pair.b.poll_transmit()
    assert answer is not None
    pair.a.receive(answer.data, HERE, ELSEWHERE, 0.0)
    pair.a.receive(answer.data, HERE, THERE, 0.0)  # too late: the transaction has been used up
    pair.settle()
    assert PairVerified not in kinds(pair.events_a)


def test_a_recorded_answer_verifies_nothing_twice() -> None:
    pair = Pair(nominate_at_once=False)
    pair.probe(pair.a)
    pair.run(0.05)
    answer = next(transmit for _, transmit in pair.sent if transmit.base == THERE)
    pair.a.receive(answer.data, HERE, ELSEWHERE, pair.now)
    pair.settle()
    assert kinds(pair.events_a).count(PairVerified) == 1
    assert not pair.a.knows(HERE, ELSEWHERE)


def test_pairs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MAX_PAIRS", 50)
    side = agent(True)
    for port in range(1, 150):
        side.probe(HERE, Endpoint.of("192.0.2.9", port), "random_probe", 0.0, (0.0,))
    sent = sum(1 for _ in iter(side.poll_transmit, None))
    assert sent == 50


# -- consent --------------------------------------------------------------------------------------------------------


def test_consent_is_asked_for_in_silence_and_keeps_both_sides_alive() -> None:
    pair = connected()
    pair.run(300.0)
    assert pair.agreed
    asked = [
        at
        for at, transmit in pair.sent
        if at > 1.0 and transmit.base == HERE and decode(transmit.data).cls is StunClass.REQUEST
    ]
    assert 0 < len(asked) <= 300 / 15
    assert min(asked) >= 15.0


def test_what_the_peer_sends_is_no_consent() -> None:
    """It may come from anywhere, in the name of an address that does not want our data any more."""
    pair = connected()
    pair.lose = lambda _, transmit: transmit.base == THERE and decode(transmit.data).cls is StunClass.SUCCESS
    deaf = pair.now
    for second in range(40):
        pair.b._send_check(pair.b._pairs[THERE, HERE], None, pair.now)
        pair.run(deaf + second)
    [ended] = [event for event in pair.events_a if isinstance(event, CheckingEnded)]
    assert ended.reason.startswith("no answer from the peer for 3")


def test_without_consent_it_ends_after_thirty_seconds_on_both_sides() -> None:
    pair = connected()
    silence = pair.now
    pair.lose = lambda *_: True
    pair.run(silence + 29.0)
    assert pair.agreed
    pair.run(silence + 35.0)
    for events in (pair.events_a, pair.events_b):
        [ended] = [event for event in events if isinstance(event, CheckingEnded)]
        assert ended.reason.startswith("no answer from the peer for 3")
        assert not ended.by_peer
    assert pair.a.poll_timeout() is None
    assert pair.b.poll_timeout() is None


def test_losses_during_consent_do_not_end_it() -> None:
    pair = connected()
    luck = random.Random(1)
    pair.lose = lambda *_: luck.random() < 0.3
    pair.run(1200.0)
    assert pair.agreed


# -- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["a", "b"])
def test_either_side_closes_and_the_other_is_told(side: str) -> None:
    pair = connected()
    closing, told = (pair.a, pair.events_b) if side == "a" else (pair.b, pair.events_a)
    closing.close(pair.now)
    pair.run(pair.now + 0.1)
    assert told[-1] == CheckingEnded("closed by the peer", by_peer=True)
    assert pair.a.phase is pair.b.phase is Phase.ENDED
    assert pair.a.poll_timeout() is None
    before = len(pair.sent)
    closing.close(pair.now)
    pair.run(pair.now + 50)
    assert len(pair.sent) == before


@pytest.mark.parametrize("lost", range(len(CLOSE_OFFSETS)))
def test_the_close_is_repeated(lost: int) -> None:
    pair = connected()
    before = len(pair.sent)
    pair.lose = lambda number, _: number <= before + lost
    pair.a.close(pair.now)
    began = pair.now
    pair.run(pair.now + 3.0)
    assert pair.events_b[-1] == CheckingEnded("closed by the peer", by_peer=True)
    assert pair.events_a[-1] == CheckingEnded("closed", by_peer=False)
    assert [at - began for at, transmit in pair.sent[before:] if transmit.base == HERE] == pytest.approx(
        CLOSE_OFFSETS[: lost + 1]
    )


def test_a_close_that_nobody_answers_ends_all_the_same() -> None:
    pair = connected()
    pair.lose = lambda *_: True
    pair.a.close(pair.now)
    began = pair.now
    pair.run(pair.now + 5.0)
    assert pair.a.phase is Phase.ENDED
    assert pair.sent[-1][0] - began == pytest.approx(CLOSE_OFFSETS[-1])
    assert LAST_ANSWER == 1.0


def test_a_close_on_another_pair_than_the_selected_ends_nothing() -> None:
    pair = connected()
    pair.a.close(pair.now)
    pair.settle()
    close = pair.sent[-1][1]
    pair.b.receive(close.data, THERE, ELSEWHERE, pair.now)
    assert pair.b.phase is Phase.SELECTED


def test_close_before_anything_was_chosen_is_silent() -> None:
    pair = Pair(nominate_at_once=False)
    pair.probe(pair.a)
    pair.run(0.5)
    before = len(pair.sent)
    pair.a.close(pair.now)
    pair.run(10.0)
    assert pair.events_a[-1] == CheckingEnded("closed", by_peer=False)
    assert [transmit for _, transmit in pair.sent[before:] if transmit.base == HERE] == []


def test_abandoning_is_silent_and_final() -> None:
    pair = connected()
    before = len(pair.sent)
    pair.a.abandon("superseded")
    pair.a.abandon("again")
    pair.run(pair.now + 10.0)
    assert [event for event in pair.events_a if isinstance(event, CheckingEnded)] == [
        CheckingEnded("superseded", False)
    ]
    assert [transmit for _, transmit in pair.sent[before:] if transmit.base == HERE] == []


def test_undecided_until_acknowledged() -> None:
    pair = Pair(nominate_at_once=False)
    assert pair.a.undecided
    assert not pair.b.undecided
    pair.probe(pair.a)
    pair.run(0.5)
    pair.a.nominate(HERE, THERE, pair.now)
    assert pair.a.undecided
    pair.run(1.0)
    assert not pair.a.undecided


def test_a_refusal_counts_for_who_knows_the_key_and_only_while_checking() -> None:
    a = agent(True)
    a.probe(HERE, THERE, "direct", 0.0)
    sent = a.poll_transmit()
    assert sent is not None
    with pytest.raises(AuthenticationError):
        a.receive(refusal_of(sent.data, bytes(32), "no"), HERE, THERE, 0.1)
    assert a.poll_event() is None
    answer = refusal_of(sent.data, KEY, "no" * 200)
    assert len(answer) <= len(sent.data)
    a.receive(answer, HERE, THERE, 0.1)
    assert a.poll_event() == PeerHeard()
    told = a.poll_event()
    assert isinstance(told, PeerRefused)
    assert told.reason.startswith("nono")
    a.abandon("over")
    a.receive(answer, HERE, THERE, 0.2)
    assert not isinstance(a.poll_event(), PeerRefused)


# -- what the other end's machine says ---------------------------------------------------------------------------


def test_a_port_that_its_machine_refuses_again_and_again_is_over_within_four_seconds() -> None:
    pair = connected()
    pair.b.abandon("killed")
    pair.lose = lambda *_: True
    began, asked = pair.now, len(pair.sent)
    pair.a.refused(pair.now)
    while pair.a.phase is not Phase.ENDED:
        before = len(pair.sent)
        pair.run(pair.now + 0.05)
        if len(pair.sent) > before:  # each question is refused
            pair.a.refused(pair.now)
    pair.settle()
    assert 3.0 <= pair.now - began < 4.0
    assert 5 <= len(pair.sent) - asked <= 10
    assert pair.events_a[-1] == CheckingEnded(f"nobody listens at {THERE} any more", by_peer=False)


def test_a_refusal_that_is_forged_ends_nothing_and_asks_little() -> None:
    """A hundred a second, for 20 s, and every fourth datagram is lost."""
    pair = connected()
    asked = len(pair.sent)
    pair.lose = lambda number, _: number % 4 == 0
    for _ in range(2_000):
        pair.a.refused(pair.now)
        pair.run(pair.now + 0.01)
    assert pair.agreed
    assert len(pair.sent) - asked < 2.2 * 20 / 0.4


def test_when_the_other_end_is_in_doubt_it_is_asked_once() -> None:
    pair = connected()
    before = len(pair.sent)
    pair.a.ask(pair.now)
    pair.run(pair.now + 10.0)  # before the next consent
    classes = [decode(transmit.data).cls for _, transmit in pair.sent[before:]]
    assert classes == [StunClass.REQUEST, StunClass.SUCCESS]
    assert pair.agreed


def test_while_nothing_is_chosen_nobody_is_asked() -> None:
    pair = Pair(nominate_at_once=False)
    pair.a.ask(pair.now)
    assert pair.a.poll_transmit() is None


def test_before_a_pair_is_chosen_refusals_mean_nothing() -> None:
    pair = Pair(nominate_at_once=False)
    pair.probe(pair.a)
    for _ in range(10):
        pair.a.refused(pair.now)
        pair.run(pair.now + 0.5)
    assert pair.a.phase is Phase.CHECKING
