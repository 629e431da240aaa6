"""How fast is a pipe compared with a bare asyncio socket between the same two ends on loopback?

TCP: the bare peer is `loop.sock_sendall` and `loop.sock_recv` with the same chunk. UDP: datagrams sent as fast as the
receiver takes them (a window of unconfirmed ones), against a bare asyncio datagram endpoint. The two ends are separate
processes, bare and pipe alternate, and the median of the rounds' ratios counts: the machine's moods hit both alike.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bench.rows import Row, show
from warpgate import Config, Identity, Mode, Node, Pipe, PipeClosed, Transport

TOTAL = 1024 * 1024 * 1024  # through one stream
CHUNK = 256 * 1024
ROUNDS = 5
DATAGRAMS = 30_000
SIZE = 1200
WINDOW = 64
CONFIG = Config(interfaces=("lo",), brokers=(), stun=(), port=0)


def _serve(ready: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    asyncio.run(_server(ready))


async def _server(ready: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    """Bare TCP and UDP servers and a node; each swallows a stream and says so, each confirms datagrams by window."""
    loop = asyncio.get_running_loop()
    import socket  # noqa: PLC0415 - this side only

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    transport, _ = await loop.create_datagram_endpoint(_Confirmer, local_addr=("127.0.0.1", 0))
    udp_port = transport.get_extra_info("sockname")[1]
    async with Node(CONFIG, identity=Identity.generate()) as node:
        ready.send((listener.getsockname()[1], udp_port, node.addr_bytes))
        bare = asyncio.create_task(_swallow_bare(listener))
        try:
            async for pipe in node:
                if pipe.mode is Mode.STREAM:
                    await _swallow(pipe.recv, pipe.send)
                    await pipe.close()
                else:
                    await _confirm(pipe)
        finally:
            bare.cancel()


class _Confirmer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self._count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._count += 1
        if self._count % (WINDOW // 2) == 0:
            self._transport.sendto(b"ok", addr)  # type: ignore[attr-defined]


async def _confirm(pipe: Pipe) -> None:
    count = 0
    with suppress(PipeClosed):  # the peer does not wait for the last confirmations
        async for _ in pipe:
            count += 1
            if count % (WINDOW // 2) == 0:
                await pipe.send(b"ok")


async def _swallow_bare(listener: object) -> None:
    loop = asyncio.get_running_loop()
    while True:
        sock, _ = await loop.sock_accept(listener)  # type: ignore[arg-type]
        with sock:
            await _swallow(lambda s=sock: loop.sock_recv(s, CHUNK), lambda data, s=sock: loop.sock_sendall(s, data))


async def _swallow(recv: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]) -> None:
    left = TOTAL
    while left > 0:
        data = await recv()
        if not data:
            return
        left -= len(data)
    await send(b"done")


async def _pour(send: Callable[[bytes], Awaitable[None]], recv: Callable[[], Awaitable[bytes]]) -> float:
    chunk = bytes(CHUNK)
    began = time.perf_counter()
    for _ in range(TOTAL // CHUNK):
        await send(chunk)
    await recv()
    return time.perf_counter() - began


async def tcp(port: int, address: bytes) -> list[Row]:
    import socket  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    bare, piped = [], []
    async with Node(CONFIG, identity=Identity.generate()) as node:
        for _ in range(ROUNDS):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.setblocking(False)
                bare.append(
                    await _pour(lambda data, s=sock: loop.sock_sendall(s, data), lambda s=sock: loop.sock_recv(s, 16))
                )
            async with await node.connect(address, transport=Transport.TCP) as pipe:
                piped.append(await _pour(pipe.send, pipe.recv))
    ratio = statistics.median(without / with_us for without, with_us in zip(bare, piped, strict=True))
    rate = TOTAL / statistics.median(piped) / 1e9
    return [Row("TCP pipe / bare asyncio socket, loopback", ratio, 0.95, "x", False, f"({rate:.2f} GB/s)")]


class _Window(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.confirmed = asyncio.Semaphore(WINDOW)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for _ in range(WINDOW // 2):
            self.confirmed.release()


async def _bare_datagrams(port: int) -> float:
    loop = asyncio.get_running_loop()
    transport, window = await loop.create_datagram_endpoint(_Window, remote_addr=("127.0.0.1", port))
    payload = bytes(SIZE)
    began = time.perf_counter()
    for _ in range(DATAGRAMS):
        await window.confirmed.acquire()
        transport.sendto(payload)
    seconds = time.perf_counter() - began
    transport.close()
    return seconds


async def _pipe_datagrams(pipe: Pipe) -> float:
    window = asyncio.Semaphore(WINDOW)

    async def confirmations() -> None:
        async for _ in pipe:
            for _ in range(WINDOW // 2):
                window.release()

    reader = asyncio.create_task(confirmations())
    payload = bytes(SIZE)
    began = time.perf_counter()
    for _ in range(DATAGRAMS):
        await window.acquire()
        await pipe.send(payload)
    seconds = time.perf_counter() - began
    reader.cancel()
    with suppress(asyncio.CancelledError):
        await reader
    return seconds


async def udp(port: int, address: bytes) -> list[Row]:
    bare, piped = [], []
    async with Node(CONFIG, identity=Identity.generate()) as node:
        for _ in range(ROUNDS):
            bare.append(await _bare_datagrams(port))
            async with await node.connect(address, mode=Mode.DATAGRAM) as pipe:
                piped.append(await _pipe_datagrams(pipe))
    ratio = statistics.median(without / with_us for without, with_us in zip(bare, piped, strict=True))
    rate = DATAGRAMS / statistics.median(piped)
    note = f"({rate:,.0f} datagrams/s of {SIZE} bytes)"
    return [Row("UDP pipe / bare asyncio datagram endpoint, loopback", ratio, 0.8, "x", False, note)]


def main() -> bool:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    try:
        tcp_port, udp_port, address = here.recv()
        rows = asyncio.run(tcp(tcp_port, address))
        rows += asyncio.run(udp(udp_port, address))
        return show(rows)
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
