"""Do punches pass routers that answer strangers with RST, or accept them (first-packet poisoning), 20 of 20?"""

from __future__ import annotations

import asyncio
import statistics
import sys

from bench.rig import repeat, rig
from bench.rows import Row, show

COUNT = 20
CASES = (
    ("eim-apdf+rst", "eim-apdf+rst"),
    ("eim-apdf+accept", "eim-apdf+accept"),
    ("masquerade+accept", "masquerade+accept"),
)


async def run(count: int) -> list[Row]:
    rows = []
    for kind_a, kind_b in CASES:
        async with rig(kind_a, kind_b) as lab:
            for mode in ("datagram", "stream"):
                transport = "tcp" if mode == "stream" else None
                done = await repeat(count, lambda m=mode, t=transport, lab=lab: lab.connect(m, t))  # type: ignore[misc]
                good = [one for one in done if one.ok]
                times = [one.seconds for one in good] or [float("inf")]
                note = f"median {statistics.median(times) * 1000:.0f} ms, slowest {max(times) * 1000:.0f} ms"
                rows.append(
                    Row(f"{kind_a} -> {kind_b}, {mode}", len(good), count, "of", at_most=False, note=note)
                )
                show(rows[-1:])
                for one in done:
                    if not one.ok:
                        print("    ", one.error or "no echo", *one.report, sep="\n      ")
    return rows


def main() -> bool:
    return all(row.holds for row in asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
