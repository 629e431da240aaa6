"""How long does a fault of the networks beneath a durable pipe interrupt it, and is anything lost?

64 bytes every 10 ms, echoed, between two nodes that are 40 ms apart and 40 ms from each server; the longest time
without an echo, of each of so many faults in a row on one connection (`fresh`: each on a new one). An idle pipe: how
long the first echo after the fault takes.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import faults
from bench.faults import Fault, Ground, ground
from bench.rows import Row, show

COUNT = 20
SETTLED = 3.0  # before a fault
WATCHED = 2.5  # after it, at least
# Where a host's router has lost what it knew, nobody reaches that host before it sends something itself: on an idle
# pipe the next check, 11 s after the last one at most, and the round trips until it has found that out.
OWN_CHECK = 12.5
EASY, FIREWALLED, HARD = ("eim-apdf", "eim-apdf"), ("firewalled", "firewalled"), ("edm", "edm")


@dataclass(frozen=True, slots=True)
class Case:
    """`p50`, `p95`: limits, seconds. `relays`: how many are configured. `settled`: seconds before the fault."""

    what: str
    fault: Fault
    p50: float
    p95: float
    kinds: tuple[str, str] = EASY
    family: int = 4
    relays: int = 0
    idle: bool = False
    fresh: bool = False
    settled: float = SETTLED
    watched: float = WATCHED

    @property
    def name(self) -> str:
        words = [self.what, "IPv6" if self.family == 6 else "", "idle" if self.idle else ""]
        return ", ".join(word for word in words if word)


MOVES = (
    Case("the initiator moves", faults.initiator_moves, 0.5, 1.0),
    Case("the listener moves", faults.listener_moves, 0.5, 1.0),
    Case("both move at once", faults.both_move, 0.7, 1.2),
)
UNSEEN = Case("another public address, unseen", faults.another_public_address, 1.0, 1.7)
DROPPED = Case("the path is dropped, servers in reach", faults.path_dropped, 1.0, 1.7, fresh=True)
DARKNESS = Case("3 s of darkness", faults.darkness, 3.2, 3.4, watched=2.0)
FORGOTTEN = Case("the routers forget their mappings", faults.mappings_forgotten, 0.1, 0.5)
UPGRADE = Case(
    "relayed, then direct",
    faults.nothing,
    0.03,
    0.05,
    ("edm", "eim-apdf"),
    relays=1,
    fresh=True,
    settled=0.0,
    watched=4.0,
)
CUT_OFF = Case(
    "the sites are cut off from each other, a relay configured",
    faults.sites_apart,
    1.0,
    1.7,
    relays=1,
    fresh=True,
)
WITH_A_RELAY = (
    UPGRADE,
    Case("relayed, and one moves", faults.one_moves, 0.5, 0.8, HARD, relays=1),
    Case("relayed, and both move", faults.both_move, 0.7, 1.2, HARD, relays=1),
    Case("relayed, another public address, unseen", faults.another_public_address, 1.0, 1.7, HARD, relays=1),
    Case("both move at once, a relay configured", faults.both_move, 0.7, 1.2, relays=1),
    CUT_OFF,
    Case("relay killed while relayed, a second one configured", faults.relay_killed, 1.0, 2.0, HARD, relays=2),
)
BUSY = (*MOVES, UNSEEN, DROPPED, DARKNESS, FORGOTTEN)
CASES = (
    *BUSY,
    *WITH_A_RELAY,
    *(replace(case, family=6, kinds=FIREWALLED) for case in BUSY if case is not UNSEEN),
    *(replace(case, idle=True, watched=1.0) for case in (*MOVES, DROPPED)),
    *(replace(case, idle=True, watched=1.0, p50=OWN_CHECK, p95=OWN_CHECK) for case in (UNSEEN, FORGOTTEN)),
)


@dataclass(frozen=True, slots=True)
class Result:
    """`seconds`: of each fault; `fault`: what was lost, doubled or reordered, "" for nothing."""

    case: Case
    seconds: tuple[float, ...]
    fault: str
    counters: int

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]

    @property
    def worst(self) -> float:
        return max(self.seconds)

    def rows(self) -> list[Row]:
        spread = f"(n={len(self.seconds)}, worst {self.worst:.2f})"
        return [
            Row(f"{self.case.name}: p50", self.p50, self.case.p50, "s", note=spread),
            Row(f"{self.case.name}: p95", self.p95, self.case.p95, "s"),
            Row(f"{self.case.name}: streams that were not whole", bool(self.fault), 0, "", note=self.fault),
        ]

    def line(self) -> str:
        """A row of the table in docs/durability.md."""
        case = self.case
        return f"| {case.name} | {self.p50:.2f} | {self.p95:.2f} | {self.worst:.2f} | {case.p50:g} / {case.p95:g} |"


async def measure(case: Case, count: int, *, iroh: bool = False) -> Result:
    """`iroh`: of that instead of ours."""
    seconds: list[float] = []
    counters, wrong = 0, ""
    async with ground(case.kinds, family=case.family, relays=case.relays, iroh=iroh) as field:
        for run in range(count):
            if case.fresh or not run or math.isinf(seconds[-1]):
                field.lab.internet.heal()
                await field.begin(count=not case.idle)
            since = time.monotonic()
            await asyncio.sleep(case.settled)
            if case.settled:
                since = time.monotonic()
            await case.fault(field)
            seconds.append(await interruption(case, field, since))
            await tell(case, field, since, seconds[-1])
            field.runs += 1
            if not case.idle and (case.fresh or run == count - 1 or math.isinf(seconds[-1])):
                counted = await field.a.counted(since, stop=True)
                counters += counted.received
                wrong = wrong or counted.fault
    return Result(case, tuple(seconds), wrong, counters)


async def interruption(case: Case, field: Ground, since: float) -> float:
    """Of this fault, seconds; infinity: the pipe did not go on."""
    if case.idle:
        await asyncio.sleep(case.watched)
        return await field.a.answered(0)
    counted = await field.goes_on(since, case.watched)
    return math.inf if counted.fault else counted.worst


async def tell(case: Case, field: Ground, since: float, seconds: float) -> None:
    """With WARPGATE_BENCH_TRACE=SECONDS: what both nodes said during an interruption of more than so many seconds."""
    limit = os.environ.get("WARPGATE_BENCH_TRACE")
    traces = [(name, await node.trace()) for name, node in (("a", field.a), ("b", field.b))]
    if limit is None or seconds < float(limit):
        return
    print(f"  {case.name}: {seconds:.2f} s")
    said = [(event.pop("now") - since, name, event) for name, trace in traces for event in trace]
    for when, name, event in sorted(said, key=lambda each: each[0]):
        if when > -0.1:
            print(f"    {when:7.3f} {name} {event.pop('event')} {json.dumps(event)[:220]}")


async def run(count: int, words: Sequence[str]) -> list[Result]:
    results = []
    for case in CASES:
        if all(word in case.name for word in words):
            results.append(await measure(case, count))
            show(results[-1].rows())
    print("\n| fault | p50 | p95 | worst | limit |\n|---|---|---|---|---|")
    print("\n".join(result.line() for result in results))
    return results


def main() -> bool:
    """Arguments: how many faults a row, and words that its name must have."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    results = asyncio.run(run(count, sys.argv[2:]))
    print(f"{sum(result.counters for result in results)} counters came back in order")
    return all(row.holds for result in results for row in result.rows())


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
