"""How a QUIC client proves its node key: the first 80 bytes on the stream.

    head = session(16)  proof(64)

TLS authenticates the server: its certificate is of its node key, and its CertificateVerify signs the handshake. The
client has no certificate; it signs the same handshake by hand. Both ends know a *traffic secret* of TLS that nobody
else knows and that no other handshake has: client_application_traffic_secret_0, which hashes the whole transcript up
to the server's Finished (RFC 8446 section 7.1), just as a TLS exporter's secret does.

    binding = HMAC-SHA256(client_application_traffic_secret_0, "warpgate/1 quic binding")
    proof   = ECDSA-P256-SHA256 by the client's node key over "warpgate/1 quic client" || session || binding

as raw r || s. So a proof is good on the one connection it was made on, against the one server that has that
connection; it cannot be relayed or replayed, not even by somebody who has stolen the server's key. The HMAC's input is
none of HKDF-Expand-Label's (they begin with a length), so no key of the connection leaks from the binding.
"""

from __future__ import annotations

import hmac

from warpgate.errors import AuthenticationError
from warpgate.model.identity import SESSION_SIZE, SIGNATURE_SIZE, Identity, node_id_of, verify

HEAD_SIZE = SESSION_SIZE + SIGNATURE_SIZE
# RFC 7301: the application protocol of the stream; a change of the rules in this file needs another name.
ALPN = "warpgate/1"

_BINDING = b"warpgate/1 quic binding"
_CLIENT = b"warpgate/1 quic client"


def make_head(identity: Identity, session: bytes, secret: bytes) -> bytes:
    """To be sent before everything else; `secret` is the client's first application traffic secret."""
    return session + identity.sign(_signed(session, secret))


def session_of(head: bytes) -> bytes:
    """The session that a head claims to be of."""
    return head[:SESSION_SIZE]


def check_head(public_key: bytes, secret: bytes, head: bytes) -> None:
    """AuthenticationError unless the holder of `public_key` made it for this session on this very connection."""
    try:
        verify(public_key, head[SESSION_SIZE:], _signed(session_of(head), secret))
    except AuthenticationError:
        raise AuthenticationError(f"the QUIC client is not {node_id_of(public_key)}") from None


def _signed(session: bytes, secret: bytes) -> bytes:
    return _CLIENT + session + hmac.digest(secret, _BINDING, "sha256")
