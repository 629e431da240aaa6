"""How long until a node is up: without any network, and to a complete address with servers 40 ms away; and imports."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time

from bench.rig import rig
from bench.rows import Row, median_ms, show, spread

COUNT = 9
OFFLINE = """
import asyncio, time
from warpgate import Config, Identity, Node
async def main():
    node = Node(Config(brokers=None, stun=None, port=0), identity=Identity.generate())
    began = time.perf_counter()
    await node.start()
    print(time.perf_counter() - began)
    await node.close()
asyncio.run(main())
"""


def offline() -> Row:
    """In a namespace with nothing but loopback, with the public servers configured: none can be reached."""
    times = []
    for _ in range(COUNT):
        command = [
            "unshare",
            "-n",
            sys.executable,
            "-c",
            f"import os; os.system('ip link set lo up')\n{OFFLINE}",
        ]
        times.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return Row("Node.start() with no network at all", median_ms(times), 100, note=spread(times))


def imports() -> Row:
    """Interleaved, so that the machine's moods hit both alike."""
    base, whole = [], []
    for _ in range(COUNT):
        base.append(_run("import asyncio"))
        whole.append(_run("import asyncio, warpgate"))
    added = [with_us - without for with_us, without in zip(whole, base, strict=True)]
    return Row("import warpgate adds to import asyncio", statistics.median(added) * 1000, 60)


def _run(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def help_text() -> Row:
    times = []
    for _ in range(COUNT):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "warpgate", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return Row("warpgate --help", median_ms(times), 150, note=spread(times))


async def to_complete_address() -> Row:
    times = []
    async with rig("eim-apdf", "eim-apdf", brokers=2) as lab:
        for _ in range(COUNT):
            await lab.fresh()
            times.append(lab.a.start_seconds)
    return Row("Node.start() to a complete address", median_ms(times), 250, note=spread(times))


def main() -> bool:
    return show([offline(), asyncio.run(to_complete_address()), imports(), help_text()])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
