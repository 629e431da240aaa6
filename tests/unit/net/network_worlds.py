"""Two hosts to test the Network seam with: kernel sockets on loopback, on either loop, and the internet in
memory.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from warpgate.model.endpoint import Endpoint
from warpgate.net.network import Network, TcpListener, TcpStream, UdpSocket
from warpgate.net.system import SystemNetwork
from warpgate.platform.readiness import SelectorThreads, watch_of
from warpgate_testing.clock import VirtualLoop
from warpgate_testing.internet import MemoryInternet, PathSpec

PATIENCE = 20.0


class LoopWithoutWaiting(asyncio.SelectorEventLoop):
    """It cannot wait for a socket of ours, as Windows' own cannot."""

    add_reader = asyncio.AbstractEventLoop.add_reader
    remove_reader = asyncio.AbstractEventLoop.remove_reader
    add_writer = asyncio.AbstractEventLoop.add_writer
    remove_writer = asyncio.AbstractEventLoop.remove_writer


class World:
    """`a` dials and `b` serves. `run` fails the test on anything left open and on errors nobody caught."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._loop_factory = loop_factory
        self.a: Network
        self.b: Network
        self.ip_a: str
        self.ip_b: str
        self.uncaught: list[dict[str, Any]] = []

    def at_a(self, port: int = 0) -> Endpoint:
        return Endpoint.of(self.ip_a, port)

    def at_b(self, port: int = 0) -> Endpoint:
        return Endpoint.of(self.ip_b, port)

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        async def guarded() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.uncaught.append(context))
            before = self.registered()
            async with asyncio.timeout(PATIENCE):
                await main()
            await self.settle()
            assert self.registered() == before
            assert self.leftovers() == ()

        with asyncio.Runner(loop_factory=self._loop_factory) as runner:
            runner.run(guarded())
        gc.collect()  # a forgotten socket warns when it is collected, and warnings are errors here
        assert self.uncaught == []

    async def settle(self) -> None:
        """Let packets and callbacks that are on their way arrive."""
        await asyncio.sleep(0.01)

    def registered(self) -> object:
        """Descriptors the loop watches, where it tells."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, LoopWithoutWaiting):
            watch = watch_of(loop)
            assert isinstance(watch, SelectorThreads)
            return len(watch)
        selector = getattr(loop, "_selector", None)
        return None if selector is None else set(selector.get_map() or ())

    def leftovers(self) -> tuple[object, ...]:
        return ()


class SystemWorld(World):
    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop], ip: str) -> None:
        super().__init__(loop_factory)
        self.a = self.b = SystemNetwork()
        self.ip_a = self.ip_b = ip


class MemoryWorld(World):
    def __init__(self, ip_a: str, ip_b: str) -> None:
        super().__init__(VirtualLoop)
        self.internet = MemoryInternet(seed=1, path=PathSpec(delay=0.05))
        self.a = self.internet.host("a", ip_a)
        self.b = self.internet.host("b", ip_b)
        self.ip_a, self.ip_b = ip_a, ip_b

    async def settle(self) -> None:
        await asyncio.sleep(1.0)

    def leftovers(self) -> tuple[object, ...]:
        return self.internet.open_sockets()


WORLDS: dict[str, Callable[[], World]] = {
    "kernel": lambda: SystemWorld(asyncio.SelectorEventLoop, "127.0.0.1"),
    "kernel-v6": lambda: SystemWorld(asyncio.SelectorEventLoop, "::1"),
    "kernel-uvloop": lambda: SystemWorld(uvloop.new_event_loop, "127.0.0.1"),
    "kernel-beside-the-loop": lambda: SystemWorld(LoopWithoutWaiting, "127.0.0.1"),
    "memory": lambda: MemoryWorld("192.0.2.1", "198.51.100.2"),
    "memory-v6": lambda: MemoryWorld("2001:db8::1", "2001:db8:1::2"),
}


class Datagrams:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Endpoint]] = asyncio.Queue()

    def __call__(self, data: bytes, source: Any) -> None:
        self.received.put_nowait((data, Endpoint.from_sockaddr(source)))


class Connected:
    """A TCP connection from a to b and everything that belongs to it, closed at the end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
        self.listener: TcpListener
        self.client: TcpStream
        self.server: TcpStream

    async def __aenter__(self) -> Connected:
        self.listener = self._world.b.listen_tcp(self._world.at_b(), self.accepted.put_nowait)
        self.client = await self._world.a.dial_tcp(self.listener.local)
        self.server = await self.accepted.get()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()
        self.listener.close()


async def recv_exactly(stream: TcpStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.recv(65536)
        assert part, f"end of stream after {len(data)} of {size} bytes"
        data += part
    return data


async def recv_all(stream: TcpStream) -> bytes:
    data = bytearray()
    while part := await stream.recv(65536):
        data += part
    return bytes(data)


def close_all(*sockets: UdpSocket | TcpStream | TcpListener) -> None:
    for sock in sockets:
        sock.close()
