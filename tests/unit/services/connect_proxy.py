"""A small web proxy for tests: CONNECT and nothing else. It counts what it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class ConnectProxy:
    """`asked`: the request lines; `headers`: of the last request. `answer` replaces what it says to all."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[str] = []
        self.answer = b""
        self.url = ""
        self.leads_to: tuple[str, int] | None = None  # instead of where the client wants to

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            self.asked.append(head[0])
            self.headers = head[1:]
            if self.answer:
                writer.write(self.answer)
                await writer.drain()
            else:
                host, _, port = head[0].split()[1].rpartition(":")
                inner, outer = await asyncio.open_connection(*(self.leads_to or (host.strip("[]"), int(port))))
                writer.write(b"HTTP/1.1 200 Connection established\r\nVia: tests\r\n\r\n")
                await asyncio.gather(_pass(reader, outer), _pass(inner, writer))
        writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def connect_proxy() -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
