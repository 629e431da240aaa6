"""Birthday probing gives a session thousands of pairs: each costs once, not at every turn."""

from __future__ import annotations

import itertools
import time

from warpgate.model.endpoint import Endpoint
from warpgate.proto.check import CheckAgent, CheckSettings
from warpgate.proto.machine import Transmit

BASE = Endpoint.parse("192.0.2.1:4000")
PEER = "198.51.100.7"


def agent() -> CheckAgent:
    ids = itertools.count(1)
    return CheckAgent(
        controlling=True,
        session=bytes(16),
        key=bytes(32),
        secret=bytes(32),
        new_id=lambda: next(ids).to_bytes(12, "big"),
        settings=CheckSettings((0.0, 0.5), 15.0, 30.0),
    )


def sent(checks: CheckAgent) -> list[Transmit]:
    found = []
    while (transmit := checks.poll_transmit()) is not None:
        found.append(transmit)
    return found


def test_checks_leave_in_the_order_of_their_times_whatever_the_pair() -> None:
    checks = agent()
    checks.probe(BASE, Endpoint.of(PEER, 2001), "one", 0.0, (0.3, 0.1))
    checks.probe(BASE, Endpoint.of(PEER, 2002), "other", 0.0, (0.2, 0.1), ttl=2)
    times = []
    while (at := checks.poll_timeout()) is not None:
        checks.handle_timeout(at)
        times += [(at, transmit.remote.port, transmit.ttl) for transmit in sent(checks)]
    assert times == [(0.1, 2001, None), (0.1, 2002, 2), (0.2, 2002, 2), (0.3, 2001, None)]


def seconds_a_turn(pairs: int) -> float:
    checks = agent()
    for port in range(pairs):
        checks.probe(BASE, Endpoint.of(PEER, 2000 + port), "random_probe", 0.0, (10.0 + port,))
    began = time.process_time()
    for _ in range(2000):
        checks.handle_timeout(1.0)
        checks.poll_timeout()
    return time.process_time() - began


def test_a_turn_costs_no_more_with_thousands_of_pairs() -> None:
    assert seconds_a_turn(4000) < 20 * seconds_a_turn(10)  # 400 times as many pairs
