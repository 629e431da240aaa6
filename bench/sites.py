"""Pairs of sites, each connected some times in both modes: what `pairs` and `hostile` print."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from bench.rig import repeat, rig
from bench.rows import Row, show

CARRIER = {"datagram": "udp", "stream": "tcp"}


async def both_modes(kinds: Iterable[tuple[str, str]], count: int) -> list[Row]:
    """A row a pair and mode, shown as it is measured: how many of `count` connects gave a direct pipe."""
    rows = []
    for kind_a, kind_b in kinds:
        async with rig(kind_a, kind_b) as lab:
            for mode, carrier in CARRIER.items():
                done = await repeat(count, lambda m=mode, c=carrier, lab=lab: lab.connect(m, c))  # type: ignore[misc]
                good = [one for one in done if one.ok and not one.relayed]
                winners = "/".join(sorted({one.plugin for one in good}))
                times = [one.seconds * 1000 for one in good] or [float("inf")]
                note = f"{winners}, median {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms"
                what = f"{kind_a} -> {kind_b}, {mode}"
                rows.append(Row(what, len(good), count, "of", at_most=False, note=note))
                show(rows[-1:])
                for one in done:
                    if not one.ok:
                        print("    ", one.error or "no echo", *one.report, sep="\n      ")
    return rows
