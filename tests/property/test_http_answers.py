"""Whatever a server answers, in whatever pieces: an answer or one of two errors, and nothing is left open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import NetworkError, ServiceError
from warpgate.model.endpoint import Endpoint
from warpgate.services.http_connection import LARGEST_ANSWER, HttpConnection
from warpgate_testing.clock import run_virtual

HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200\r\n",
        b"HTTP/1.1 103 Hints\r\n",
        b"HTTP/1.1 101 Switching\r\n",
        b"HTTP/1.1 204 None\r\n",
        b"HTTP/1.1 429 Slow\r\nRetry-After: 99999999999999\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Connection: close\r\n",
        b"Upgrade: x\r\n",
        b"\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"hello",
        b"\x00\xff\n\r",
    ]
)
ANSWERS = st.lists(HEADS | st.binary(max_size=40), max_size=12)


class Scripted:
    """A stream whose other end says this and hangs up."""

    local = remote = Endpoint.parse("127.0.0.1:80")

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter([piece for piece in pieces if piece])
        self.asked = asyncio.Event()
        self.closed = False

    async def send(self, data: bytes) -> None:
        self.asked.set()

    async def recv(self, limit: int) -> bytes:
        await self.asked.wait()
        return next(self._pieces, b"")

    def close(self) -> None:
        self.closed = True


@given(ANSWERS)
def test_any_bytes(pieces: list[bytes]) -> None:
    async def main() -> None:
        stream, ended = Scripted(pieces), []
        connection = HttpConnection(stream, ended.append)  # type: ignore[arg-type]
        try:
            answer = await connection.ask("GET", "/", "names.example", None)
        except (NetworkError, ServiceError):
            pass
        else:
            assert 200 <= answer.status < 1000
            assert len(answer.body) <= LARGEST_ANSWER
        await asyncio.wait({connection.close()})
        assert stream.closed
        assert ended == [connection]

    run_virtual(main())
