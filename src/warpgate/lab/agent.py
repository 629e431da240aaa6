"""A real node in a lab host, steered over stdin and stdout: `python -m warpgate.lab.agent`.

One JSON command a line in, one JSON answer a line out, in order. `steered.SteeredNode` is the other end. The agent
uses nothing but the public names, so what it measures is what a program gets. Every pipe that a peer opens is echoed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from warpgate import Config, Identity, Mode, Node, Pipe, PipeClosed, Transport, WarpgateError
from warpgate.errors import ConnectFailed
from warpgate.events import Event, SignalReceived, SignalSent
from warpgate.lab.counters import Counters

ECHO_PATIENCE = 30.0  # TCP repeats after 3, 9 and 21 s where a SYN was lost (RFC 6298 section 5.7)
DATAGRAM_PATIENCE = 0.5
ECHO_TRIES = 12
TRACE_LIMIT = 1000


class Agent:
    """Holds the node between commands; a `start` command replaces it."""

    def __init__(self) -> None:
        self._node: Node | None = None
        self._signals: Counter[str] = Counter()
        self._trace: deque[tuple[float, Event]] = deque(maxlen=TRACE_LIMIT)
        self._echoing: asyncio.Task[None] | None = None
        self._kept: list[Pipe] = []
        self._counters: Counters | None = None

    async def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command; errors of ours become an `error` in the answer."""
        actions: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "start": self._start,
            "connect": self._connect,
            "talk": self._talk,
            "count": self._count,
            "counted": self._counted,
            "path": self._path,
            "ended": self._ended,
            "status": self._status,
            "nickname": self._nickname,
            "trace": self._take_trace,
            "stop": self._stop,
        }
        action = actions[command.pop("do")]
        try:
            return await action(**command)
        except ConnectFailed as error:
            rows = [f"{row.plugin} {row.outcome}: {row.reason} {row.notes}" for row in error.report]
            return {"error": str(error), "report": rows}
        except WarpgateError as error:
            return {"error": str(error), "report": []}

    async def _start(self, **settings: Any) -> dict[str, Any]:
        await self._stop()
        # The model routers map no ports: asking them costs each process the import of the UPnP library.
        config = msgspec.convert({"port_map": False} | settings, Config)
        # One that is named is that of the data directory, the same in each start.
        identity = None if "identity" in settings else Identity.generate()
        node = Node(config, identity=identity, observer=self._observe)
        began = time.perf_counter()
        await node.start()
        self._node = node
        self._signals.clear()
        self._echoing = asyncio.create_task(self._echo_all(node))
        return {
            "address": node.address.to_text(),
            "seconds": time.perf_counter() - began,
            "node_id": node.node_id,
        }

    def _observe(self, event: Event) -> None:
        self._trace.append((time.monotonic(), event))
        # Processes of one key ask for each other whenever their brokers change: that is no part of an attempt.
        if isinstance(event, SignalSent | SignalReceived) and event.kind != "twin":
            self._signals[f"{type(event).__name__} {event.kind}"] += 1

    async def _connect(
        self,
        address: str,
        mode: str,
        transport: str | None,
        plugins: list[str] | None,
        timeout: float,
        keep: bool,
        secure: bool,
        durable: bool,
    ) -> dict[str, Any]:
        node = self._running()
        self._signals.clear()
        began = time.perf_counter()
        pipe = await node.connect(
            address,
            mode=Mode(mode),
            transport=None if transport is None else Transport(transport),
            plugins=plugins,
            timeout=timeout,
            secure=secure,
            durable=durable,
        )
        seconds = time.perf_counter() - began
        try:
            echoed = await self._ping(pipe)
        finally:
            if not keep:
                await pipe.close()
        self._kept += [pipe] if keep else []
        return {
            "plugin": pipe.plugin,
            "local": str(pipe.local),
            "remote": str(pipe.remote),
            "mode": pipe.mode.value,
            "transport": pipe.transport.value,
            "relayed": pipe.relayed,
            "secure": pipe.secure,
            "seconds": seconds,
            "echoed": echoed,
            "signals": dict(self._signals),
            "report": [f"{row.plugin} {row.outcome}: {row.reason} {row.notes}" for row in pipe.report],
        }

    async def _talk(self, pipe: int) -> dict[str, Any]:
        """One more echo over a pipe that was kept, by its place among them."""
        began = time.perf_counter()
        return {"echoed": await self._ping(self._kept[pipe]), "seconds": time.perf_counter() - began}

    async def _count(self, pipe: int) -> dict[str, Any]:
        """Begin to send counters over a kept pipe."""
        self._counters = Counters(self._kept[pipe])
        return {}

    async def _counted(self, since: float, stop: bool) -> dict[str, Any]:
        """How they do; `since`: an instant of the monotonic clock, which all hosts of the lab share."""
        counters = self._counters
        if counters is None:
            raise WarpgateError("nothing is counted: send count first")
        if stop:
            await counters.stop()
            self._counters = None
        return {
            "worst": counters.worst(since),
            "sent": counters.sent,
            "received": counters.received,
            "fault": counters.fault,
            "gaps": [(gap.ended, gap.seconds) for gap in counters.felt(since)],
        }

    async def _path(self, pipe: int) -> dict[str, Any]:
        """The way that a kept pipe takes now."""
        kept = self._kept[pipe]
        return {
            "plugin": kept.plugin,
            "transport": kept.transport.value,
            "local": str(kept.local),
            "remote": str(kept.remote),
            "relayed": kept.relayed,
        }

    async def _ended(self, pipe: int, within: float) -> dict[str, Any]:
        """How a kept pipe ends, if it does."""
        try:
            async with asyncio.timeout(within):
                while await self._kept[pipe].recv():
                    pass
        except PipeClosed as error:
            return {"reason": str(error)}
        except TimeoutError:
            return {"reason": ""}
        return {"reason": "end of stream"}

    async def _ping(self, pipe: Pipe) -> bool:
        """Whether the peer's echo came back; over datagrams, one of a few tries."""
        datagrams = pipe.mode is Mode.DATAGRAM
        tries, patience = (ECHO_TRIES, DATAGRAM_PATIENCE) if datagrams else (1, ECHO_PATIENCE)
        for _ in range(tries):
            await pipe.send(b"ping")
            with contextlib.suppress(TimeoutError, PipeClosed):
                if await pipe.recv(timeout=patience) == b"ping":
                    return True
        return False

    async def _nickname(self, name: str) -> dict[str, Any]:
        return {"servers": await self._running().nickname(name)}

    async def _status(self) -> dict[str, Any]:
        node = self._running()
        return {"address": node.address.to_text(), "counts": dict(node.status().counts)}

    async def _take_trace(self) -> dict[str, Any]:
        """Events since the last call, with the machine's monotonic clock, which all hosts of the lab share."""
        trace = [{"event": type(event).__name__, "now": now, **dataclasses.asdict(event)} for now, event in self._trace]
        self._trace.clear()
        return {"trace": trace}

    async def _stop(self) -> dict[str, Any]:
        node, self._node = self._node, None
        self._kept.clear()
        if self._counters is not None:
            await self._counters.stop(patience=0)
            self._counters = None
        if node is not None:
            await node.close()
        if self._echoing is not None:
            await self._echoing
            self._echoing = None
        return {}

    def _running(self) -> Node:
        if self._node is None:
            raise WarpgateError("no node: send start first")
        return self._node

    async def _echo_all(self, node: Node) -> None:
        async with asyncio.TaskGroup() as echoes:
            async for pipe in node:
                echoes.create_task(_echo(pipe))


async def _echo(pipe: Pipe) -> None:
    with contextlib.suppress(PipeClosed):
        async with pipe:
            async for data in pipe:
                await pipe.send(data)


async def serve(agent: Agent) -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = await agent.handle(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await agent.handle({"do": "stop"})


if __name__ == "__main__":
    asyncio.run(serve(Agent()))
