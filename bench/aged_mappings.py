"""Where a NAT forgets each mapping after 60 s whatever is sent, does a durable pipe move before? In virtual time.

An echo a second for six minutes, both ways, 20 times each. Two or three paths die until it is learnt; from then on no
echo is late. What it costs: the initiator's offers in that time, two for each path.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import Counter

from bench.rows import Row, show
from warpgate.core.pipes.base import Pipe
from warpgate.lazy_dataclass import dataclass
from warpgate_testing.clock import run_virtual
from warpgate_testing.pair import Pair

AGE = 60.0
WATCHED = 6 * AGE
LEARNT = 3.5 * AGE
LATE = 0.06  # one and a half round trips
COUNT = 20
KINDS = (
    ("eim-apdf-random+aged", "eim-apdf"),
    ("eim-apdf", "eim-apdf-random+aged"),
    ("edm-seq+aged", "eim-apdf"),
)


@dataclass(frozen=True, slots=True)
class Watched:
    """`late`: when echoes were, in seconds from the connect on; `slowest` of them."""

    late: tuple[float, ...]
    slowest: float
    offers: int


async def _echo(pipe: Pipe) -> None:
    while True:
        await pipe.send(await pipe.recv())


async def watch(kinds: tuple[str, str], seed: int) -> Watched:
    async with Pair(*kinds, seed=seed) as pair:
        loop = asyncio.get_running_loop()
        one = await pair.a.connect(pair.b.address, durable=True)
        other = await pair.b.accept()
        echoing = asyncio.ensure_future(_echo(other))
        began, waits = loop.time(), []
        while (asked := loop.time()) < began + WATCHED:
            await one.send(b"?")
            await one.recv()
            waits.append((asked - began, loop.time() - asked))
            await asyncio.sleep(1.0)
        echoing.cancel()
        said = Counter(type(event).__name__ for event in pair.events["a"])
        await one.close()
        await other.close()
    late = tuple(at for at, seconds in waits if seconds > LATE)
    return Watched(late, max(seconds for _, seconds in waits), said["SignalSent"])


def rows_of(kinds: tuple[str, str], count: int) -> list[Row]:
    runs = [run_virtual(watch(kinds, seed)) for seed in range(count)]
    what = f"{kinds[0]} -> {kinds[1]}"
    after = [sum(at > LEARNT for at in run.late) for run in runs]
    offers = [run.offers for run in runs]
    return [
        Row(f"{what}: late echoes once it is learnt", max(after), 0, "echoes", note=f"n={count}"),
        Row(f"{what}: slowest echo", max(run.slowest for run in runs) * 1000, 1500),
        Row(
            f"{what}: signals in six minutes",
            max(offers),
            60,
            "sent",
            note=f"median {statistics.median(offers):.0f}",
        ),
    ]


def main() -> bool:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    return show([row for kinds in KINDS for row in rows_of(kinds, count)])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
