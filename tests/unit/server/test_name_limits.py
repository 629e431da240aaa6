"""Networks and token buckets, in virtual time."""

from __future__ import annotations

import pytest

from warpgate.server.connections import Doorkeeper
from warpgate.server.limits import Limits, network_of
from warpgate.server.metrics import Metrics
from warpgate.server.throttle import Throttle


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.77", "192.0.2.77/32"),
        ("::ffff:192.0.2.77", "192.0.2.77/32"),
        ("2001:db8:1:22ff::1", "2001:db8:1:2200::/56"),
        ("2001:db8:1:2201:a:b:c:d", "2001:db8:1:2200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("", "unknown"),
        ("999.1.1.1", "unknown"),
        ("alice", "unknown"),
    ],
)
def test_networks(host: str, network: str) -> None:
    assert network_of(host) == network


def test_a_minutes_worth_at_once_and_then_the_rate() -> None:
    throttle = Throttle(6)
    assert [throttle.spend("a", 100.0) for _ in range(6)] == [0.0] * 6
    assert throttle.spend("a", 100.0) == pytest.approx(10.0)
    assert throttle.spend("a", 105.0) == pytest.approx(5.0)
    assert throttle.spend("a", 110.5) == 0.0
    assert throttle.spend("a", 110.5) > 9


def test_who_waits_long_has_no_more_than_a_full_bucket() -> None:
    throttle = Throttle(3)
    assert throttle.spend("a", 0.0) == 0.0
    assert [throttle.spend("a", 1e6) for _ in range(3)] == [0.0] * 3
    assert throttle.spend("a", 1e6) > 0


def test_each_has_a_bucket_of_its_own() -> None:
    throttle = Throttle(1)
    assert throttle.spend("a", 0.0) == throttle.spend("b", 0.0) == 0.0
    assert throttle.spend("a", 0.0) > 0


def test_no_limit() -> None:
    throttle = Throttle(None)
    assert not any(throttle.spend("a", 0.0) for _ in range(10_000))
    assert len(throttle) == 0


def test_memory_is_bounded_and_the_longest_unseen_is_forgotten() -> None:
    throttle = Throttle(1, remembered=3)
    for who in "abc":
        assert throttle.spend(who, 0.0) == 0.0
    assert throttle.spend("a", 0.0) > 0  # seen again: b is now the oldest
    assert throttle.spend("d", 0.0) == 0.0
    assert len(throttle) == 3
    assert throttle.spend("a", 0.0) > 0
    assert throttle.spend("b", 0.0) == 0.0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    throttle = Throttle(1)
    assert throttle.spend("a", 100.0) == 0.0
    assert throttle.spend("a", 50.0) > 0


def test_connections_are_counted_in_all_and_for_each_network() -> None:
    metrics = Metrics()
    door = Doorkeeper(Limits(connections=3, connections_per_network=2), metrics, behind_proxy=False)
    assert [door.admit("a") for _ in range(3)] == [True, True, False]
    assert [door.admit("b") for _ in range(2)] == [True, False]
    assert (metrics.connections, metrics.connections_refused) == (3, 2)
    door.leave("a")
    assert door.admit("b")


def test_behind_a_proxy_all_connections_are_of_one_network() -> None:
    door = Doorkeeper(Limits(connections=3, connections_per_network=1), Metrics(), behind_proxy=True)
    assert [door.admit("proxy") for _ in range(4)] == [True, True, True, False]
