"""Do connects survive loss and dying brokers?

10 % loss on every line (each direction of each host's line, the servers' too): 50 of 50 on EIM x EIM pairs, the slowest
under 3 s. And the broker that answers first is killed while an attempt is under way: it still connects.
"""

from __future__ import annotations

import asyncio
import statistics

from bench.rig import Rig, repeat, rig
from bench.rows import Row, show
from warpgate.lab.line import Quality
from warpgate.lab.steered import Connected

LOSS = 0.10
PAIRS = (("eim-adf", "eim-apdf"), ("eim-apdf", "eim-apdf"), ("eim-apdf", "eim-eif"), ("eim-eif", "eim-adf"))
PER_PAIR_AND_MODE = {"datagram": 7, "stream": 6}  # 52 in all
SLOWEST = 3.0
KILLS = 5


async def lossy() -> list[Row]:
    done: list[Connected] = []
    for number, (kind_a, kind_b) in enumerate(PAIRS):
        async with rig(kind_a, kind_b, brokers=2, link=Quality(loss=LOSS), seed=number) as lab:
            for mode, count in PER_PAIR_AND_MODE.items():
                done += await repeat(count, lambda lab=lab, mode=mode: lab.connect(mode))  # type: ignore[misc]
    rows = []
    for mode in PER_PAIR_AND_MODE:
        of_mode = [one for one in done if not one.mode or one.mode == mode]
        for one in of_mode:
            if not one.ok:
                print("    ", one.error or "no echo", *one.report, sep="\n      ")
        good = [one.seconds for one in of_mode if one.ok]
        what = f"10 % loss on every line, {mode}"
        note = f"median {statistics.median(good) * 1000:.0f} ms"
        rows += [
            Row(f"{what}: connected", len(good), len(of_mode), "of", at_most=False, note=note),
            Row(
                f"{what}: slowest",
                max(good),
                SLOWEST,
                "s",
                note=str(sorted(round(one, 2) for one in good)[-5:]),
            ),
        ]
    return rows


async def killed_in_mid_attempt() -> list[Row]:
    good, times = 0, []
    for number in range(KILLS):
        async with rig("eim-apdf", "eim-apdf", brokers=2, seed=number) as lab:
            await lab.fresh()
            one = await _connect_and_kill(lab)
            good += one.ok
            times.append(one.seconds)
            if not one.ok:
                print("    ", one.error or "no echo", *one.report, sep="\n      ")
    note = f"median {statistics.median(times) * 1000:.0f} ms"
    return [Row("first broker killed in mid-attempt: connected", good, KILLS, "of", at_most=False, note=note)]


async def _connect_and_kill(lab: Rig) -> Connected:
    """The broker dies while the offer is on its way: after a quarter of the time that a signal takes."""
    connecting = asyncio.create_task(lab.a.connect(lab.b.address, mode="datagram"))
    await asyncio.sleep(0.01)
    await lab.brokers[0].kill()
    return await connecting


async def run() -> list[Row]:
    return await killed_in_mid_attempt() + await lossy()


def main() -> bool:
    return show(asyncio.run(run()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
