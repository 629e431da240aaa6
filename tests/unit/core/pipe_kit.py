"""Two pipes joined by an internet in memory, without nodes: only the link below them is real."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Self

from warpgate.config import Config, Timing
from warpgate.core.pipes.base import Pipe, PipeInfo
from warpgate.core.pipes.plain_datagram import PlainDatagramPipe
from warpgate.core.pipes.plain_tcp import StreamPipe
from warpgate.core.pipes.tls import TlsEnds
from warpgate.core.udp.demultiplexer import Demultiplexer, SessionChecks
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.identity import Identity
from warpgate.net.network import TcpStream
from warpgate.proto.check import CheckAgent, CheckEvent, CheckSettings, Nominated, PairVerified
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, PathSpec

SESSION = bytes(16)
KEY = bytes(range(32))
ALICE, BOB = Identity.generate(), Identity.generate()
TIMING = Timing()
HOP = 0.02


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run in virtual time; no task and no complaint of the loop may be left."""
    complaints: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await main()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(guarded(), limit=1000)
    assert complaints == []


def info(transport: Transport, local: Endpoint, remote: Endpoint) -> PipeInfo:
    return PipeInfo(SESSION, "peer", "direct", transport, local, remote, relayed=False, seconds=0.1)


PEER_KEY = bytes(33)


class Side:
    """One end's host, udp and checks."""

    def __init__(self, network: MemoryNetwork, controlling: bool, session: bytes = SESSION) -> None:
        self.network = network
        self.garbage: list[str] = []
        self.introduced: list[bytes] = []
        self.ended: list[str] = []
        self.udp = Demultiplexer(network, self._introduce, lambda _, reason: self.garbage.append(reason))
        self.port = self.udp.open(Endpoint(network.host.addresses[0], 0))
        ids = itertools.count(1)
        agent = CheckAgent(
            controlling=controlling,
            session=session,
            key=KEY,
            secret=(b"A" if controlling else b"B") * 32,
            new_id=lambda: next(ids).to_bytes(12, "big"),
            settings=CheckSettings(TIMING.check_offsets, TIMING.consent_silence, TIMING.consent_timeout),
            introduction=bytes(33) if controlling else None,
            trust_heard=True,
        )
        self.pipe: PlainDatagramPipe | None = None
        self.checks = SessionChecks(self.udp, agent, PEER_KEY, self._event)
        self.udp.sessions[session] = self.checks

    def _introduce(self, port: object, data: bytes, remote: Endpoint) -> bool:
        self.introduced.append(data)
        return False

    def _event(self, event: CheckEvent) -> None:
        if isinstance(event, PairVerified):
            self.checks.nominate(event.base, event.remote)
            self._make(event.base, event.remote)
        elif isinstance(event, Nominated):
            self._make(event.base, event.remote)
        elif self.pipe is not None:
            self.pipe.check_event(event)

    def _make(self, base: Endpoint, remote: Endpoint) -> None:
        limit = Config(receive_queue=8).receive_queue
        made = info(Transport.UDP, base, remote)
        self.pipe = PlainDatagramPipe(
            made,
            self.udp,
            self.udp.port(base),
            self.checks,
            limit,
            lambda _, reason: self.ended.append(reason),
        )


class Datagrams:
    """Two datagram pipes between two public hosts."""

    def __init__(self) -> None:
        self.internet = MemoryInternet(seed=1, path=PathSpec(delay=HOP))
        self.one = Side(self.internet.host("one", "198.51.100.1"), controlling=True)
        self.other = Side(self.internet.host("other", "198.51.100.2"), controlling=False)

    async def __aenter__(self) -> Self:
        self.one.checks.probe(self.one.port.base, self.other.port.base, "direct", (0.0,), None)
        await asyncio.sleep(0.5)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.one.udp.close()
        self.other.udp.close()
        await asyncio.sleep(1.0)
        assert self.internet.open_sockets() == ()

    @property
    def a(self) -> PlainDatagramPipe:
        assert self.one.pipe is not None
        return self.one.pipe

    @property
    def b(self) -> PlainDatagramPipe:
        assert self.other.pipe is not None
        return self.other.pipe


class Streams:
    """Two stream pipes on one TCP connection."""

    def __init__(self) -> None:
        self.internet = MemoryInternet(seed=1, path=PathSpec(delay=HOP))
        self._one = self.internet.host("one", "198.51.100.1")
        self._other = self.internet.host("other", "198.51.100.2")
        self.ended: list[tuple[Pipe, str]] = []
        self.a: StreamPipe
        self.b: StreamPipe

    async def __aenter__(self) -> Self:
        accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
        listener = self._other.listen_tcp(Endpoint.of("198.51.100.2", 4000), accepted.put_nowait)
        self.a = self._pipe(await self._one.dial_tcp(listener.local), ALICE, BOB, client=True)
        self.b = self._pipe(await accepted.get(), BOB, ALICE, client=False)
        listener.close()
        return self

    def _pipe(self, stream: TcpStream, own: Identity, peer: Identity, *, client: bool) -> StreamPipe:
        made = info(Transport.TCP, stream.local, stream.remote)
        ends = TlsEnds(own, peer.public_key, SESSION, client)
        return StreamPipe(made, stream, ends, lambda pipe, reason: self.ended.append((pipe, reason)))

    async def __aexit__(self, *_: object) -> None:
        self.a.abort()
        self.b.abort()
        await asyncio.sleep(1.0)
        assert self.internet.open_sockets() == ()
