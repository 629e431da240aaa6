"""Streams over TCP.

A `StreamPipe` is a TCP connection as it is: after the handshake not a byte is added, so it runs at the kernel's speed
and `detach` can hand the socket to any other library; unless it was turned into TLS (`core/pipes/tls.py`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from warpgate.core.pipes.base import ABORTED, TLS_PATIENCE, Pipe, PipeInfo, bytes_like
from warpgate.core.pipes.reading import BytePipe
from warpgate.core.pipes.tls import SecuredStream, TlsEnds, start_tls
from warpgate.errors import ConfigError, NetworkError, PipeClosed
from warpgate.net.network import TcpStream


class StreamPipe(BytePipe):
    """Reliable ordered bytes over TCP."""

    def __init__(self, info: PipeInfo, stream: TcpStream, ends: TlsEnds, on_end: Callable[[Pipe, str], None]) -> None:
        super().__init__(info, on_end)
        self._stream = stream
        self._ends = ends
        self._ended = False
        self._eof_sent = False

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """PipeClosed also after `write_eof`."""
        self._check_open()
        if self._eof_sent:
            raise PipeClosed("the end of the stream has been sent")
        try:
            await self._stream.send(bytes_like(data))
        except NetworkError as error:
            raise self._broken(error) from error

    async def _read(self, limit: int) -> bytes:
        if self._ended:
            return b""
        try:
            data = await self._stream.recv(limit)
        except NetworkError as error:
            raise self._broken(error) from error
        self._ended = not data
        return data

    @property
    def secure(self) -> bool:
        return isinstance(self._stream, SecuredStream)

    async def start_tls(self, timeout: float = TLS_PATIENCE) -> None:
        self._check_open()
        if self.secure:
            return
        if self._eof_sent or self._ended:
            raise PipeClosed("one direction of the stream has ended: TLS needs both")
        try:
            self._stream = await start_tls(self._stream, self._ends, timeout, self._reader.take_held())
        except NetworkError as error:
            raise self._broken(error) from error
        except BaseException as error:
            self.abort(f"TLS did not come about: {error}")
            raise

    def check_stall(self, limit: float) -> None:
        if self._stream.stalled() >= limit and self._finish(f"nothing acknowledged by the peer for {limit:g} s"):
            self._stream.abort()

    def _broken(self, error: NetworkError) -> PipeClosed:
        if self._finish(str(error)):
            self._stream.abort()
        return PipeClosed(self._end or str(error))

    def write_eof(self) -> None:
        self._check_open()
        try:
            self._stream.write_eof()
        except NetworkError as error:
            raise self._broken(error) from error
        self._eof_sent = True

    async def close(self) -> None:
        """With TLS: returns when the peer's machine has everything that was sent, or took nothing of it for 5 s."""
        if not self._finish("closed on this side"):
            return
        if isinstance(self._stream, SecuredStream):
            await self._stream.finish()
        else:
            self._stream.close()

    def abort(self, reason: str = ABORTED) -> None:
        if self._finish(reason):
            self._stream.abort()

    def detach(self) -> socket.socket:
        """ConfigError while bytes that were read ahead by a filter wait to be received, and after `start_tls`."""
        self._check_open()
        if self.secure:
            raise ConfigError(
                "what the socket carries is TLS: use warpgate.open_connection for asyncio streams, or detach before "
                "start_tls"
            )
        if self._reader.held:
            raise ConfigError(f"{self._reader.held} bytes were read ahead by a filter: receive them before detaching")
        sock = self._stream.detach()
        self._finish("handed over by detach()")
        return sock
