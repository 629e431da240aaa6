"""Owners of names, what they sign, and a name server of their own on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.model.address import NodeAddress
from warpgate.model.identity import Identity
from warpgate.proto.name_record import NameRecord, RecordKind, seal
from warpgate.server.limits import Limits

NOW = 1_700_000_000
UNLIMITED = Limits(None, None, None, None, None, connections=1000, connections_per_network=None)


@dataclass(frozen=True)
class Owner:
    """A key, and what it signs at `NOW` or another time."""

    identity: Identity = field(default_factory=Identity.generate)

    def claim(self, name: str = "alice", sequence: int = 1, *, issued: int = NOW, lifetime: int = 3600) -> NameRecord:
        key = self.identity.public_key
        address = NodeAddress(key).encode()
        return NameRecord(RecordKind.CLAIM, name, key, sequence, issued, lifetime, address)

    def release(self, name: str = "alice", sequence: int = 1, *, issued: int = NOW) -> NameRecord:
        return replace(self.claim(name, sequence, issued=issued), kind=RecordKind.RELEASE, address=b"")

    def seal(self, record: NameRecord) -> bytes:
        return seal(record, self.identity)


ALICE, BOB, CAROL = (Owner(Identity(ec.derive_private_key(n, ec.SECP256R1()))) for n in (11, 22, 33))


def free_port() -> int:
    """Below the range from which the system takes ports for connections."""
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        return self.status, self.json["error"]


@dataclass(frozen=True)
class Client:
    """Asks one name server."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url + path, data=body, headers=named) as response:
            return Answer(response.status, await response.read(), dict(response.headers))

    async def get(self, name: str = "alice", **headers: str) -> Answer:
        return await self.ask("GET", f"/v1/names/{name}", **headers)

    async def put(self, body: bytes, name: str = "alice", **headers: str) -> Answer:
        return await self.ask("PUT", f"/v1/names/{name}", body, **headers)


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as session:
        yield Client(url, session)


@dataclass(frozen=True)
class Serve:
    """A running `warpgate serve`."""

    process: asyncio.subprocess.Process
    url: str

    def kill(self) -> None:
        self.process.kill()


@contextlib.asynccontextmanager
async def serving(database: Path | str, *options: str, wrap: tuple[str, ...] = ()) -> AsyncIterator[Serve]:
    """The program itself; `wrap` is a command that runs it."""
    words = (*wrap, sys.executable, "-m", "warpgate", "serve", "--json", "--host", "127.0.0.1")
    process = await asyncio.create_subprocess_exec(
        *(*words, "--port", str(free_port()), "--database", str(database), *options),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        ready = json.loads(line)
        assert ready["event"] == "ready", ready
        yield Serve(process, ready["url"])
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await asyncio.wait_for(process.wait(), 20)
