"""How long until a node is up, without any network or to a complete address with servers 40 ms away; imports; and what
the first pipe of a process costs beside its later ones.
"""

from __future__ import annotations

import asyncio
import json
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
# Words: a node's address, keywords of `connect`, and how long servers are waited for by then.
FIRST_PIPES = """
import asyncio, json, sys, time
from warpgate import Config, Identity, Node
async def main(address, words, waiting):
    config = Config(brokers=(), stun=(), port=0, interfaces=("lo",), port_map=False, accept=False)
    times = []
    async with Node(config, identity=Identity.generate()) as node:
        await asyncio.sleep(waiting)
        for _ in range(4):
            began = time.perf_counter()
            pipe = await node.connect(address, **words)
            times.append(time.perf_counter() - began)
            await pipe.close()
            await asyncio.sleep(0.3)
    print(json.dumps(times))
asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])))
"""
LISTENER = """
import asyncio, sys
from warpgate import Config, Identity, Node
async def main():
    config = Config(brokers=(), stun=(), port=0, interfaces=("lo",), port_map=False)
    async with Node(config, identity=Identity.generate()) as node:
        await asyncio.sleep(1)
        print(node.address.to_text(), flush=True)
        async for pipe in node:
            pass
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


def first_pipes() -> list[Row]:
    """Ratios, each of one run: of the first pipe of a process, on loopback, and the median of its later ones.

    A further durable pipe is a stream on the connection that there is; so the first is compared with a plain one.
    """
    plain, lasting = {"durable": False}, {"durable": True}
    cases = (
        ("datagrams, at once", {"mode": "datagram"}, 0.0, 2.0),
        ("plain stream, at once", plain, 0.0, 2.0),
        ("plain stream over UDP, at once", {**plain, "transport": "udp"}, 0.0, 3.0),
        ("plain stream over UDP, 0.3 s later", {**plain, "transport": "udp"}, 0.3, 2.0),
    )
    listener = subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None
        address = listener.stdout.readline().strip()

        def run(words: dict[str, object], waiting: float) -> list[float]:
            command = [sys.executable, "-c", FIRST_PIPES, address, json.dumps(words), str(waiting)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            times: list[float] = json.loads(done.stdout)
            return times

        rows = []
        for what, words, waiting, limit in cases:
            runs = [run(words, waiting) for _ in range(COUNT)]
            ratio = statistics.median(times[0] / statistics.median(times[1:]) for times in runs)
            note = f"first {spread([times[0] for times in runs])}"
            rows.append(Row(f"first pipe, of later ones: {what}", ratio, limit, "", note=note))
        ahead = [run(lasting, 0.3)[0] / statistics.median(run(plain, 0.3)) for _ in range(COUNT)]
        rows.append(Row("first durable pipe, of a plain one, 0.3 s later", statistics.median(ahead), 3.0, ""))
    finally:
        listener.terminate()
        listener.wait()
    return rows


async def to_complete_address() -> Row:
    times = []
    async with rig("eim-apdf", "eim-apdf", brokers=2) as lab:
        for _ in range(COUNT):
            await lab.fresh()
            times.append(lab.a.start_seconds)
    return Row("Node.start() to a complete address", median_ms(times), 250, note=spread(times))


def main() -> bool:
    return show([offline(), asyncio.run(to_complete_address()), imports(), help_text(), *first_pipes()])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
