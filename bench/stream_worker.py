"""One end of `stream_over_udp`, in a process of its own: python -m bench.stream_worker ROLE [ARGUMENTS].

serve                         a node and a bare QUIC server; prints {"address": ..., "port": ...}, swallows streams
pour ADDRESS tcp|udp|durable BYTES    through a pipe; prints {"seconds", "equal", "grown", "peer_grown", "moves"}
bare HOST PORT BYTES          through bare QUIC; prints the same, but for "moves"
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from warpgate import Config, Identity, Mode, Node, Pipe, Transport
from warpgate.core.connection.quic_library import ANYWHERE, SecretLog, make_client, make_server
from warpgate.core.pipes.durable import DurablePipe
from warpgate.proto.quic_proof import ALPN
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE, connection_id_of

CHUNK = 64 * 1024
NOISE = os.urandom(CHUNK)
BUFFER = 1024 * 1024
LOOPBACK = ("lo",)
DURABLE = "durable"  # over UDP, too


def config() -> Config:
    """Without servers, unless BENCH_SERVERS names a broker and a STUN server, as nodes behind NATs need."""
    only = LOOPBACK if os.environ.get("BENCH_LOOPBACK") else None
    servers = [(server,) for server in os.environ.get("BENCH_SERVERS", "").split()]
    brokers, stun = servers or ((), ())
    return Config(interfaces=only, brokers=brokers, stun=stun, port=0)


def memory() -> float:
    """MB resident at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


async def swallow(chunks: AsyncIterator[bytes]) -> bytes:
    """Hash and what memory grew by, as JSON."""
    before, digest = memory(), hashlib.sha256()
    async for data in chunks:
        digest.update(data)
    return json.dumps({"digest": digest.hexdigest(), "grown": memory() - before}).encode()


async def pour(
    size: int,
    send: Callable[[bytes], Awaitable[None]],
    end: Callable[[], None],
    receive: Callable[[], AsyncIterator[bytes]],
) -> dict[str, object]:
    before, digest, began = memory(), hashlib.sha256(), time.perf_counter()
    for _ in range(size // CHUNK):
        digest.update(NOISE)
        await send(NOISE)
    end()
    answer = json.loads(b"".join([data async for data in receive()]))
    seconds = time.perf_counter() - began
    equal = answer["digest"] == digest.hexdigest()
    return {"seconds": seconds, "equal": equal, "grown": memory() - before, "peer_grown": answer["grown"]}


class Bare(asyncio.DatagramProtocol):
    """QUIC on an asyncio datagram endpoint, as the library's own adapter does it, with a bounded send buffer."""

    def __init__(self, client: bool, identity: Identity) -> None:
        self._client, self._identity = client, identity
        self._certificate = identity.certificate()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Handle | None = None
        self.changed = asyncio.Event()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.quic = make_client(SecretLog(), ALPN, CONNECTION_ID_SIZE) if client else None
        self._peer: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self.quic is not None:
            self.quic.connect(ANYWHERE, self._loop.time())
            self._flush()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        from qh3.quic.events import HandshakeCompleted, StreamDataReceived  # noqa: PLC0415

        if not self._client and addr != self._peer:
            self._peer = addr
            self.quic = make_server(
                SecretLog(),
                self._certificate,
                self._identity,
                connection_id_of(data),
                ALPN,
                CONNECTION_ID_SIZE,
            )
            self._answering = asyncio.ensure_future(self.answer())
        assert self.quic is not None
        self.quic.receive_datagram(data, ANYWHERE, self._loop.time())
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self.chunks.put_nowait(event.data)
                if event.end_stream:
                    self.chunks.put_nowait(b"")
            elif isinstance(event, HandshakeCompleted):
                self.changed.set()
        if self._sending is None:
            self._sending = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._sending = None
        if self.quic is None:
            return
        for data, _ in self.quic.datagrams_to_send(self._loop.time()):
            self.transport.sendto(data, self._peer)  # type: ignore[attr-defined]
        self.changed.set()
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.quic.get_timer()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expired, deadline)

    def _expired(self, deadline: float) -> None:
        if self.quic is not None:
            self.quic.handle_timer(max(deadline, self._loop.time()))
            self._flush()

    async def send(self, data: bytes, end: bool = False) -> None:
        assert self.quic is not None
        while self.quic.get_send_buffer_size(0) >= BUFFER:
            self.changed.clear()
            await self.changed.wait()
        self.quic.send_stream_data(0, data, end)
        self._flush()

    def end(self) -> None:
        assert self.quic is not None
        self.quic.send_stream_data(0, b"", True)
        self._flush()

    async def receive(self) -> AsyncIterator[bytes]:
        while data := await self.chunks.get():
            yield data

    async def answer(self) -> None:
        await self.send(await swallow(self.receive()), True)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Bare(False, Identity.generate()), local_addr=("0.0.0.0", 0)
    )
    async with Node(config(), identity=Identity.generate()) as node:
        port = transport.get_extra_info("sockname")[1]
        print(json.dumps({"address": node.address.to_text(), "port": port}), flush=True)
        async for pipe in node:
            async with pipe:
                await pipe.send(await swallow(aiter(pipe)))


async def through_pipe(address: str, kind: str, size: int) -> dict[str, object]:
    durable = kind == DURABLE
    async with Node(config(), identity=Identity.generate()) as node:
        pipe: Pipe = await node.connect(
            address,
            mode=Mode.STREAM,
            transport=None if durable else Transport(kind),
            durable=durable,
            plugins=None if durable else ["direct"],
        )
        async with pipe:
            poured = await pour(size, pipe.send, pipe.write_eof, lambda: aiter(pipe))
            return poured | {"moves": pipe.connection.moves if isinstance(pipe, DurablePipe) else 0}


async def through_bare(host: str, port: int, size: int) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_datagram_endpoint(lambda: Bare(True, Identity.generate()), remote_addr=(host, port))
    await bare.changed.wait()
    await asyncio.sleep(0.2)  # the handshake
    return await pour(size, bare.send, bare.end, bare.receive)


def main() -> None:
    role, *rest = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve())
    elif role == "pour":
        print(json.dumps(asyncio.run(through_pipe(rest[0], rest[1], int(rest[2])))))
    else:
        print(json.dumps(asyncio.run(through_bare(rest[0], int(rest[1]), int(rest[2])))))


if __name__ == "__main__":
    main()
