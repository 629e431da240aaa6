"""Do punches pass routers that answer strangers with RST, or accept them (first-packet poisoning), 20 of 20?"""

from __future__ import annotations

import asyncio
import sys

from bench.sites import both_modes

COUNT = 20
CASES = (
    ("eim-apdf+rst", "eim-apdf+rst"),
    ("eim-apdf+accept", "eim-apdf+accept"),
    ("masquerade+accept", "masquerade+accept"),
)


def main() -> bool:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    return all(row.holds for row in asyncio.run(both_modes(CASES, count)))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
