"""The MQTT broker for machines without mosquitto: amqtt, behind a gate that bounds what strangers can make it hold.

`python -m warpgate.server.embedded_broker PARENT USER PORT CONNECTIONS [CERTIFICATE,KEY] [ADDRESS]...`, started and
watched by `server.broker_process`. It is a process of its own, with a limit on its memory: whatever a stranger does to
it, names and STUN go on, and it is started again. Enough for a small group (2,000 messages a second, MQTT 3.1.1).

amqtt by itself reads packets of any size and at any rate, waits for a first one for ever, has no limit for
subscriptions or unsent bytes, and takes wills past its own access rules. So it gets readers and writers of ours (its
"external" listeners are made for that): whole packets, checked before it sees them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import sys
from collections.abc import Sequence

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import NoDataError
from amqtt.plugins.base import BaseTopicPlugin
from amqtt.session import Session

from warpgate.net.tls import server_context
from warpgate.platform import PROCESSES
from warpgate.proto.bucket import TokenBucket
from warpgate.server.broker import MEMORY, MESSAGE_SIZE, QUEUED_BYTES, TOPICS
from warpgate.server.child import become_child

LISTENER = "default"
# MQTT 3.1.1 section 3.1: "the first Packet sent [...] MUST be a CONNECT Packet".
CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8
CONNECT_PATIENCE = 10.0
WILL_FLAG = 0x04  # section 3.1.2.3, in the byte after name (6 bytes) and level
FLAGS_AT = 7
RETAIN_FLAG = 0x01  # section 3.3.1.3
# A node subscribes to its own topic, 37 bytes, once.
LARGEST_SUBSCRIBE = 256
SUBSCRIBES = 16
# A node that connects to many at once sends dozens; amqtt passes on about 2,000 a second. Who is over waits.
OWN_RATE, OWN_BURST = 50.0, 100.0
TOTAL_RATE, TOTAL_BURST = 1500.0, 3000.0
TURN = 0.05
# Nodes ask for 30 s; who asks for nothing (0) would stay for ever.
SILENCE = 180.0
# amqtt's address space: Python and its modules take about 150 MiB of it, threads' stacks the rest.
ADDRESS_SPACE = 2 * MEMORY


class PacketReader(ReaderAdapter):
    """What amqtt reads from: bytes of one whole packet after another. NoDataError is for what ends the connection."""

    def __init__(self, stream: asyncio.StreamReader, total: TokenBucket) -> None:
        """`total` is the rate of all connections together."""
        self._stream = stream
        self._over = False
        self._rates = TokenBucket(OWN_RATE, OWN_BURST, asyncio.get_running_loop().time()), total
        self._packet = b""
        self._first = True
        self._subscribes = 0

    async def read(self, n: int = -1) -> bytes:
        """Exactly `n` bytes, which never reach into the next packet.

        After a bad packet amqtt would go on with the next one: for us the stream has ended there.
        """
        if self._over:
            raise NoDataError("the connection is over")
        try:
            if not self._packet and n == 1:  # amqtt begins a packet with its first byte
                self._packet = await self._next_packet()
            taken, self._packet = self._packet[:n], self._packet[n:]
            if len(taken) != n:
                raise NoDataError("a field runs past its packet's end")
        except NoDataError:
            self._over = True
            raise
        return taken

    def feed_eof(self) -> None:
        self._stream.feed_eof()

    async def _next_packet(self) -> bytes:
        try:
            async with asyncio.timeout(CONNECT_PATIENCE if self._first else SILENCE):
                packet = await self._whole_packet()
        except (asyncio.IncompleteReadError, OSError, TimeoutError) as error:
            raise NoDataError(f"the connection ended: {error}") from error
        for rate in self._rates:
            while not rate.take(asyncio.get_running_loop().time()):  # noqa: ASYNC110 - time is what it waits for
                await asyncio.sleep(TURN)
        self._first = False
        return packet

    async def _whole_packet(self) -> bytes:
        head = await self._stream.readexactly(1)
        length = shift = 0
        while True:  # section 2.2.3: seven bits a byte, four bytes at most; two are enough for us
            byte = (await self._stream.readexactly(1))[0]
            head += bytes((byte,))
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 7:
                raise NoDataError("a packet over the limit")
        body = await self._stream.readexactly(self._admit(head[0], length))
        if head[0] >> 4 == CONNECT and len(body) > FLAGS_AT and body[FLAGS_AT] & WILL_FLAG:
            raise NoDataError("a will")
        return head + body

    def _admit(self, first: int, length: int) -> int:
        kind = first >> 4
        if (kind == CONNECT) is not self._first:
            raise NoDataError("CONNECT comes first, and once")
        if kind == SUBSCRIBE:
            self._subscribes += 1
        over = length > (LARGEST_SUBSCRIBE if kind == SUBSCRIBE else MESSAGE_SIZE)
        if over or self._subscribes > SUBSCRIBES or (kind == PUBLISH and first & RETAIN_FLAG):
            raise NoDataError("a packet that no node sends")
        return length


class BoundedWriter(WriterAdapter):
    """What amqtt writes to: cut off when its peer does not read. `drain` never waits for the peer."""

    def __init__(self, stream: asyncio.StreamWriter) -> None:
        self._stream = stream

    def write(self, data: bytes) -> None:
        transport = self._stream.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > QUEUED_BYTES:
            transport.abort()
            return
        self._stream.write(data)

    async def drain(self) -> None:
        """Bounded by `write`, so that one slow reader does not hold up the others' messages."""

    def get_peer_info(self) -> tuple[str, int] | None:
        name = self._stream.get_extra_info("peername")
        return (name[0], name[1]) if name else None

    def get_ssl_info(self) -> ssl.SSLObject | None:
        found: ssl.SSLObject | None = self._stream.get_extra_info("ssl_object")
        return found

    async def close(self) -> None:
        self._stream.close()


class Gate:
    """Accepts connections, at most `connections` at once, and hands them to amqtt."""

    def __init__(self, broker: Broker, connections: int) -> None:
        self._broker = broker
        self._connections = connections
        self._open: set[asyncio.Task[None]] = set()
        self._rate = TokenBucket(TOTAL_RATE, TOTAL_BURST, asyncio.get_running_loop().time())

    def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._connections:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._broker.external_connected(PacketReader(reader, self._rate), BoundedWriter(writer), LISTENER)
        finally:
            writer.transport.abort()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A stranger's bytes may make amqtt raise anything: that ends his connection and nothing else."""
        self._open.discard(task)
        if not task.cancelled():
            task.exception()


class OurTopics(BaseTopicPlugin):
    """amqtt's access rules: single topics of nodes. Wildcards would show who is called, and multiply what is sent."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        prefix = TOPICS.removesuffix("+")
        rest = (topic or "").removeprefix(prefix)
        return bool(rest) and rest != topic and not any(mark in rest for mark in "+#/")


def broker_config() -> BrokerConfig:
    """amqtt's own: anybody, and only our topics."""
    plugins: tuple[tuple[str, dict[str, bool]], ...] = (
        ("amqtt.plugins.authentication.AnonymousAuthPlugin", {"allow_anonymous": True}),
        (f"warpgate.server.embedded_broker.{OurTopics.__name__}", {}),
    )
    return BrokerConfig(listeners={LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)}, plugins=dict(plugins))


async def serve(
    port: int, connections: int, tls: ssl.SSLContext | None, addresses: Sequence[str], stop: asyncio.Event
) -> None:
    """Until `stop`. OSError when the port is taken."""
    broker = Broker(broker_config())
    await broker.start()
    gate = Gate(broker, connections)
    server = await asyncio.start_server(
        gate.accepted, list(addresses) or None, port, ssl=tls, limit=2 * MESSAGE_SIZE, backlog=512
    )
    async with server:
        await stop.wait()


async def _until_terminated(port: int, connections: int, tls: ssl.SSLContext | None, addresses: list[str]) -> None:
    stop = asyncio.Event()
    PROCESSES.on_stop(stop.set)
    await serve(port, connections, tls, addresses, stop)


def main() -> None:
    parent, user, port, connections, files, *addresses = sys.argv[1:]
    tls = server_context(*files.split(",")) if files else None
    become_child(int(parent), user)
    PROCESSES.limit_memory(ADDRESS_SPACE)
    logging.basicConfig(level=logging.CRITICAL)  # amqtt has a line for every stranger's mistake
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_until_terminated(int(port), int(connections), tls, addresses))
        except OSError as error:
            raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
