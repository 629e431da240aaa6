"""How long until a node is up, without any network or to a complete address with servers 40 ms away; imports; a whole
`warpgate connect`; what the first pipe of a process costs beside its later ones; and an idle node's memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.rig import rig
from bench.rows import Row, median_ms, show, spread
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab

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
# As it is after `pip install warpgate`: that brings no dnspython, which paho would load (4 MB).
IDLE = """
import sys
sys.modules["dns"] = None
from warpgate.cli.main import main
sys.exit(main(["listen"]))
"""
IDLE_NODES = 5
IDLE_SECONDS = 8.0  # the filtering test gives up after 5 s
LISTENER = """
import asyncio
from warpgate import Config, Identity, Node, PipeClosed
async def main():
    config = Config(brokers=(), stun=(), port=0, interfaces=("lo",), port_map=False)
    async with Node(config, identity=Identity.generate()) as node, asyncio.TaskGroup() as tasks:
        await asyncio.sleep(1)
        print(node.address.to_text(), flush=True)
        async for pipe in node:
            tasks.create_task(echo(pipe))
async def echo(pipe):
    async with pipe:
        try:
            while data := await pipe.recv():
                await pipe.send(data)
        except PipeClosed:
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


def imports() -> list[Row]:
    """Interleaved, so that the machine's moods hit both alike."""
    base, whole = [], []
    for _ in range(COUNT):
        base.append(_run("import asyncio"))
        whole.append(_run("from warpgate import Node"))
    added = [with_us - without for with_us, without in zip(whole, base, strict=True)]
    return [
        Row("from warpgate import Node", median_ms(whole), 120, note=spread(whole)),
        Row("of that, more than import asyncio", statistics.median(added) * 1000, 60),
    ]


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
    with _listener() as address:

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
        rows.append(_whole_connect(address))
    return rows


@contextmanager
def _listener() -> Iterator[str]:
    """The address of a node on loopback that echoes."""
    listener = subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None
        yield listener.stdout.readline().strip()
    finally:
        listener.terminate()
        listener.wait()


def _whole_connect(address: str) -> Row:
    """The command, from its start to its end: something there and back."""
    times = []
    with TemporaryDirectory() as folder:
        env = {**os.environ, "WARPGATE_DATA": folder, "WARPGATE_INTERFACE": "lo"}
        env |= {"WARPGATE_BROKER": "", "WARPGATE_STUN": "", "WARPGATE_PORT_MAP": "no"}
        command = [sys.executable, "-m", "warpgate", "connect", address]
        for _ in range(COUNT):
            began = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, env=env, input=b"hello")
            times.append(time.perf_counter() - began)
            assert done.stdout == b"hello"
    return Row("warpgate connect, from its start to its end", median_ms(times), 350, note=spread(times))


async def to_complete_address() -> Row:
    times = []
    async with rig("eim-apdf", "eim-apdf", brokers=2) as lab:
        for _ in range(COUNT):
            await lab.fresh()
            times.append(lab.a.start_seconds)
    return Row("Node.start() to a complete address", median_ms(times), 250, note=spread(times))


async def idle_memory() -> list[Row]:
    """Of `warpgate listen`, the only node on its machine.

    Resident: all of it. Its share: a page of a library that other processes have mapped, too, counts by its part (PSS);
    here that is libc and what else the broker and this script have loaded.
    """
    shares, resident = [], []
    async with Lab(seed=0) as lab:
        servers, host = lab.add_host("servers", ipv4=2), lab.add_host("idle", behind="eim-apdf")
        broker, stun = await start_mosquitto(servers), await start_coturn(servers)
        env = {"WARPGATE_BROKER": broker.mqtt_url, "WARPGATE_STUN": str(stun.endpoint), "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(IDLE_NODES):
            with TemporaryDirectory() as folder:
                command, own = [sys.executable, "-c", IDLE], {"WARPGATE_DATA": folder}
                node = await host.popen(command, env=env | own, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
                await asyncio.sleep(IDLE_SECONDS)
                shares.append(_megabytes(node.pid, "Pss:"))
                resident.append(_megabytes(node.pid, "Rss:"))
                await host.stop(node)
    return [
        Row("idle warpgate listen, its share of memory", statistics.median(shares), 45, "MB"),
        Row("idle warpgate listen, resident", statistics.median(resident), 58, "MB", note="(the aim: 45)"),
    ]


def _megabytes(process: int, key: str) -> float:
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(key)) / 1024


def main() -> bool:
    rows = [offline(), asyncio.run(to_complete_address()), *imports(), help_text(), *first_pipes()]
    return show(rows + asyncio.run(idle_memory()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
