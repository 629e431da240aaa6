"""The gate before a node's topic: rates, freshness, copies."""

from __future__ import annotations

import pytest

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.model.address import NodeAddress
from warpgate.proto import gate as gate_module
from warpgate.proto.envelope import Opened
from warpgate.proto.gate import Duplicate, EnvelopeGate, Freshness, Stale
from warpgate.proto.signals import Signal, SignalKind

ALICE, EVE = b"\x02" + b"a" * 32, b"\x02" + b"e" * 32
NOON = 1_700_000_000.0


def opened(number: int = 0, sender: bytes = ALICE, time: float = NOON) -> Opened:
    signal = Signal(SignalKind.OFFER, bytes(16), 0, time, b"a")
    return Opened(sender, number.to_bytes(16, "big"), signal, NodeAddress(sender))


def test_a_fresh_signal_passes_and_its_copy_is_a_duplicate() -> None:
    gate = EnvelopeGate(now=0.0)
    gate.admit(opened(), now=0.0)
    with pytest.raises(Duplicate):
        gate.admit(opened(), now=0.2)
    gate.admit(opened(sender=EVE), now=0.2)


def test_a_late_copy_is_a_replay() -> None:
    gate = EnvelopeGate(now=0.0)
    gate.admit(opened(), now=0.0)
    with pytest.raises(AuthenticationError, match="replayed") as caught:
        gate.admit(opened(), now=299.0)
    assert not isinstance(caught.value, Duplicate)


# -- freshness: of offers that begin a session ------------------------------------------------------------------------


def offered(time: float = NOON, token: bytes = b"", sender: bytes = ALICE, session: bytes = bytes(16)) -> Opened:
    signal = Signal(SignalKind.OFFER, session, 1, time, b"a", token=token)
    return Opened(sender, bytes(16), signal, NodeAddress(sender))


def freshness(started: float = -3600.0, secret: bytes = b"s" * 32) -> Freshness:
    return Freshness(secret, started)


@pytest.mark.parametrize("skew", [-300.0, 300.0])
def test_clocks_may_differ_by_five_minutes(skew: float) -> None:
    freshness().check(offered(NOON + skew), NOON, now=0.0)


@pytest.mark.parametrize("skew", [-301.0, 301.0, -NOON, 1e9])
def test_by_more_an_offer_is_fresh_only_with_our_token(skew: float) -> None:
    ours = freshness()
    with pytest.raises(Stale, match="by its sender's clock"):
        ours.check(offered(NOON + skew), NOON, now=100.0)
    ours.check(offered(NOON + skew, ours.token(ALICE, bytes(16), 100.0)), NOON, now=101.0)


def test_a_recording_made_before_this_process_began_is_stale() -> None:
    """An earlier process may have taken it: this one cannot know."""
    ours = freshness(started=0.0)
    with pytest.raises(Stale, match="before this node was started"):
        ours.check(offered(NOON - 1), NOON + 5, now=5.0)
    ours.check(offered(NOON + 1), NOON + 5, now=5.0)


def test_a_token_is_for_one_sender_one_session_one_process_and_a_minute() -> None:
    ours = freshness(started=0.0)
    token = ours.token(ALICE, bytes(16), 100.9)
    old = NOON - 200
    ours.check(offered(old, token), NOON, now=100.9)
    ours.check(offered(old, token), NOON, now=160.0)
    for now, made in (
        (160.1, offered(old, token)),
        (99.9, offered(old, token)),
        (101.0, offered(old, token, sender=EVE)),
        (101.0, offered(old, token, session=b"1" * 16)),
        (101.0, offered(old, freshness(secret=b"t" * 32).token(ALICE, bytes(16), 100.9))),
        (101.0, offered(old, token[:-1])),
        (101.0, offered(old, token[:4])),
        (101.0, offered(old, b"x")),
    ):
        with pytest.raises(Stale):
            ours.check(made, NOON, now=now)


def test_a_signal_from_the_future_cannot_be_replayed_later_either() -> None:
    gate, ahead = EnvelopeGate(now=0.0), offered(NOON + 300)
    gate.admit(ahead, now=0.0)
    with pytest.raises(AuthenticationError, match="replayed"):
        gate.admit(ahead, now=600.0)
    with pytest.raises(Stale):
        freshness().check(ahead, NOON + 601, now=601.0)


# -- rates ------------------------------------------------------------------------------------------------------------


def test_a_sender_has_a_burst_and_a_rate_of_its_own() -> None:
    gate = EnvelopeGate(now=0.0)
    for number in range(40):
        gate.admit(opened(number), now=0.0)
    with pytest.raises(AuthenticationError, match="over the rate"):
        gate.admit(opened(40), now=0.0)
    gate.admit(opened(0, sender=EVE), now=0.0)
    gate.admit(opened(40), now=0.05)
    with pytest.raises(AuthenticationError, match="over the rate"):
        gate.admit(opened(41), now=0.05)


def test_repeating_a_senders_envelopes_does_not_silence_it() -> None:
    gate = EnvelopeGate(now=0.0)
    gate.admit(opened(0), now=0.0)
    for _ in range(100):
        with pytest.raises(Duplicate):
            gate.admit(opened(0), now=0.0)
    gate.admit(opened(1), now=0.0)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_IDS", 8)
    monkeypatch.setattr(gate_module, "MAX_SENDERS", 8)
    gate = EnvelopeGate(now=0.0)
    for number in range(100):
        gate.admit(opened(number, sender=number.to_bytes(33, "big")), now=0.0)
    assert len(gate._seen) == len(gate._senders) == 8
    with pytest.raises(Duplicate):
        gate.admit(opened(99, sender=(99).to_bytes(33, "big")), now=0.0)


def test_ids_are_forgotten_when_they_cannot_be_fresh_any_more() -> None:
    gate = EnvelopeGate(now=0.0)
    gate.admit(opened(0), now=0.0)
    gate.admit(opened(1, time=NOON + 700), now=700.0)
    assert len(gate._seen) == 1


def test_the_cache_outlasts_a_flood() -> None:
    assert gate_module.MAX_IDS > gate_module.GLOBAL_RATE * gate_module.WINDOW + gate_module.GLOBAL_BURST


def test_size_and_flood_are_stopped_before_any_crypto() -> None:
    gate = EnvelopeGate(now=0.0)
    gate.admit_bytes(4096, now=0.0)
    with pytest.raises(DecodeError):
        gate.admit_bytes(4097, now=0.0)
    for _ in range(399):
        gate.admit_bytes(100, now=0.0)
    with pytest.raises(AuthenticationError, match="over the rate"):
        gate.admit_bytes(100, now=0.0)
    gate.admit_bytes(100, now=0.005)
    with pytest.raises(AuthenticationError, match="over the rate"):
        gate.admit_bytes(100, now=0.005)
