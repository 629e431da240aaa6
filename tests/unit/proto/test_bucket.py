from __future__ import annotations

import pytest

from warpgate.proto.bucket import TokenBucket


def test_a_burst_then_a_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(0.0) == pytest.approx(0.5, abs=1e-5)
    assert [bucket.take(0.51), bucket.take(0.51)] == [True, False]


def test_whoever_waits_as_long_as_told_finds_a_token() -> None:
    bucket = TokenBucket(rate=0.3, burst=1.0, now=0.1)
    now = 0.1
    for _ in range(100):
        assert bucket.take(now)
        now += bucket.wait(now)


def test_what_was_overdrawn_is_waited_for() -> None:
    bucket = TokenBucket(rate=100.0, burst=100.0, now=0.0)
    bucket.overdraw(300.0)
    assert bucket.wait(0.0) == pytest.approx(2.01, abs=1e-3)
    assert not bucket.full(2.9)
    assert bucket.full(3.0)


def test_a_clock_that_steps_back_gives_no_tokens() -> None:
    bucket = TokenBucket(rate=1.0, burst=1.0, now=10.0)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)
    assert not bucket.take(5.5)
    assert bucket.take(6.1)
