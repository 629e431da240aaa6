"""How many signed updates and look-ups a second does one name server (SQLite) sustain, and how long do they take?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from bench.rows import Row, show
from warpgate import Identity
from warpgate.model.address import NodeAddress
from warpgate.proto.name_record import NameRecord, RecordKind, seal

UPDATES, LOOKUPS = 1000, 3000  # a second
CONNECTIONS = 24
NAMES = 240
SECONDS = 3.0
# Signed before the clock starts, and more than can be used up while it runs.
UPDATES_OF_NAME = 60
ROUNDS = 3


class Keepalive(asyncio.Protocol):
    """An HTTP/1.1 client of one request at a time, as lean as can be: what is measured is the server."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        self._done: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length and self._done is not None and not self._done.done():
            self._answer = b""
            self._done.set_result(head[9:12])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("closed by the server"))

    async def ask(self, request: bytes) -> bytes:
        """The status, as three digits."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def claims(identity: Identity, name: str, count: int) -> list[bytes]:
    address, issued = NodeAddress(identity.public_key).encode(), int(time.time())
    return [
        put(
            name,
            seal(NameRecord(RecordKind.CLAIM, name, identity.public_key, n, issued, 86_400, address), identity),
        )
        for n in range(1, count + 1)
    ]


def put(name: str, body: bytes) -> bytes:
    head = f"PUT /v1/names/{name} HTTP/1.1\r\nHost: names\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(name: str) -> bytes:
    return f"GET /v1/names/{name} HTTP/1.1\r\nHost: names\r\n\r\n".encode()


async def pour(port: int, requests: list[list[bytes]]) -> tuple[float, list[float]]:
    """Each list one after the other on a connection of its own, all at once; requests a second, and their times."""
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(Keepalive, "127.0.0.1", port))[1] for _ in range(len(requests))]
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def one(client: Keepalive, mine: list[bytes]) -> None:
        for request in mine:
            began = time.perf_counter()
            if began >= end:
                return
            status = await client.ask(request)
            assert status in (b"200", b"201"), status
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*map(one, clients, requests))
    elapsed = time.perf_counter() - began
    for client in clients:
        client.close()
    return len(times) / elapsed, times


def client(port: int, results: Connection) -> None:
    """In a process of its own: sign, register, then update and look up."""
    owned = [(Identity.generate(), f"bench-{number}x") for number in range(NAMES)]
    signed = [claims(identity, name, 1 + UPDATES_OF_NAME * ROUNDS) for identity, name in owned]
    lines = [list(range(first, NAMES, CONNECTIONS)) for first in range(CONNECTIONS)]
    asyncio.run(pour(port, [[signed[index][0] for index in line] for line in lines]))
    asked = [[get(owned[index][1]) for index in line] * 5000 for line in lines]
    for number in range(ROUNDS):
        base = 1 + number * UPDATES_OF_NAME
        updates = [[signed[index][base + step] for step in range(UPDATES_OF_NAME) for index in line] for line in lines]
        results.send((asyncio.run(pour(port, updates)), asyncio.run(pour(port, asked))))


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The program itself on a free port of loopback; without limits, which would be all that one client meets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    unlimited = [
        f"--{name}=0" for name in ("names-per-network", "writes-per-key", "writes-per-network", "lookups-per-network")
    ]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "warpgate", "serve", "--json", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--database", f"{folder}/names.sqlite", *unlimited]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "ready"
            yield port
        finally:
            process.terminate()
            process.wait(10)


def main() -> bool:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with server() as port:
        asking = context.Process(target=client, args=(port, there), daemon=True)
        asking.start()
        rounds = [here.recv() for _ in range(ROUNDS)]
        asking.join()
    writes, lookups = ([each[kind] for each in rounds] for kind in (0, 1))
    return show(
        [
            _rate("signed updates, all on the disk", writes, UPDATES),
            _rate("look-ups", lookups, LOOKUPS),
            _p99("signed update, p99", writes, 100),
            _p99("look-up, p99", lookups, 50),
        ]
    )


def _rate(what: str, rounds: list[tuple[float, list[float]]], limit: float) -> Row:
    rates = [rate for rate, _ in rounds]
    note = f"(n={len(rates)}, {min(rates):.0f}..{max(rates):.0f})"
    return Row(what, statistics.median(rates), limit, "/s", at_most=False, note=note)


def _p99(what: str, rounds: list[tuple[float, list[float]]], limit: float) -> Row:
    """With all connections busy all the time: queueing is most of it."""
    each = [statistics.quantiles(times, n=100) for _, times in rounds]
    median = statistics.median(cuts[49] for cuts in each) * 1000
    note = f"({CONNECTIONS} connections at once; median {median:.1f} ms)"
    return Row(what, statistics.median(cuts[98] for cuts in each) * 1000, limit, note=note)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
