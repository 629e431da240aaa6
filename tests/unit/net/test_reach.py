"""Several addresses of one host: in which order, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net.reach import ADDRESSES_TRIED, ATTEMPT_DELAY, dial_first, in_order
from warpgate_testing.clock import run_virtual


def test_families_take_turns_and_few_are_tried() -> None:
    four = tuple(Endpoint.of(f"192.0.2.{i}", 1) for i in range(3))
    six = (Endpoint.of("2001:db8::1", 1),)
    assert in_order((*six, *four)) == (six[0], *four)
    assert in_order((*four, *six)) == (four[0], six[0], *four[1:])
    assert in_order(()) == ()
    assert len(in_order(four * 10)) == ADDRESSES_TRIED


def test_a_family_that_leads_nowhere_costs_the_other_no_address() -> None:
    six = tuple(Endpoint.of(f"2001:db8::{i}", 1) for i in range(1, 9))
    four = tuple(Endpoint.of(f"192.0.2.{i}", 1) for i in range(ADDRESSES_TRIED))
    assert set(four) <= set(in_order((*six, *four)))


WAYS = [(Endpoint.of(f"192.0.2.{last}", 80), None) for last in range(4)]


class Dialler:
    """Answers each way as it is told: a pause, then a stream or a refusal."""

    def __init__(self, *answers: float | None) -> None:
        self.answers = dict(zip(WAYS, answers, strict=False))
        self.asked: list[float] = []
        self.aborted = 0

    async def __call__(self, remote: Endpoint, local: Endpoint | None) -> Any:
        self.asked.append(asyncio.get_running_loop().time())
        seconds = self.answers[remote, local]
        if seconds is None:
            raise NetworkError(f"{remote} refused")
        await asyncio.sleep(seconds)
        return self

    def abort(self) -> None:
        self.aborted += 1


def dialled(dialler: Dialler, ways: int, patience: float | None = None) -> float:
    async def main() -> float:
        await dial_first(dialler, WAYS[:ways], patience)
        return asyncio.get_running_loop().time()

    return run_virtual(main())


def test_each_has_its_turn_while_those_before_are_silent() -> None:
    silent = Dialler(60.0, 60.0, 0.1)
    assert dialled(silent, 3) == pytest.approx(2 * ATTEMPT_DELAY + 0.1)
    assert silent.asked == [0.0, ATTEMPT_DELAY, 2 * ATTEMPT_DELAY]


def test_whoever_fails_makes_room_at_once() -> None:
    refusing = Dialler(None, None, 60.0, 0.0)
    assert dialled(refusing, 4) == ATTEMPT_DELAY
    assert refusing.asked == [0.0, 0.0, 0.0, ATTEMPT_DELAY]


def test_one_that_answers_late_is_aborted() -> None:
    late = Dialler(ATTEMPT_DELAY, 0.0)
    dialled(late, 2)
    assert late.aborted == 1


def test_every_reason_is_told() -> None:
    with pytest.raises(NetworkError, match=r"192\.0\.2\.0:80 refused; connect to 192\.0\.2\.1:80: no answer"):
        dialled(Dialler(None, 60.0), 2, patience=5.0)
    with pytest.raises(NetworkError, match="no address to connect to"):
        dialled(Dialler(), 0)
