"""The STUN responder on loopback: our own client, aioice and coturn's tools as clients, and hostile ones."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
from aioice import stun as oracle

from warpgate.config import Timing
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Filtering, Mapping
from warpgate.net.network import Interface
from warpgate.net.system import SystemNetwork
from warpgate.proto.stun import StunClass, StunMessage, decode, encode
from warpgate.proto.stun_server import SOURCE_BURST
from warpgate.server.addresses import stun_places
from warpgate.server.stun_responder import CONNECTIONS_PER_SOURCE, StunResponder
from warpgate.services.discovery import Discovery

FIRST, SECOND, OURS = "127.0.0.1", "127.0.0.2", "127.0.0.3"
REQUEST = encode(StunMessage(1, StunClass.REQUEST, bytes(12)))


def free_ports() -> tuple[int, int]:
    """Two neighbours that nobody has, below the range from which the system takes ports for connections."""
    for port in random.sample(range(20000, 32000, 2), 1000):
        with socket.socket() as tcp, socket.socket() as next_tcp:
            try:
                tcp.bind((FIRST, port))
                next_tcp.bind((FIRST, port + 1))
            except OSError:
                continue
            return port, port + 1
    raise OSError("no free port")


@asynccontextmanager
async def responder(*ips: str, **limits: float) -> AsyncIterator[tuple[StunResponder, int]]:
    """Serving on these addresses of loopback, in pairs when there are two; and its port."""
    port, other = free_ports()
    a, b = (Endpoint.of(ip, port) for ip in (ips[0], ips[-1]))
    places: dict[Endpoint, Endpoint | None] = {}
    for mine, differing in ((a, b), (b, a)):
        for first, second in ((port, other), (other, port)):
            places[Endpoint(mine.ip, first)] = Endpoint(differing.ip, second) if a != b else None
    serving = StunResponder.open(SystemNetwork(), places, salt=b"s", **limits)
    try:
        yield serving, port
    finally:
        await serving.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another process's doing has no event
            await asyncio.sleep(0.002)


class TestWithOurOwnClient:
    async def test_everything_is_learnt_from_two_addresses(self) -> None:
        async with responder(FIRST, SECOND) as (_, port):
            network = SystemNetwork()
            discovery = Discovery(
                network, (f"{FIRST}:{port}",), Timing(), lambda _: None, lambda: None, random.Random(1)
            )
            sock = network.open_udp(
                Endpoint.of(OURS, 0), lambda data, source: discovery.receive(sock, data, source) and None
            )
            listener = network.listen_tcp(sock.local, lambda stream: stream.abort())
            discovery.add(sock, sock.local.port)
            running = asyncio.ensure_future(discovery.run())
            try:
                await discovery.first(1.5)
                learnt = discovery.learnt(sock.local)
                assert (str(learnt.reflexive), learnt.udp_mapped, learnt.tcp_mapped) == (
                    OURS,
                    sock.local.port,
                    sock.local.port,
                )
                await until(lambda: discovery.learnt(sock.local).nat.filtering is Filtering.EIF)
                assert discovery.learnt(sock.local).nat.mapping is Mapping.NONE
            finally:
                running.cancel()
                await asyncio.wait([running])
                discovery.close()
                sock.close()
                listener.close()


class TestWithOthersClients:
    async def test_aioice_reads_the_answers(self) -> None:
        async with responder(FIRST, SECOND) as (_, port):
            loop = asyncio.get_running_loop()
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.bind((OURS, 0))
                asked = oracle.Message(oracle.Method.BINDING, oracle.Class.REQUEST)
                asked.add_fingerprint()
                await loop.sock_sendto(client, bytes(asked), (FIRST, port))
                async with asyncio.timeout(5):
                    data, source = await loop.sock_recvfrom(client, 2048)
                answer = oracle.parse_message(data)
                assert source == (FIRST, port)
                assert answer.transaction_id == asked.transaction_id
                assert answer.attributes["XOR-MAPPED-ADDRESS"] == client.getsockname()
                assert "FINGERPRINT" in answer.attributes

    @pytest.mark.parametrize(
        ("command", "expected"),
        [
            (["turnutils_stunclient"], "UDP reflexive addr: "),
            (["turnutils_natdiscovery", "-m"], "NAT with Endpoint Independent Mapping!"),
            (["turnutils_natdiscovery", "-f"], "NAT with Endpoint Independent Filtering"),
            (["turnutils_natdiscovery", "-f", "-P"], "NAT with Endpoint Independent Filtering"),
        ],
    )
    async def test_coturns_tools(self, command: list[str], expected: str) -> None:
        if shutil.which(command[0]) is None:
            pytest.skip("needs coturn")
        async with responder(FIRST, SECOND) as (_, port):
            program = await asyncio.create_subprocess_exec(
                *command, "-p", str(port), FIRST,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            async with asyncio.timeout(20):
                said, _ = await program.communicate()
            assert expected in said.decode(), said.decode()


class TestConnections:
    async def test_requests_are_answered_however_they_are_cut(self) -> None:
        async with responder(FIRST) as (serving, port):
            reader, writer = await asyncio.open_connection(FIRST, port)
            async with asyncio.timeout(5):
                for piece in (REQUEST[:7], REQUEST[7:] + REQUEST, REQUEST[:1], REQUEST[1:]):
                    writer.write(piece)
                    await writer.drain()
                answers = [decode(await reader.readexactly(32)) for _ in range(3)]
            assert {answer.mapped for answer in answers} == {Endpoint.from_sockaddr(writer.get_extra_info("sockname"))}
            assert serving.counters.answered == 3
            writer.close()
            await until(lambda: serving.connections == 0)

    @pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", REQUEST[:2] + b"\xff\xfc" + REQUEST[4:], b"\xff" * 4])
    async def test_what_is_no_request_ends_the_connection(self, data: bytes) -> None:
        async with responder(FIRST) as (serving, port):
            reader, writer = await asyncio.open_connection(FIRST, port)
            writer.write(data)
            assert await _until_ended(reader) == b""
            await until(lambda: serving.connections == 0)
            writer.close()

    async def test_silence_and_trickles_end_it(self) -> None:
        async with responder(FIRST, idle=0.2) as (serving, port):
            reader, writer = await asyncio.open_connection(FIRST, port)
            writer.write(REQUEST)
            await reader.readexactly(32)
            began = time.monotonic()
            trickle = asyncio.ensure_future(_trickle(writer))
            assert await _until_ended(reader) == b""
            assert 0.1 < time.monotonic() - began < 5
            trickle.cancel()
            await asyncio.wait([trickle])
            await until(lambda: serving.connections == 0)
            writer.close()

    async def test_they_are_bounded(self) -> None:
        async with responder(FIRST, connections=3) as (serving, port):
            connections = [await asyncio.open_connection(FIRST, port) for _ in range(3)]
            await until(lambda: serving.connections == 3)
            assert await _refused(FIRST, port)
            connections[0][1].close()
            await until(lambda: serving.connections == 2)
            again, writer = await asyncio.open_connection(FIRST, port)
            writer.write(REQUEST)
            async with asyncio.timeout(5):
                await again.readexactly(32)
            for _, open_one in [*connections[1:], (again, writer)]:
                open_one.close()

    async def test_one_source_cannot_take_all(self) -> None:
        async with responder(FIRST) as (serving, port):
            flood = [await _dial(OURS, port) for _ in range(CONNECTIONS_PER_SOURCE)]
            await until(lambda: serving.connections == CONNECTIONS_PER_SOURCE)
            assert await _refused(OURS, port)
            _, other = await _dial("127.0.0.9", port)
            await until(lambda: serving.connections == CONNECTIONS_PER_SOURCE + 1)
            for _, writer in [*flood, (None, other)]:
                writer.close()
            await until(lambda: serving.connections == 0)

    async def test_one_that_asks_without_end_is_cut_off(self) -> None:
        """At its rate: so what it does not read fits into the kernel's buffers, and none of ours."""
        async with responder(FIRST) as (serving, port):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect((FIRST, port))
                client.setblocking(False)
                await until(lambda: serving.connections == 1)
                async with asyncio.timeout(5):
                    while serving.connections:
                        try:
                            client.send(REQUEST * 40)
                        except BlockingIOError:
                            pass
                        except OSError:
                            break
                        await asyncio.sleep(0)
            await until(lambda: serving.connections == 0)
            assert serving.counters.limited == 1
            assert SOURCE_BURST <= serving.counters.answered < 2 * SOURCE_BURST


class TestIpv6:
    async def test_both_transports(self) -> None:
        port, _ = free_ports()
        place = Endpoint.of("::1", port)
        serving = StunResponder.open(SystemNetwork(), {place: None}, salt=b"s")
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(5):
                    await loop.sock_sendto(client, REQUEST, ("::1", port))
                    data, _ = await loop.sock_recvfrom(client, 2048)
                assert decode(data).mapped == Endpoint.of("::1", client.getsockname()[1])
            reader, writer = await asyncio.open_connection("::1", port)
            writer.write(REQUEST)
            async with asyncio.timeout(5):
                answer = decode(await reader.readexactly(44))
            assert answer.mapped == Endpoint.of("::1", writer.get_extra_info("sockname")[1])
            writer.close()
        finally:
            await serving.close()


class TestHostileDatagrams:
    async def test_floods_do_not_stop_it_and_are_not_amplified(self) -> None:
        async with responder(FIRST) as (serving, port):
            generator = random.Random(7)
            with socket.socket(type=socket.SOCK_DGRAM) as flooder:
                flooder.bind((OURS, 0))
                for number in range(3000):
                    junk = generator.randbytes(generator.randrange(1200)) if number % 2 else REQUEST
                    flooder.sendto(junk, (FIRST, port))
                    if number % 100 == 0:
                        await asyncio.sleep(0)
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.bind(("127.0.0.9", 0))
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(5):
                    await loop.sock_sendto(client, REQUEST, (FIRST, port))
                    data, _ = await loop.sock_recvfrom(client, 2048)
            assert decode(data).mapped is not None
            assert serving.counters.limited > 500
            assert serving.counters.answered < 700


class TestOpening:
    async def test_a_port_that_is_taken_leaves_nothing_open(self) -> None:
        port, other = free_ports()
        with socket.socket() as taken:
            taken.bind((FIRST, other))
            taken.listen()
            places = {Endpoint.of(FIRST, port): None, Endpoint.of(FIRST, other): None}
            with pytest.raises(NetworkError, match=f"{FIRST}:{other}"):
                StunResponder.open(SystemNetwork(), places, salt=b"s")
        serving = StunResponder.open(SystemNetwork(), places, salt=b"s")
        await serving.close()
        await serving.close()

    def test_places(self) -> None:
        found = stun_places(
            [
                Interface("lo", ip_address("127.0.0.1"), 8),
                Interface("eth0", ip_address("198.51.100.1"), 24),
                Interface("eth0", ip_address("10.0.0.5"), 8),
                Interface("eth0", ip_address("198.51.100.2"), 24),
                Interface("docker0", ip_address("172.17.0.1"), 16),
                Interface("eth0", ip_address("2001:db8::1"), 64),
            ],
            3478,
            3479,
        )
        paired = {str(place): str(other) for place, other in found.items() if other is not None}
        assert paired == {
            "198.51.100.1:3478": "198.51.100.2:3479",
            "198.51.100.1:3479": "198.51.100.2:3478",
            "198.51.100.2:3478": "198.51.100.1:3479",
            "198.51.100.2:3479": "198.51.100.1:3478",
        }
        assert len(found) == 12


async def _dial(source: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that may be refused as soon as it stands."""
    return await asyncio.open_connection(FIRST, port, local_addr=(source, 0))


async def _refused(source: str, port: int) -> bool:
    try:
        reader, writer = await _dial(source, port)
    except ConnectionResetError:
        return True
    ended = await _until_ended(reader) == b""
    writer.close()
    return ended


async def _trickle(writer: asyncio.StreamWriter) -> None:
    """A request's first bytes, one at a time, never all."""
    for byte in REQUEST[:-1] * 20:
        writer.write(struct.pack("B", byte))
        await asyncio.sleep(0.05)


async def _until_ended(reader: asyncio.StreamReader) -> bytes:
    """What comes before the end of the connection, which may be a reset."""
    async with asyncio.timeout(5):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
