"""TLS over our streams against asyncio's own: bytes both ways, and certificates that must be right."""

from __future__ import annotations

import asyncio
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from warpgate.errors import ConfigError, NetworkError
from warpgate.lab.certificate import CERTIFICATE_FILE, write_certificate
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import TlsStream, Trust, secure

LOCALHOST = ip_address("127.0.0.1")


@asynccontextmanager
async def echo(directory: Path, name: str = "127.0.0.1") -> AsyncIterator[tuple[Endpoint, ssl.SSLContext]]:
    """An echo server with a certificate for `name`, and a context that trusts it."""
    certificate, key = write_certificate(directory, [ip_address(name)])
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    async with server:
        trusting = ssl.create_default_context(cafile=str(certificate))
        yield Endpoint(LOCALHOST, server.sockets[0].getsockname()[1]), trusting


async def dial(endpoint: Endpoint, context: ssl.SSLContext) -> TlsStream:
    return await secure(await SystemNetwork().dial_tcp(endpoint), context, "127.0.0.1")


async def read(stream: TlsStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.recv(count - len(data))
    return data


async def test_bytes_go_both_ways_at_once(tmp_path: Path) -> None:
    async with asyncio.timeout(20), echo(tmp_path) as (endpoint, context):
        stream = await dial(endpoint, context)
        sent = bytes(range(256)) * 4096
        receiving = asyncio.ensure_future(read(stream, len(sent)))
        await stream.send(memoryview(sent))
        assert await receiving == sent
        stream.abort()


async def test_a_cancelled_receive_loses_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(20), echo(tmp_path) as (endpoint, context):
        stream = await dial(endpoint, context)
        waiting = asyncio.ensure_future(stream.recv(10))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await stream.send(b"later")
        assert await read(stream, 5) == b"later"
        stream.write_eof()
        assert await stream.recv(10) == b""
        stream.close()


async def test_an_idle_stream_has_no_room_for_what_may_come(tmp_path: Path) -> None:
    async with asyncio.timeout(20), echo(tmp_path) as (endpoint, context):
        tcp = await SystemNetwork().dial_tcp(endpoint)
        tracemalloc.start()
        try:
            streams = [TlsStream(tcp, context, "127.0.0.1") for _ in range(20)]
            size = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert size < 20 * 16 * 1024
        streams[0].abort()


async def test_a_certificate_of_nobody_we_trust_is_refused(tmp_path: Path) -> None:
    async with asyncio.timeout(20), echo(tmp_path) as (endpoint, _):
        with pytest.raises(NetworkError, match="certificate not trusted: self-signed certificate"):
            await dial(endpoint, ssl.create_default_context())


async def test_all_who_ask_at_once_get_one_context_with_the_file_s_authorities(tmp_path: Path) -> None:
    async with asyncio.timeout(20), echo(tmp_path) as (endpoint, _):
        trust = Trust(str(tmp_path / CERTIFICATE_FILE))
        first, second = await asyncio.gather(trust.context(), trust.context())
        assert first is second is await trust.context()
        (await dial(endpoint, first)).abort()


def test_a_file_without_certificates_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    for place, written in (("absent", None), ("empty", b"")):
        if written is not None:
            (tmp_path / place).write_bytes(written)
        with pytest.raises(ConfigError, match=f"{place} holds no certificates to trust"):
            Trust(str(tmp_path / place))


async def test_a_certificate_for_another_is_refused(tmp_path: Path) -> None:
    async with asyncio.timeout(20), echo(tmp_path, "192.0.2.1") as (endpoint, context):
        with pytest.raises(NetworkError, match="certificate not trusted: IP address mismatch"):
            await dial(endpoint, context)


async def test_a_server_that_speaks_something_else_is_refused() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(20), server:
        endpoint = Endpoint(LOCALHOST, server.sockets[0].getsockname()[1])
        with pytest.raises(NetworkError, match=r"TLS with|receive from|send to"):
            await dial(endpoint, ssl.create_default_context())
