"""Does each strategy reach the limit that counting messages sets (README, "How it works")?

s = 40 ms one-way signal, R = 40 ms, r = 20 ms. A usable pipe at the initiator, medians; allowed are 1.25 x the limit
plus 10 ms. Every connect is between fresh nodes on fresh ports, and one offer must have been the only signal.
"""

from __future__ import annotations

import asyncio
import statistics
from functools import partial

from bench.rig import ROUND_TRIP, Rig, repeat, rig
from bench.rows import Row, median_ms, show, spread
from warpgate.lab.steered import Connected

COUNT = 7
SIGNAL = ROUND_TRIP  # A to broker and broker to B: half a round trip each
ENCRYPTED = "encrypted"  # a stream with secure=True
# What, kind of A, kind of B, mode, transport, plugin, limit in seconds. Where a TCP punch and a stream on a UDP punch
# are both possible, either may win: what is measured of one alone is restricted to its transport.
CASES = (
    ("direct UDP", "public", "public", "datagram", None, "direct", ROUND_TRIP),
    ("direct TCP", "public", "public", "stream", None, "direct", 2 * ROUND_TRIP),
    ("reverse", "public", "eim-apdf", "stream", None, "reverse", SIGNAL + 1.5 * ROUND_TRIP),
    (
        "UDP punch, port-restricted both sides",
        "eim-apdf",
        "eim-apdf",
        "datagram",
        None,
        "udp_punch",
        SIGNAL + ROUND_TRIP / 2,
    ),
    (
        "TCP punch, port-restricted both sides",
        "eim-apdf",
        "eim-apdf",
        "stream",
        "tcp",
        "tcp_punch",
        SIGNAL + 2 * ROUND_TRIP,
    ),
    (
        "stream, port-restricted both sides",
        "eim-apdf",
        "eim-apdf",
        "stream",
        None,
        None,
        SIGNAL + 2 * ROUND_TRIP,
    ),
    (
        "stream, port-restricted both sides, no TCP",
        "eim-apdf+no-tcp",
        "eim-apdf+no-tcp",
        "stream",
        None,
        "udp_punch",
        SIGNAL + 1.5 * ROUND_TRIP,
    ),
    ("direct stream, no TCP", "eim-eif+no-tcp", "public", "stream", None, "direct", 2 * ROUND_TRIP),
    ("direct, encrypted", "public", "public", ENCRYPTED, None, "direct", ROUND_TRIP),
    (
        "encrypted, port-restricted both sides",
        "eim-apdf",
        "eim-apdf",
        ENCRYPTED,
        None,
        "udp_punch",
        SIGNAL + ROUND_TRIP / 2,
    ),
)


async def run() -> list[Row]:
    rows = []
    for what, kind_a, kind_b, mode, transport, plugin, limit in CASES:
        async with rig(kind_a, kind_b) as lab:
            done = await repeat(COUNT, partial(_connect, lab, mode, transport))
        good = [one for one in done if one.ok and plugin in (one.plugin, None)]
        times = [one.seconds for one in good] or [float("inf")]
        rows.append(Row(f"{what} ({limit * 1000:.0f} ms)", median_ms(times), limit * 1250 + 10, note=spread(times)))
        rows.append(Row(f"{what}: won by {plugin or 'whoever'}", len(good), COUNT, "of", at_most=False))
        signals = statistics.mean(sum(one.signals.values()) for one in good) if good else float("inf")
        rows.append(Row(f"{what}: signals sent and received by A", signals, 1.0, "", note="the offer"))
    return rows


async def _connect(lab: Rig, mode: str, transport: str | None) -> Connected:
    secure = mode == ENCRYPTED
    return await lab.connect("stream" if secure else mode, transport, secure=secure)


def main() -> bool:
    return show(asyncio.run(run()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
