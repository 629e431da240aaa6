"""What do 1,000 idle pipes on one node cost: memory, tasks and timers a pipe, and the time to close the node."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import time

from bench.rows import Row, show
from warpgate import Config, Identity, Mode, Node

PIPES = 1000
CONFIG = Config(interfaces=("lo",), brokers=(), stun=(), port=0)


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


async def _measure(address: bytes, mode: Mode) -> list[Row]:
    async with Node(CONFIG, identity=Identity.generate()) as node:
        await (await node.connect(address, mode=mode)).close()  # what is needed once is there now
        before, tasks = _memory(), len(asyncio.all_tasks())
        pipes = [await node.connect(address, mode=mode) for _ in range(PIPES)]
        used = (_memory() - before) / PIPES / 1024
        timers = len(getattr(asyncio.get_running_loop(), "_scheduled", ())) / PIPES
        rows = [
            Row(f"{mode.value}: memory a pipe", used, 32, "KiB", note=f"({timers:.2f} timers a pipe)"),
            Row(f"{mode.value}: tasks for {PIPES} pipes", len(asyncio.all_tasks()) - tasks, 0, ""),
        ]
        began = time.perf_counter()
        await node.close()
        rows.append(Row(f"{mode.value}: close of the node", time.perf_counter() - began, 1.0, "s"))
        assert all(pipe.closed for pipe in pipes)
        return rows


def main() -> bool:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    context = multiprocessing.get_context("spawn")
    rows = []
    for mode in Mode:
        here, there = context.Pipe()
        holder = context.Process(target=_hold, args=(there,), daemon=True)
        holder.start()
        try:
            rows += asyncio.run(_measure(here.recv(), mode))
        finally:
            holder.terminate()
            holder.join()
    return show(rows)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
