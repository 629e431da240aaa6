"""How soon does a stream carry its first byte when each of two links loses 10 %? In virtual time, by kind of pipe.

EIM x EIM, each link in each direction; a signal that meets loss comes 0.24 s later, as MQTT runs over TCP. From
`connect` until the listener has the byte.
"""

from __future__ import annotations

import asyncio
import sys

from bench.rows import Row, median_ms, show
from warpgate_testing.clock import run_virtual
from warpgate_testing.pair import Pair

LOSS = 0.10
COUNT = 20
Options = dict[str, bool]
FIRST_BYTE = 1000.0  # ms, 95th percentile
# TCP repeats a lost SYN after 1 s and what else is lost after 0.24 s here, twice as long each time.
FIRST_BYTE_OF_TCP = 2000.0
PIPES: tuple[tuple[str, Options, float], ...] = (
    ("durable", {"durable": True}, FIRST_BYTE),
    ("plain", {}, FIRST_BYTE_OF_TCP),
    ("encrypted", {"secure": True}, FIRST_BYTE_OF_TCP),
)
KINDS = (("eim-apdf", "eim-apdf"), ("eim-adf", "eim-apdf"), ("eim-apdf", "eim-eif"))


async def first_byte(kinds: tuple[str, str], seed: int, options: Options) -> tuple[bool, float]:
    """Whether the pipe was direct, and the seconds."""
    async with Pair(*kinds, loss=LOSS, seed=seed) as pair:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def heard() -> float:
            other = await pair.b.accept()
            await other.recv()
            seconds = loop.time() - began
            await other.close()
            return seconds

        hearing = asyncio.ensure_future(heard())
        one = await pair.a.connect(pair.b.address, **options)
        await one.send(b"!")
        seconds = await hearing
        direct = not one.relayed
        await one.close()
        return direct, seconds


def rows_of(pipe: str, options: Options, limit: float, kinds: tuple[str, str], count: int) -> list[Row]:
    done = [run_virtual(first_byte(kinds, seed, options)) for seed in range(count)]
    times = sorted(seconds for _, seconds in done)
    what = f"{kinds[0]} -> {kinds[1]}, {pipe}, 10 % loss on each link"
    late = times[max(0, -(-95 * len(times) // 100) - 1)]
    note = f"median {median_ms(times):.0f} ms, slowest {times[-1] * 1000:.0f} ms"
    return [
        Row(f"{what}: direct", sum(direct for direct, _ in done), count, "of", at_most=False),
        Row(f"{what}: first byte, p95", late * 1000, limit, note=note),
    ]


def main() -> bool:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    return show([row for pipe in PIPES for kinds in KINDS for row in rows_of(*pipe, kinds, count)])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
