"""`make bench`: every script after the other; exit status 1 when a limit is missed. Names as arguments choose some."""

from __future__ import annotations

import importlib
import sys

ALL = (
    "startup",
    "connect_times",
    "look_up",
    "pairs",
    "symmetric",
    "relays",
    "hostile",
    "attacks",
    "gateway",
    "adversity",
    "lossy_links",
    "aged_mappings",
    "households",
    "throughput",
    "tls_on_pipes",
    "stream_over_udp",
    "slow_reader",
    "dead_peers",
    "durability",
    "beside_iroh",
    "moving_transfer",
    "files",
    "idle_pipes",
    "names",
    "rendezvous",
    "serving",
    "footprint",
)


def main() -> int:
    chosen = sys.argv[1:] or ALL
    sys.argv = sys.argv[:1]
    missed = []
    for name in chosen:
        print(
            f"\n== {name}: {(importlib.import_module(f'bench.{name}').__doc__ or '').splitlines()[0]}",
            flush=True,
        )
        if not importlib.import_module(f"bench.{name}").main():
            missed.append(name)
    print(f"\nmissed a limit: {', '.join(missed)}" if missed else "\nall limits hold")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
