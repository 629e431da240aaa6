"""TLS over any `TcpStream`: the `ssl` module's memory BIOs between two streams of bytes.

Not asyncio's own TLS: that wants transports, and this must also run over streams of the lab and over relays.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading

from warpgate.errors import ConfigError, NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import TcpStream
from warpgate.net.threads import in_thread

# What is decrypted or encrypted in one go; smaller costs calls, larger only memory.
CHUNK = 128 * 1024
LARGEST_RECORD = 16 * 1024  # RFC 8446 section 5.1


class TlsStream:
    """A `TcpStream` whose bytes travel encrypted, after its `handshake`. The peer's key updates are followed while we
    read.

    One task may receive and one may send at a time, as on other streams. A cancelled `recv` loses nothing; a cancelled
    `send` may have sent a part: what is encrypted goes out nevertheless, a record cut in two would end the stream.
    """

    def __init__(
        self,
        stream: TcpStream,
        context: ssl.SSLContext,
        server_name: str | None = None,
        *,
        server: bool = False,
    ) -> None:
        """`server_name`: what the other side's certificate must hold, of a context that checks it."""
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=server_name)
        self._pushing: asyncio.Task[None] | None = None
        # Words, not errors: those hold the frames that they went through, and so this object.
        self._unsent: str | None = None  # why what is encrypted could not be sent
        self._broken: str | None = None  # why nothing more can be decrypted
        self._ended = False  # the peer has said its end
        self._receiving = False
        self._sending = False

    @property
    def local(self) -> Endpoint:
        return self._stream.local

    @property
    def remote(self) -> Endpoint:
        return self._stream.remote

    def stalled(self) -> float:
        return self._stream.stalled()

    def unacknowledged(self) -> int:
        return self._stream.unacknowledged() + self._outgoing.pending

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
        if limit <= 0:
            raise ValueError(f"cannot receive {limit} bytes")
        if self._receiving:
            raise RuntimeError(f"two tasks receive from {self.remote} at once")
        self._receiving = True
        try:
            while not (data := self._decrypt(limit)) and not self._ended:
                self._push()  # reading may have to say something, but must not wait until it is said
                await self._feed()
            return data
        finally:
            self._receiving = False

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise RuntimeError(f"two tasks send to {self.remote} at once")
        self._sending = True
        try:
            view = memoryview(data).cast("B")
            for start in range(0, len(view), CHUNK):
                try:
                    self._tls.write(view[start : start + CHUNK])
                except ssl.SSLError as error:
                    raise _tls_error(self.remote, error) from error
                await self._flush()
        finally:
            self._sending = False

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

    def _decrypt(self, limit: int) -> bytes:
        """What has come; b"" when that is no whole record yet, or the stream has ended. NetworkError when it broke."""
        if self._broken is not None:
            raise NetworkError(self._broken)
        records: list[bytes] = []  # no buffer: 128 KiB of each idle pipe
        room = min(limit, CHUNK)
        try:
            while room and not self._ended:
                record = self._tls.read(min(room, LARGEST_RECORD))
                self._ended = not record
                records.append(record)
                room -= len(record)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # Whoever needs to know that nothing was cut off has its own end mark: TURN's frames, our HELLO.
            self._ended = True
        except ssl.SSLError as error:
            self._broken = str(_tls_error(self.remote, error))
            if not records:
                raise NetworkError(self._broken) from error
        return b"".join(records)

    async def _flush(self) -> None:
        """Until everything that is encrypted is in the kernel."""
        self._push()
        while self._pushing is not None:
            await asyncio.shield(self._pushing)
        if self._unsent is not None:
            raise NetworkError(self._unsent)

    def _push(self) -> None:
        if self._pushing is None and self._outgoing.pending and self._unsent is None:
            self._pushing = asyncio.get_running_loop().create_task(self._send_out())

    async def _send_out(self) -> None:
        try:
            while data := self._outgoing.read():
                await self._stream.send(data)
        except NetworkError as error:
            self._unsent = str(error)
        finally:
            self._pushing = None

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
    return await _handshaken(TlsStream(stream, context, server_name))


async def serve_tls(stream: TcpStream, context: ssl.SSLContext) -> TlsStream:
    """Become the TLS server of an accepted stream, which it takes over: aborted on failure. NetworkError."""
    return await _handshaken(TlsStream(stream, context, server=True))


async def _handshaken(secured: TlsStream) -> TlsStream:
    try:
        await secured.handshake()
    except BaseException:
        secured.abort()
        raise
    return secured


class Trust:
    """Whom a node trusts to vouch for outside servers: the system's authorities, and those of a PEM file.

    One for everything that the node asks over TLS: the authorities take 20 ms to load, and a megabyte.
    """

    def __init__(self, ca_file: str | None = None) -> None:
        """ConfigError when the file holds no certificates."""
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None
        self._loading = threading.Lock()
        if ca_file is not None:
            _add_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file)

    async def context(self) -> ssl.SSLContext:
        """Loaded in a thread, when it is first asked for. ConfigError when the file is another one by now."""
        return await in_thread(self._load) if self._context is None else self._context

    def _load(self) -> ssl.SSLContext:
        with self._loading:  # else who asks meanwhile would load a second one
            if self._context is not None:
                return self._context
            context = ssl.create_default_context()
            if self._ca_file is not None:
                _add_authorities(context, self._ca_file)
            self._context = context
            return context


def _add_authorities(context: ssl.SSLContext, ca_file: str) -> None:
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file} holds no certificates to trust: {error}") from error


def server_context(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> ssl.SSLContext:
    """Of a server with this certificate chain and the key that belongs to it, PEM files. ConfigError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS files {certificate}, {key}: {error.strerror or error}") from error
    return context


def _tls_error(remote: Endpoint, error: ssl.SSLError) -> NetworkError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return NetworkError(f"TLS with {remote}: certificate not trusted: {error.verify_message}")
    return NetworkError(f"TLS with {remote}: {(error.reason or str(error)).replace('_', ' ').lower()}")
