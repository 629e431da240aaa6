"""How long does a fault interrupt a durable pipe, and an iroh connection in the same lab in the same run?

Needs the package `iroh` (`pip install iroh`) and its relay server on the PATH (`cargo install iroh-relay --features
server`); prints that and is content where they are not there. See `iroh_agent` for why direct paths are between public
addresses. Each has a relay, 40 ms away; we have our broker and STUN server besides.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import shutil
import sys
from dataclasses import replace

from bench import faults
from bench.durability import DARKNESS, DROPPED, FORGOTTEN, HARD, MOVES, UNSEEN, Case, Result, measure
from bench.rows import Row, show

COUNT = 6
PUBLIC = ("public", "public")
CASES = (
    *(replace(case, kinds=PUBLIC, relays=1) for case in (*MOVES, DARKNESS, DROPPED)),
    Case("relayed, and one moves", faults.one_moves, 0.5, 0.8, HARD, relays=1),
    *(
        replace(case, what=f"relayed: {case.what}", kinds=HARD, relays=1)
        for case in (MOVES[-1], UNSEEN, DARKNESS, FORGOTTEN)
    ),
)


def told(result: Result) -> str:
    """The median, and the longest or how many connections ended."""
    died = sum(map(math.isinf, result.seconds))
    return f"{result.p50:.2f} | {result.worst:.2f}" if not died else f"{result.p50:.2f} | {died} died"


async def run(count: int) -> list[Row]:
    rows, table = [], []
    for case in CASES:
        ours, theirs = await measure(case, count), await measure(case, count, iroh=True)
        rows.append(Row(f"{case.name}: p50, beside iroh", ours.p50, theirs.p50, "s", note=f"(n={count})"))
        rows.append(Row(f"{case.name}: streams that were not whole", bool(ours.fault), 0, "", note=ours.fault))
        show(rows[-2:])
        table.append(f"| {case.name} | {told(ours)} | {told(theirs)} |")
    print("\n| fault | p50 | worst | iroh's p50 | iroh's worst |\n|---|---|---|---|---|")
    print("\n".join(table))
    return rows


def main() -> bool:
    """Argument: how many faults a row."""
    if importlib.util.find_spec("iroh") is None or shutil.which("iroh-relay") is None:
        print("left out: there is no package iroh, or no iroh-relay on the PATH")
        return True
    rows = asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT))
    return all(row.holds for row in rows)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
