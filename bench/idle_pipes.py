"""What do 500 idle pipes on one node cost: memory, tasks and timers a pipe, and the time to close the node.

The limits of memory are an idle connection of iroh's (68 to 83 KiB) where a pipe has a TLS or QUIC of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import time
from typing import Any

from bench.rows import Row, show
from warpgate import Config, Identity, Mode, Node

PIPES = 500  # of durable ones a node takes 792 from a peer
CONFIG = Config(interfaces=("lo",), brokers=(), stun=(), port=0)
# Keywords of `connect`; KiB a pipe; seconds that the close of the node may take.
KINDS: dict[str, tuple[dict[str, Any], float, float]] = {
    "datagrams": ({"mode": Mode.DATAGRAM, "durable": False}, 32, 1.0),
    "TCP": ({"durable": False, "transport": "tcp"}, 32, 1.0),
    "TLS": ({"durable": False, "transport": "tcp", "secure": True}, 68, 1.0),
    "QUIC": ({"durable": False, "transport": "udp"}, 83, 5.0),
    "durable": ({"durable": True}, 32, 1.0),
    "durable datagrams": ({"mode": Mode.DATAGRAM, "durable": True}, 32, 1.0),
}


def _memory() -> int:
    """Resident bytes of this process now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _hold(ready: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    asyncio.run(_accept_all(ready))


async def _accept_all(ready: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    async with Node(CONFIG, identity=Identity.generate()) as node:
        ready.send(node.addr_bytes)
        pipes = [pipe async for pipe in node]
        del pipes


def _connect(address: bytes, kind: str) -> list[Row]:
    return asyncio.run(_measure(address, kind))


async def _measure(address: bytes, kind: str) -> list[Row]:
    words, most, closing = KINDS[kind]
    async with Node(CONFIG, identity=Identity.generate()) as node:
        await (await node.connect(address, **words)).close()  # what is needed once is there now
        before, tasks = _memory(), len(asyncio.all_tasks())
        pipes = [await node.connect(address, **words) for _ in range(PIPES)]
        used = (_memory() - before) / PIPES / 1024
        timers = len(getattr(asyncio.get_running_loop(), "_scheduled", ())) / PIPES
        rows = [
            Row(f"{kind}: memory a pipe", used, most, "KiB", note=f"({timers:.2f} timers a pipe)"),
            Row(f"{kind}: tasks a pipe", (len(asyncio.all_tasks()) - tasks) / PIPES, 0.05, ""),
        ]
        began = time.perf_counter()
        await node.close()
        rows.append(Row(f"{kind}: close of the node", time.perf_counter() - began, closing, "s"))
        assert all(pipe.closed for pipe in pipes)
        return rows


def main() -> bool:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    context = multiprocessing.get_context("spawn")
    rows = []
    for kind in KINDS:
        here, there = context.Pipe()
        holder = context.Process(target=_hold, args=(there,), daemon=True)
        holder.start()
        try:
            with context.Pool(1) as fresh:  # what a process has freed before would not be seen to be taken
                rows += fresh.apply(_connect, (here.recv(), kind))
        finally:
            holder.terminate()
            holder.join()
    return show(rows)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
