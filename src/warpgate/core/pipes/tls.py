"""TLS on a stream pipe: mutual TLS 1.3 by the stdlib, both certificates pinned to the node keys.

    TLS client  the initiator of the pipe; the responder is the server
    certificate of the node key, signed with it (`Identity.certificate`); both sides show theirs
    trust       nothing but the peer's node key, as the one trust anchor (`trust_anchor`); and once more by comparison
                when the handshake is over, since that key could also vouch for other keys
    ALPN        "warpgate/1 tls " and the session id in hex: TLS of another pipe of the same two nodes does not fit
    end         close_notify ends one direction, and the connection stays for the other one. A connection that ends
                without it was cut off: that is an error, never the end of the stream

docs/decisions/tls-on-pipes.md tells why it is done so.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
from contextlib import suppress

from warpgate.errors import AuthenticationError, ConfigError, NetworkError, ProtocolError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.identity import Identity, check_certificate, trust_anchor
from warpgate.net.network import TcpStream
from warpgate.net.tls import CHUNK, TlsStream

ALPN = "warpgate/1 tls "
# As for QUIC: how long `close` waits for a peer that takes nothing more of what was sent.
LINGER = 5.0
# How often it looks; a delayed acknowledgement (RFC 1122 section 4.2.3.2) comes after 40 ms on Linux.
LOOK = 0.01

_VERSION = ssl.TLSVersion.TLSv1_3
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the module has no name for. What vouches for a peer is the key that it
# shows and holds; a machine without a battery says 1970, and that is no reason to keep it out.
_WHENEVER = ssl.VerifyFlags(0x200000)


@dataclass(frozen=True, slots=True)
class TlsEnds:
    """Who is at both ends of a pipe, and of which; `client`: this end initiated it."""

    identity: Identity
    peer_key: bytes
    session: bytes
    client: bool

    @property
    def protocol(self) -> str:
        """The one application protocol (RFC 7301) that is spoken on this pipe."""
        return ALPN + self.session.hex()


class SecuredStream(TlsStream):
    """A `TlsStream` between two nodes: each direction ends by itself, and nothing can be cut off unnoticed."""

    def __init__(self, stream: TcpStream, ends: TlsEnds, early: bytes = b"") -> None:
        """`early` was received already. ConfigError when there is no room for a temporary file."""
        super().__init__(stream, make_context(ends), server=not ends.client)
        self._incoming.write(early)
        self._held = bytearray()
        self._eof_sent = False

    def write_eof(self) -> None:
        """close_notify leaves behind what was sent; there is no FIN, so that relays do not take it for the end."""
        # `unwrap` reads on after it has sent, and throws away what it finds: that must be nothing.
        while data := super()._decrypt(CHUNK):
            self._held += data
        self._eof_sent = True
        try:
            with suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
        except ssl.SSLError as error:
            raise NetworkError(f"end the stream to {self.remote}: {error}") from error
        self._push()

    async def finish(self) -> None:
        """End our half and close; returns when the peer's machine has everything, or takes nothing more.

        Closing sooner could cost the peer the rest: a close_notify of its own that arrives at a closed socket makes our
        kernel reset the connection.
        """
        try:
            if not self._eof_sent:
                self.write_eof()
            await self._deliver()
        except NetworkError:
            pass  # whoever closes does not ask
        finally:
            self.close()

    async def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # usually all that `_push` needs
        least, since = self.unacknowledged(), loop.time()
        # A peer that has ended, too, has nothing more to say that could do harm.
        while self._pushing is not None or (not self._ended and self.unacknowledged()):
            if (left := self.unacknowledged()) < least:
                least, since = left, loop.time()
            if loop.time() - since > LINGER:
                return
            await self._discard()

    async def _discard(self) -> None:
        """For a moment take what nobody will read: it would make the kernel reset the connection."""
        try:
            async with asyncio.timeout(LOOK):
                while not self._receiving and await self._stream.recv(CHUNK):
                    pass
                await asyncio.sleep(LOOK)
        except TimeoutError:
            pass

    def _decrypt(self, limit: int) -> bytes:
        if self._held:
            data = bytes(self._held[:limit])
            del self._held[:limit]
            return data
        return super()._decrypt(limit)

    async def _feed(self) -> None:
        data = await self._stream.recv(CHUNK)
        if not data:
            raise NetworkError(f"the connection to {self.remote} was cut off: it ended without TLS's close_notify")
        self._incoming.write(data)

    def check(self, ends: TlsEnds) -> None:
        """After the handshake: AuthenticationError unless the peer is who it must be, on the pipe it must be."""
        certificate = self._tls.getpeercert(binary_form=True)
        if certificate is None or self._tls.version() != "TLSv1.3":
            raise AuthenticationError(f"TLS with {self.remote}: no certificate, or not TLS 1.3")
        check_certificate(certificate, ends.peer_key)
        if self._tls.selected_alpn_protocol() != ends.protocol:
            raise AuthenticationError(f"TLS with {self.remote} is not of this pipe")


async def start_tls(stream: TcpStream, ends: TlsEnds, patience: float, early: bytes = b"") -> SecuredStream:
    """The handshake on a stream that carries nothing else from now on; `early` was received already.

    Takes over the stream, closed on failure: AuthenticationError, ProtocolError (the peer refused us, or does not speak
    this), NetworkError (it ended, or took longer than `patience` seconds), ConfigError (no room for a temporary file).
    """
    try:
        secured = SecuredStream(stream, ends, early)
        async with asyncio.timeout(patience):
            await secured.handshake()
        secured.check(ends)
    except TimeoutError:
        stream.abort()
        raise NetworkError(f"TLS with {stream.remote}: no handshake within {patience:g} s") from None
    except NetworkError as error:
        stream.close()  # not aborted: the alert that tells the peer why is under way
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise AuthenticationError(str(error)) from error
        if isinstance(cause, ssl.SSLError):
            raise ProtocolError(str(error)) from error
        raise
    except BaseException:
        stream.abort()
        raise
    return secured


def make_context(ends: TlsEnds) -> ssl.SSLContext:
    """For one handshake. ConfigError when there is no room for a temporary file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if ends.client else ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = _VERSION
    context.check_hostname = False  # it is the key that counts, see `SecuredStream.check`
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= _WHENEVER
    context.set_alpn_protocols([ends.protocol])
    if not ends.client:
        context.num_tickets = 0  # nobody resumes: another pipe has another protocol name
    context.load_verify_locations(cadata=trust_anchor(ends.peer_key))
    _load_own(context, ends.identity)
    return context


def _load_own(context: ssl.SSLContext, identity: Identity) -> None:
    """Our certificate and key. The `ssl` module takes them from a file only: there the key lies encrypted, under a
    password that nobody else ever sees, for as long as it takes to read it.
    """
    from tempfile import mkstemp  # noqa: PLC0415 - 0.6 MB with what it imports

    password = secrets.token_bytes(32).hex().encode()
    try:
        handle, path = mkstemp(prefix="warpgate-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(identity.to_encrypted_pem(password) + identity.certificate())
            context.load_cert_chain(path, password=password)
        finally:
            os.unlink(path)
    except OSError as error:
        raise ConfigError(f"TLS needs a temporary file to load our key from: {error}") from error
