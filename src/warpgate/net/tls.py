"""TLS over any `TcpStream`: the `ssl` module's memory BIOs between two streams of bytes.

Not asyncio's own TLS: that wants transports, and this must also run over streams of the lab and over relays.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import TcpStream

CHUNK = 64 * 1024


class TlsStream:
    """A `TcpStream` whose bytes travel encrypted; made by `secure`. The peer's key updates are followed while we read.

    One task may receive and one may send at a time, as on other streams.
    """

    def __init__(
        self, stream: TcpStream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._stream = stream
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._flushing = asyncio.Lock()

    @property
    def local(self) -> Endpoint:
        return self._stream.local

    @property
    def remote(self) -> Endpoint:
        return self._stream.remote

    def stalled(self) -> float:
        return self._stream.stalled()

    async def handshake(self) -> None:
        """NetworkError when the other side's certificate is not trusted, or it speaks something else."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError as error:
                await self._flush()  # the alert tells the other side why
                raise _tls_error(self.remote, error) from error
        await self._flush()

    async def recv(self, limit: int) -> bytes:
        while True:
            try:
                return self._tls.read(min(limit, CHUNK))
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # Whoever needs to know that nothing was cut off has its own end mark: TURN's frames, our HELLO.
                return b""
            except ssl.SSLError as error:
                raise _tls_error(self.remote, error) from error

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK):
            try:
                self._tls.write(view[start : start + CHUNK])
            except ssl.SSLError as error:
                raise _tls_error(self.remote, error) from error
            await self._flush()

    def write_eof(self) -> None:
        """The end is a TCP FIN: a close_notify would have to wait for its turn, and this cannot wait."""
        self._stream.write_eof()

    def abort(self) -> None:
        self._stream.abort()

    def close(self) -> None:
        """As `write_eof` says."""
        self._stream.close()

    def detach(self) -> socket.socket:
        raise NetworkError(f"hand over the connection to {self.remote}: what the socket carries is TLS")

    async def _flush(self) -> None:
        async with self._flushing:  # reading may have to send, too
            while data := self._outgoing.read():
                await self._stream.send(data)

    async def _feed(self) -> None:
        data = await self._stream.recv(CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


async def secure(stream: TcpStream, context: ssl.SSLContext, server_name: str) -> TlsStream:
    """Become the TLS client of a connected stream; `server_name` (a literal address, too) must be in the certificate.

    Takes over the stream: aborted on failure. NetworkError.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = TlsStream(
        stream, context.wrap_bio(incoming, outgoing, server_hostname=server_name), incoming, outgoing
    )
    try:
        await secured.handshake()
    except BaseException:
        stream.abort()
        raise
    return secured


def _tls_error(remote: Endpoint, error: ssl.SSLError) -> NetworkError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return NetworkError(f"TLS with {remote}: certificate not trusted: {error.verify_message}")
    return NetworkError(f"TLS with {remote}: {(error.reason or str(error)).replace('_', ' ').lower()}")
