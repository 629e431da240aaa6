"""Does every pair that theory can cross without guessing get a direct pipe?

All ordered pairs of {public, firewalled, EIM with EIF, ADF, APDF, EDM} in which a side is public or EIF, every
EIM x EIM pair, and EDM x (EIM+ADF), which needs no guessing: datagrams over UDP, and streams over TCP.
"""

from __future__ import annotations

import asyncio
import statistics
import sys

from bench.rig import repeat, rig
from bench.rows import Row, show

KINDS = ("public", "firewalled", "eim-eif", "eim-adf", "eim-apdf", "edm")
OPEN = ("public", "eim-eif")
EIM = ("eim-eif", "eim-adf", "eim-apdf", "firewalled")
COUNT = 5
CARRIER = {"datagram": "udp", "stream": "tcp"}


def pairs() -> list[tuple[str, str]]:
    """Ordered: who initiates matters."""
    return [
        (a, b)
        for a in KINDS
        for b in KINDS
        if a in OPEN or b in OPEN or (a in EIM and b in EIM) or {a, b} == {"edm", "eim-adf"}
    ]


async def run(count: int) -> list[Row]:
    rows = []
    for kind_a, kind_b in pairs():
        async with rig(kind_a, kind_b) as lab:
            for mode in ("datagram", "stream"):
                done = await repeat(count, lambda lab=lab, mode=mode: lab.connect(mode, CARRIER[mode]))  # type: ignore[misc]
                good = [one for one in done if one.ok and not one.relayed]
                winners = "/".join(sorted({one.plugin for one in good}))
                times = [one.seconds for one in good] or [float("inf")]
                note = f"{winners}, median {statistics.median(times) * 1000:.0f} ms"
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
