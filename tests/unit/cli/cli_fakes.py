"""A node without a network, as a small program: what it is asked for is recorded, peers are coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from warpgate.config import Config
from warpgate.core.assembly import NodeStatus
from warpgate.errors import PipeClosed, WarpgateError
from warpgate.events import Observer, PluginReport
from warpgate.model.address import Attachment, BrokerRef, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.identity import Identity

REPORT = (
    PluginReport("direct", "failed", "refused", 0.0, 0.02, ((0.001, "dialling 192.0.2.1:7"),)),
    PluginReport("udp_punch", "skipped", "only TCP was asked for", None, None),
)
END, RESET = object(), object()


class FakePipe:
    """One end of a pipe in memory; `other` is the far one."""

    def __init__(self, mode: Mode, peer: str) -> None:
        self.mode = mode
        self.transport = Transport.TCP if mode is Mode.STREAM else Transport.UDP
        self.relayed = False
        self.secure = False
        self.durable = False
        self.largest = None if mode is Mode.STREAM else 65_507
        self.service = ""
        self.plugin = "direct"
        self.peer = peer
        self.local = Endpoint.parse("127.0.0.1:1000")
        self.remote = Endpoint.parse("127.0.0.1:2000")
        self.seconds = 0.0125
        self.report = (PluginReport("direct", "won", "", 0.0, 0.0125), *REPORT[1:])
        self.inbox: asyncio.Queue[object] = asyncio.Queue()
        self.buffer = b""
        self.ended = self.closed = self.aborted = False
        self.other: FakePipe

    @classmethod
    def pair(cls, mode: Mode = Mode.STREAM, peer: str = "a" * 26) -> tuple[FakePipe, FakePipe]:
        near, far = cls(mode, peer), cls(mode, "b" * 26)
        near.other, far.other = far, near
        return near, far

    async def recv(self) -> bytes:
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data
        item = await self.inbox.get()
        if item in (END, RESET):
            self.inbox.put_nowait(item)
        if item is RESET or (item is END and self.mode is Mode.DATAGRAM):
            raise PipeClosed("the peer closed the pipe")
        return b"" if item is END else item

    async def recv_n(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = await self.recv()
            if not piece:
                raise PipeClosed("the stream ended early")
            data += piece
        data, self.buffer = data[:count], data[count:]
        return data

    async def send(self, data: bytes) -> None:
        if self.closed or self.aborted or self.other.aborted:
            raise PipeClosed("the pipe is gone")
        self.other.inbox.put_nowait(bytes(data))
        await asyncio.sleep(0)

    def write_eof(self) -> None:
        self.ended = True
        self.other.inbox.put_nowait(END)

    async def close(self) -> None:
        if not self.ended:
            self.other.inbox.put_nowait(END)
        self.closed = True

    def abort(self) -> None:
        self.aborted = True
        self.other.inbox.put_nowait(RESET)


Peer = Callable[[FakePipe], Awaitable[None]]


async def echo_peer(pipe: FakePipe) -> None:
    try:
        while data := await pipe.recv():
            await pipe.send(data)
    except PipeClosed:
        return
    pipe.write_eof()


async def silent_peer(pipe: FakePipe) -> None:
    await asyncio.Event().wait()


async def lying_peer(pipe: FakePipe) -> None:
    data = await pipe.recv()
    await pipe.send(bytes(len(data)))


@dataclass
class FakeWorld:
    """What the node meets: `visitors` come as soon as it accepts, connects end at `peer` or in `refusal`."""

    peer: Peer = echo_peer
    visitors: Sequence[tuple[Mode, Peer]] = ()
    refusal: WarpgateError | None = None
    brokers: tuple[BrokerRef, ...] = ()
    identity: Identity = field(default_factory=Identity.generate)
    config: Config | None = None
    asked: list[tuple[NodeAddress, Mode, Transport | None, Sequence[str] | None, float | None]] = field(
        default_factory=list
    )
    pipes: list[FakePipe] = field(default_factory=list)  # the node's ends
    running: int = 0  # nodes started and not closed

    def node_maker(self, config: Config, observer: Observer) -> FakeNode:
        self.config = config
        return FakeNode(self, observer)


class FakeNode:
    def __init__(self, world: FakeWorld, observer: Observer) -> None:
        self.world = world
        self.observer = observer
        self.arrivals = list(world.visitors)
        self.tasks: set[asyncio.Task[None]] = set()
        self.node_id = world.identity.node_id
        here = Attachment(Endpoint.parse("192.0.2.7:0").ip, udp=Listening(4242), tcp=Listening(4242))
        self.address = NodeAddress(world.identity.public_key, world.brokers, (here,))

    async def __aenter__(self) -> FakeNode:
        self.world.running += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        self.world.running -= 1

    def status(self) -> NodeStatus:
        return NodeStatus((), self.address.attachments, self.world.brokers, (), ())

    def _open(self, mode: Mode, peer: Peer) -> FakePipe:
        near, far = FakePipe.pair(mode)
        self.world.pipes.append(near)
        self.tasks.add(asyncio.create_task(peer(far)))
        return near

    async def connect(
        self,
        dest,
        *,
        mode=Mode.STREAM,
        transport=None,
        plugins=None,
        timeout=None,
        secure=False,
        service="",
        durable=None,
    ) -> FakePipe:
        self.world.asked.append((dest, mode, transport, plugins, timeout, secure))
        if self.world.refusal is not None:
            raise self.world.refusal
        pipe = self._open(mode, self.world.peer)
        pipe.service = service
        return pipe

    async def accept(self) -> FakePipe:
        if not self.arrivals:
            await asyncio.Event().wait()
        return self._open(*self.arrivals.pop(0))


def target_text() -> str:
    return NodeAddress(Identity.generate().public_key).to_text()
