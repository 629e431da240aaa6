"""Does every pair that theory can cross without guessing get a direct pipe?

All ordered pairs of {public, firewalled, EIM with EIF, ADF, APDF, EDM} in which a side is public or EIF, every
EIM x EIM pair, and EDM x (EIM+ADF), which needs no guessing: datagrams over UDP, and streams over TCP.
"""

from __future__ import annotations

import asyncio
import sys

from bench.sites import both_modes

KINDS = ("public", "firewalled", "eim-eif", "eim-adf", "eim-apdf", "edm")
OPEN = ("public", "eim-eif")
EIM = ("eim-eif", "eim-adf", "eim-apdf", "firewalled")
COUNT = 5


def pairs() -> list[tuple[str, str]]:
    """Ordered: who initiates matters."""
    return [
        (a, b)
        for a in KINDS
        for b in KINDS
        if a in OPEN or b in OPEN or (a in EIM and b in EIM) or {a, b} == {"edm", "eim-adf"}
    ]


def main() -> bool:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    return all(row.holds for row in asyncio.run(both_modes(pairs(), count)))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
