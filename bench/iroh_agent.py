"""iroh (the package of that name on PyPI) in a lab host, steered as our own nodes are: `python -m bench.iroh_agent`.

It gets a relay's URL and no other server: its peer's address is handed over with its id and its own endpoints. It finds
its public endpoint only by a relay whose certificate the public authorities have signed, which a lab has not: so behind
NATs it stays on the relay here, and direct paths are measured between public addresses.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from typing import Any

from warpgate.errors import PipeClosed
from warpgate.lab.agent import Agent, serve
from warpgate.lab.counters import Counters

iroh: Any = importlib.import_module("iroh")
ALPN = b"counters"
READ = 65536


class Stream:
    """One of its streams, as `Counters` wants it."""

    def __init__(self, connection: Any, stream: Any) -> None:
        self.connection = connection
        self._sending, self._receiving = stream.send(), stream.recv()

    async def send(self, data: bytes) -> None:
        try:
            await self._sending.write_all(data)
        except iroh.IrohError as error:
            raise PipeClosed(error.message()) from None

    async def recv_n(self, size: int) -> bytes:
        try:
            return bytes(await self._receiving.read_exact(size))
        except iroh.IrohError as error:
            raise PipeClosed(f"{error.message()}; {self.connection.close_reason()}") from None

    async def echo(self) -> None:
        try:
            while data := await self._receiving.read(READ):
                await self._sending.write_all(data)
        except iroh.IrohError:
            return


class IrohAgent(Agent):
    """Those commands of `Agent` that a durable pipe with counters on it needs."""

    def __init__(self) -> None:
        super().__init__()
        self._endpoint: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    async def _start(self, **settings: Any) -> dict[str, Any]:
        await self._stop()
        iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
        began = time.perf_counter()
        relays = iroh.RelayMode.custom_from_urls(settings["turn"])
        options = iroh.EndpointOptions(preset=iroh.preset_minimal(), alpns=[ALPN], relay_mode=relays)
        self._endpoint = await iroh.Endpoint.bind(options)
        await self._endpoint.online()
        self._tasks.append(asyncio.create_task(self._accept(self._endpoint)))
        where = self._endpoint.addr()
        address = [str(self._endpoint.id()), where.relay_url(), where.direct_addresses()]
        return {"address": json.dumps(address), "node_id": address[0], "seconds": time.perf_counter() - began}

    async def _accept(self, endpoint: Any) -> None:
        while (incoming := await endpoint.accept_next()) is not None:
            connection = await (await incoming.accept()).connect()
            stream = Stream(connection, await connection.accept_bi())
            self._tasks.append(asyncio.create_task(stream.echo()))

    async def _connect(self, address: str, **_settings: Any) -> dict[str, Any]:  # type: ignore[override]
        name, relay, endpoints = json.loads(address)
        began = time.perf_counter()
        there = iroh.EndpointAddr(iroh.EndpointId.from_string(name), relay, endpoints)
        connection = await self._endpoint.connect(there, ALPN)
        stream = Stream(connection, await connection.open_bi())
        await stream.send(b"ping")
        echoed = await stream.recv_n(4) == b"ping"
        self._streams = [stream]
        return {"seconds": time.perf_counter() - began, "echoed": echoed}

    async def _talk(self, pipe: int) -> dict[str, Any]:
        began = time.perf_counter()
        stream = self._streams[pipe]
        await stream.send(b"ping")
        return {"echoed": await stream.recv_n(4) == b"ping", "seconds": time.perf_counter() - began}

    async def _count(self, pipe: int) -> dict[str, Any]:
        self._counters = Counters(self._streams[pipe])
        return {}

    async def _path(self, pipe: int) -> dict[str, Any]:
        used = next(path for path in self._streams[pipe].connection.paths() if path.is_selected)
        remote = used.remote_addr
        return {"plugin": "iroh", "transport": "udp", "local": "", "remote": remote, "relayed": used.is_relay}

    async def _stop(self) -> dict[str, Any]:
        await super()._stop()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._streams: list[Stream] = []
        if self._endpoint is not None:
            await self._endpoint.close()
            self._endpoint = None
        return {}


if __name__ == "__main__":
    asyncio.run(serve(IrohAgent()))
