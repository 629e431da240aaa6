"""Nodes in lab hosts as objects here: each is a process that runs `agent`."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import field
from types import TracebackType
from typing import Any, Self

from warpgate.errors import ServiceError
from warpgate.lab.agent import ECHO_PATIENCE
from warpgate.lab.host import Host
from warpgate.lazy_dataclass import dataclass

# A connect may take its own time-out and then its echo; anything slower means that the process hangs.
SLACK = 15.0


@dataclass(frozen=True, slots=True)
class Connected:
    """One connect as the initiator saw it; `error` "" when it succeeded. `seconds` until `connect` returned."""

    plugin: str = ""
    mode: str = ""
    transport: str = ""
    local: str = ""
    remote: str = ""
    relayed: bool = False
    seconds: float = 0.0
    echoed: bool = False
    signals: dict[str, int] = field(default_factory=dict)
    secure: bool = False
    error: str = ""
    report: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """A pipe was there and carried data both ways."""
        return not self.error and self.echoed


@dataclass(frozen=True, slots=True)
class Counted:
    """A stream of counters so far: `worst` is its longest interruption, seconds; `fault` "" while nothing is wrong.

    `gaps`: when each interruption that could be felt ended, on `time.monotonic`, and its length.
    """

    worst: float
    sent: int
    received: int
    fault: str
    gaps: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Way:
    """What a pipe goes by at the moment."""

    plugin: str
    transport: str
    local: str
    remote: str
    relayed: bool


class SteeredNode:
    """One process in one host; `start` may be called again for a new node with new ports."""

    def __init__(self, host: Host, process: asyncio.subprocess.Process) -> None:
        self.host = host
        self._process = process
        self.address = ""
        self.node_id = ""
        self.start_seconds = 0.0

    @classmethod
    async def launch(
        cls, host: Host, env: dict[str, str] | None = None, agent: str = "warpgate.lab.agent"
    ) -> SteeredNode:
        """Start the process; no node yet. `agent`: the module that runs in it."""
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", agent]
        return cls(host, await host.popen(command, stdin=pipe, stdout=pipe, env=env))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, **settings: Any) -> None:
        """A new node (the old one is closed) with these fields of Config, on a random port unless told otherwise."""
        answer = await self._ask(do="start", **{"port": 0, **settings})
        if "error" in answer:
            raise ServiceError(f"the node in host {self.host.name} did not start: {answer['error']}")
        self.address, self.node_id = answer["address"], answer["node_id"]
        self.start_seconds = answer["seconds"]

    async def connect(
        self,
        address: str,
        *,
        mode: str = "stream",
        transport: str | None = None,
        plugins: list[str] | None = None,
        timeout: float = 20.0,
        keep: bool = False,
        secure: bool = False,
        durable: bool = False,
    ) -> Connected:
        """Connect, let the peer echo once, close the pipe; or keep it, see `talk`."""
        answer = await self._ask(
            do="connect",
            address=address,
            mode=mode,
            transport=transport,
            plugins=plugins,
            timeout=timeout,
            keep=keep,
            secure=secure,
            durable=durable,
            patience=timeout + SLACK,
        )
        if "report" in answer:
            answer["report"] = tuple(answer["report"])
        return Connected(**answer)

    async def talk(self, pipe: int) -> bool:
        """Whether the peer's echo comes over a pipe that was kept: the first one is number 0."""
        return bool((await self._ask(do="talk", pipe=pipe, patience=2 * SLACK)).get("echoed"))

    async def answered(self, pipe: int) -> float:
        """As `talk`: after how many seconds the echo came, infinity when it did not."""
        answer = await self._ask(do="talk", pipe=pipe, patience=2 * SLACK + ECHO_PATIENCE)
        return float(answer["seconds"]) if answer.get("echoed") else math.inf

    async def count(self, pipe: int) -> None:
        """Let a stream of counters begin on a kept pipe."""
        await self._ask(do="count", pipe=pipe)

    async def counted(self, since: float = 0.0, *, stop: bool = False) -> Counted:
        """How the counters do; `since` on `time.monotonic`. `stop`: send no more, and wait for the last."""
        return Counted(**await self._ask(do="counted", since=since, stop=stop))

    async def path(self, pipe: int) -> Way:
        """The way that a kept pipe takes now."""
        return Way(**await self._ask(do="path", pipe=pipe))

    async def ended(self, pipe: int, within: float) -> str:
        """Why a kept pipe ended; "" when it has not `within` so many seconds."""
        answer = await self._ask(do="ended", pipe=pipe, within=within, patience=within + SLACK)
        return str(answer["reason"])

    async def kill(self) -> None:
        """SIGKILL: no farewell."""
        await self.host.stop(self._process, kill=True)

    async def refresh(self) -> dict[str, int]:
        """Take over the node's current address; returns how often which event happened."""
        answer = await self._ask(do="status")
        self.address = answer["address"]
        return dict(answer["counts"])

    async def nickname(self, name: str) -> tuple[str, ...]:
        """Let its node register a nickname; the servers that have it."""
        answer = await self._ask(do="nickname", name=name)
        if "error" in answer:
            raise ServiceError(f"the node in host {self.host.name} got no nickname: {answer['error']}")
        return tuple(answer["servers"])

    async def trace(self) -> list[dict[str, Any]]:
        """What its node's observer was told since the last call: "event" (the class), "now" (s), the fields."""
        return list((await self._ask(do="trace"))["trace"])

    async def stop(self) -> None:
        """Close its node in good order; the process stays."""
        await self._ask(do="stop")

    async def _ask(self, *, patience: float = SLACK, **command: Any) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise ServiceError("the agent has no pipes")
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        async with asyncio.timeout(patience):
            line = await self._process.stdout.readline()
        if not line:
            raise ServiceError(f"the node in host {self.host.name} died during {command['do']!r}")
        return dict(json.loads(line))

    async def close(self) -> None:
        await self.host.stop(self._process)
