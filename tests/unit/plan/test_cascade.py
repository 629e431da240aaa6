"""Which strategies run, as values compared whole."""

from __future__ import annotations

import pytest

from warpgate.errors import ConfigError
from warpgate.model.endpoint import Mode, Transport
from warpgate.plan.cascade import CARRIERS, Plan, Skipped, Step, Verdict, make_plan

TCP, UDP, BOTH = frozenset({Transport.TCP}), frozenset({Transport.UDP}), frozenset(Transport)
VERDICTS = [
    Verdict("direct", BOTH, needs_signal=False, unsuitable=None),
    Verdict("reverse", TCP, needs_signal=True, unsuitable="none of our addresses can be called"),
    Verdict("udp_punch", UDP, needs_signal=True, unsuitable=None),
    Verdict("tcp_punch", TCP, needs_signal=True, unsuitable=None),
]
UNCALLED = Skipped("reverse", "none of our addresses can be called")
NO_BROKER = "the peer's address names no broker to signal over"


def test_a_stream_runs_over_whatever_comes() -> None:
    assert make_plan(VERDICTS, Mode.STREAM) == Plan(
        (Step("direct", BOTH), Step("udp_punch", UDP), Step("tcp_punch", TCP)), (UNCALLED,)
    )


def test_a_stream_over_tcp_alone() -> None:
    assert make_plan(VERDICTS, Mode.STREAM, Transport.TCP) == Plan(
        (Step("direct", TCP), Step("tcp_punch", TCP)), (UNCALLED, Skipped("udp_punch", "makes no TCP link"))
    )


def test_datagrams_run_over_udp() -> None:
    skipped = (Skipped("reverse", "makes no UDP link"), Skipped("tcp_punch", "makes no UDP link"))
    expected = Plan((Step("direct", UDP), Step("udp_punch", UDP)), skipped)
    assert make_plan(VERDICTS, Mode.DATAGRAM) == expected
    assert make_plan(VERDICTS, Mode.DATAGRAM, Transport.UDP) == expected


def test_datagrams_over_tcp_there_are_none() -> None:
    with pytest.raises(ConfigError, match="a datagram pipe cannot run over TCP"):
        make_plan(VERDICTS, Mode.DATAGRAM, Transport.TCP)


def test_without_a_broker_only_what_needs_no_signal_runs() -> None:
    assert make_plan(VERDICTS, Mode.STREAM, can_signal=False) == Plan(
        (Step("direct", BOTH),), (UNCALLED, Skipped("udp_punch", NO_BROKER), Skipped("tcp_punch", NO_BROKER))
    )


def test_reasons_name_what_there_would_be() -> None:
    odd = [Verdict("odd", frozenset(), needs_signal=False, unsuitable=None)]
    assert make_plan(odd, Mode.STREAM).skipped == (Skipped("odd", "makes no TCP or UDP link"),)


def test_nothing_to_do() -> None:
    assert make_plan([], Mode.STREAM) == Plan((), ())


def test_every_mode_has_its_carriers() -> None:
    assert set(CARRIERS) == set(Mode)
    assert all(CARRIERS.values())
