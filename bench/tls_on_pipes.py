"""How fast is an encrypted TCP pipe compared with asyncio's own TLS between the same two ends on loopback?

The peer is `asyncio.open_connection(ssl=...)` to `asyncio.start_server(ssl=...)`, TLS 1.3 with the same cipher and the
same chunk. The two ends are separate processes, the two ways alternate, and the median of the rounds' ratios counts.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import statistics
import tempfile
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from bench.rows import Row, show
from warpgate import Config, Identity, Node, Pipe, PipeClosed, Transport
from warpgate.lab.certificate import write_certificate

TOTAL = 256 * 1024 * 1024
CHUNK = 256 * 1024
ROUNDS = 7
HANDSHAKES = 30
CONFIG = Config(interfaces=("lo",), brokers=(), stun=(), port=0)
LOOPBACK = "127.0.0.1"


def _serve(ready: multiprocessing.connection.Connection, folder: str) -> None:  # type: ignore[name-defined]
    asyncio.run(_server(ready, Path(folder)))


async def _server(ready: multiprocessing.connection.Connection, folder: Path) -> None:  # type: ignore[name-defined]
    """Both swallow a stream until its end, and say so."""
    certificate, key = write_certificate(folder, [ip_address(LOOPBACK)])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = TOTAL
        while left > 0 and (data := await reader.read(CHUNK)):
            left -= len(data)
        writer.write(b"done")
        writer.close()

    server = await asyncio.start_server(swallow, LOOPBACK, 0, ssl=context, limit=CHUNK)
    async with Node(CONFIG, identity=Identity.generate()) as node, server:
        ready.send((server.sockets[0].getsockname()[1], str(certificate), node.addr_bytes))
        async for pipe in node:
            with suppress(PipeClosed):  # those of which only the start is measured
                await _swallow(pipe)


async def _swallow(pipe: Pipe) -> None:
    async with pipe:
        left = TOTAL
        while left > 0 and (data := await pipe.recv()):
            left -= len(data)
        await pipe.send(b"done")


async def _asyncios(port: int, context: ssl.SSLContext) -> float:
    reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=context)
    chunk = bytes(CHUNK)
    began = time.perf_counter()
    for _ in range(TOTAL // CHUNK):
        writer.write(chunk)
        await writer.drain()
    await reader.readexactly(4)
    seconds = time.perf_counter() - began
    writer.transport.abort()
    return seconds


async def _ours(node: Node, address: bytes) -> float:
    chunk = bytes(CHUNK)
    pipe = await node.connect(address, transport=Transport.TCP, secure=True)
    began = time.perf_counter()
    for _ in range(TOTAL // CHUNK):
        await pipe.send(chunk)
    await pipe.recv_n(4)
    seconds = time.perf_counter() - began
    pipe.abort()
    return seconds


async def _cost(node: Node, address: bytes) -> float:
    """What TLS adds to a connect: processor time of both sides, there is no way to speak of."""
    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(HANDSHAKES):
        for secure, seconds in took.items():
            began = time.perf_counter()
            pipe = await node.connect(address, transport=Transport.TCP, secure=secure)
            seconds.append(time.perf_counter() - began)
            pipe.abort()
    return statistics.median(took[True]) - statistics.median(took[False])


async def measure(port: int, certificate: str, address: bytes) -> list[Row]:
    context = ssl.create_default_context(cafile=certificate)
    bare, piped = [], []
    async with Node(CONFIG, identity=Identity.generate()) as node:
        for _ in range(ROUNDS):
            bare.append(await _asyncios(port, context))
            piped.append(await _ours(node, address))
        added = await _cost(node, address)
    ratio = statistics.median(theirs / ours for theirs, ours in zip(bare, piped, strict=True))
    rates = [TOTAL / statistics.median(seconds) / 1e6 for seconds in (piped, bare)]
    note = f"({rates[0]:.0f} MB/s; asyncio {rates[1]:.0f} MB/s)"
    return [
        Row("encrypted TCP pipe / asyncio's TLS, loopback", ratio, 0.8, "x", False, note),
        Row("what TLS adds to a connect, without the path's round trip", added * 1000, 25.0),
    ]


def main() -> bool:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = context.Process(target=_serve, args=(there, folder), daemon=True)
        server.start()
        try:
            return show(asyncio.run(measure(*here.recv())))
        finally:
            server.terminate()
            server.join()
