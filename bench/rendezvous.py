"""What do our STUN responder and the brokers manage on one core, and what does a waiting node's connection cost them?

On loopback, each server a process of its own; rates are per second of that process's CPU time, so that a busy machine
and a slow client do not count. Memory is what the process's resident set grows by; the kernel's share is not in it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bench.rows import Row, show
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.proto.stun import StunClass, StunMessage, encode
from warpgate.server.broker import BrokerSettings, choose_broker
from warpgate.server.broker_process import BrokerProcess

HOST = "127.0.0.1"
REQUEST = encode(StunMessage(1, StunClass.REQUEST, bytes(12)))
REQUESTS = 30_000
WINDOW = 64
CONNECTIONS = 1000
# Not one source each: the responder allows 256 connections of one.
PER_SOURCE = 200
SIGNALS = 20_000
SIGNAL = 700  # an offer, sealed
TICK = os.sysconf("SC_CLK_TCK")

STUN_SERVER = """
import asyncio, sys
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.proto import stun_server
from warpgate.server.child import raise_descriptor_limit
from warpgate.server.stun_responder import StunResponder

stun_server.SourceLimiter.take = lambda *_: True  # one client stands for many

async def main(port):
    raise_descriptor_limit()
    StunResponder.open(SystemNetwork(), {Endpoint.of("127.0.0.1", port): None}, salt=b"s")
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(int(sys.argv[1])))
"""


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _resident_kib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


async def _settled(read: Callable[[], float]) -> float:
    """What it reads when it has stopped changing."""
    value = read()
    while True:
        await asyncio.sleep(0.3)
        value, before = read(), value
        if value == before:
            return value


@asynccontextmanager
async def _stun() -> AsyncIterator[tuple[int, int]]:
    """Its pid and port."""
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STUN_SERVER, str(port), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield process.pid, port
    finally:
        process.kill()
        await process.wait()


def _ask_all(port: int) -> None:
    """REQUESTS of them, WINDOW at a time."""
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect((HOST, port))
        client.settimeout(5)
        sent = got = 0
        while got < REQUESTS:
            while sent < REQUESTS and sent - got < WINDOW:
                client.send(REQUEST)
                sent += 1
            client.recv(2048)
            got += 1


async def _connections(
    port: int, greeting: bytes, answer: int
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """CONNECTIONS of them, each greeted and answered."""
    opened = []
    for number in range(CONNECTIONS):
        source = f"127.1.{number // PER_SOURCE}.1"
        reader, writer = await asyncio.open_connection(HOST, port, local_addr=(source, 0))
        writer.write(greeting.replace(b"#####", f"{number:05}".encode()))
        await reader.readexactly(answer)
        opened.append((reader, writer))
    return opened


async def _stun_rows() -> list[Row]:
    async with _stun() as (pid, port):
        await asyncio.to_thread(_ask_all, port)
        began, cpu = time.perf_counter(), _cpu_seconds(pid)
        await asyncio.to_thread(_ask_all, port)
        wall, used = time.perf_counter() - began, _cpu_seconds(pid) - cpu
        before = await _settled(lambda: _resident_kib(pid))
        opened = await _connections(port, REQUEST, 32)
        memory = (await _settled(lambda: _resident_kib(pid)) - before) / CONNECTIONS
        for _, writer in opened:
            writer.transport.abort()
    note = f"({REQUESTS / wall:.0f} a second as the client saw it)"
    return [
        Row("STUN: requests a second of one core", REQUESTS / used, 5000, "/s", at_most=False, note=note),
        Row("STUN: memory a connection", memory, 16, "KiB"),
    ]


def _text(words: str) -> bytes:
    return len(words).to_bytes(2, "big") + words.encode()


def _packet(first: int, body: bytes) -> bytes:
    length = bytes((len(body),)) if len(body) < 128 else bytes((len(body) & 127 | 128, len(body) >> 7))
    return bytes((first,)) + length + body


CONNECT = _packet(0x10, _text("MQTT") + b"\x04\x02\x00\x78" + _text("node-#####"))
SUBSCRIBE = _packet(0x82, b"\0\1" + _text("warpgate/2/node-#####-of-the-bench") + b"\0")


async def _broker_rows(kind: str, memory_limit: float, rate_limit: float, signals: int) -> list[Row]:
    port = _free_port()
    broker = choose_broker(BrokerSettings((HOST,), port), embedded=kind == "amqtt")
    process = BrokerProcess(broker, Endpoint.of(HOST, port), SystemNetwork(), print)
    await process.start()
    pid = process.pid
    assert pid is not None
    try:
        before = await _settled(lambda: _resident_kib(pid))
        connections = CONNECTIONS if kind == "mosquitto" else CONNECTIONS // 2
        opened = [*await _waiting(port, connections)]
        memory = (await _settled(lambda: _resident_kib(pid)) - before) / connections
        cpu = _cpu_seconds(pid)
        await _signal(opened, signals)
        used = _cpu_seconds(pid) - cpu
        for _, writer in opened:
            writer.transport.abort()
    finally:
        await process.close()
    return [
        Row(f"{kind}: memory a waiting node", memory, memory_limit, "KiB"),
        Row(f"{kind}: signals a second of one core", signals / used, rate_limit, "/s", at_most=False),
    ]


async def _waiting(port: int, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    opened = []
    for number in range(count):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write((CONNECT + SUBSCRIBE).replace(b"#####", f"{number:05}".encode()))
        await reader.readexactly(4 + 5)
        opened.append((reader, writer))
    return opened


async def _signal(opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]], count: int) -> None:
    """Each to its neighbour, in turn; returns when the last one is there."""
    size = len(_message(0))

    async def one(number: int) -> None:
        target = (number + 1) % len(opened)
        opened[number][1].write(_message(target))
        await opened[target][0].readexactly(size)

    for done in range(0, count, 100):
        await asyncio.gather(*(one((done + i) % len(opened)) for i in range(100)))


def _message(number: int) -> bytes:
    topic = f"warpgate/2/node-{number:05}-of-the-bench"
    return _packet(0x30, _text(topic) + bytes(SIGNAL))


async def _measure() -> list[Row]:
    parts: tuple[Callable[[], Awaitable[list[Row]]], ...] = (
        _stun_rows,
        lambda: _broker_rows("mosquitto", 8, 10_000, SIGNALS),
        lambda: _broker_rows("amqtt", 200, 500, SIGNALS // 10),
    )
    rows = []
    for part in parts:
        rows += await part()
    return rows


def main() -> bool:
    return show(asyncio.run(_measure()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
