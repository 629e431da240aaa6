"""Does a reader that does not read stop the writer, with bounded memory at both ends, and does everything arrive then?

A writer pours 200 MB into a stream whose reader sleeps for some seconds; what the writer got rid of meanwhile is all
that buffers on the way can hold. Two processes on loopback; over TCP and over UDP (QUIC).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sys
import time

from bench.rows import Row, show
from warpgate import Config, Identity, Node, Pipe, Transport

SIZE = 200_000_000
CHUNK = 64 * 1024
NOISE = os.urandom(CHUNK)
SLEEP = 4.0
SETTLED = 0.5  # seconds without progress: the writer stands still
CONFIG = Config(interfaces=("lo",), brokers=(), stun=(), port=0)
# MB. Linux gives a TCP receiver 6 MB and a sender 4 MB (tcp_rmem, tcp_wmem) and takes what is in flight on top; a
# stream over UDP has a window of 4 MiB and a send buffer.
MOST_TAKEN = {"tcp": 16.0, "udp": 8.0}
# MB of 200: the kernel's buffers are no memory of the process; what a first stream allocates for good is.
GROWTH = 16.0


def memory() -> float:
    """MB resident at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


async def serve() -> None:
    """Print the address; for each pipe: sleep, read it to the end, answer with the hash and what memory grew by."""
    async with Node(CONFIG, identity=Identity.generate()) as node:
        print(json.dumps({"address": node.address.to_text()}), flush=True)
        async for pipe in node:
            async with pipe:
                before, digest = memory(), hashlib.sha256()
                await asyncio.sleep(SLEEP)
                asleep = memory() - before
                async for data in pipe:
                    digest.update(data)
                told = {"digest": digest.hexdigest(), "asleep": asleep, "grown": memory() - before}
                await pipe.send(json.dumps(told).encode())


class Progress:
    """How much the writer has got rid of, and since when it stands still."""

    def __init__(self) -> None:
        self.sent = 0
        self.at = time.perf_counter()

    def add(self, size: int) -> None:
        self.sent += size
        self.at = time.perf_counter()


async def pour(pipe: Pipe, progress: Progress) -> str:
    digest = hashlib.sha256()
    for _ in range(SIZE // CHUNK):
        digest.update(NOISE)
        await pipe.send(NOISE)
        progress.add(CHUNK)
    pipe.write_eof()
    return digest.hexdigest()


async def measure(address: str, transport: str) -> list[Row]:
    async with Node(CONFIG, identity=Identity.generate()) as node:
        pipe = await node.connect(address, transport=Transport(transport))
        async with pipe:
            before, progress = memory(), Progress()
            pouring = asyncio.create_task(pour(pipe, progress))
            began = time.perf_counter()
            while time.perf_counter() - max(progress.at, began) < SETTLED:  # noqa: ASYNC110 - nothing happens: no event
                await asyncio.sleep(0.05)
            taken, stopped = progress.sent / 1e6, progress.at - began
            here = memory() - before
            sent = await pouring
            told = json.loads(b"".join([data async for data in pipe]))
            here_after = memory() - before
    over = f"slow reader, {transport.upper()}"
    return [
        Row(
            f"{over}: taken before the writer stands",
            taken,
            MOST_TAKEN[transport],
            "MB",
            note=f"(after {stopped:.2f} s)",
        ),
        Row(f"{over}: writer's memory grew, then at the end", max(here, here_after), GROWTH, "MB"),
        Row(f"{over}: reader's memory grew, then at the end", told["grown"], GROWTH, "MB"),
        Row(f"{over}: arrived whole", float(told["digest"] == sent), 1.0, "", at_most=False),
    ]


async def run() -> list[Row]:
    rows = []
    for transport in ("tcp", "udp"):
        command = [sys.executable, "-m", "bench.slow_reader", "serve"]
        server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            assert server.stdout is not None
            ready = json.loads(await server.stdout.readline())
            rows += await measure(ready["address"], transport)
        finally:
            server.terminate()
            await server.wait()
    return rows


def main() -> bool:
    return show(asyncio.run(run()))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        raise SystemExit(0 if main() else 1)
