"""A node's key pair, and everything done with keys: node ids, session keys, signatures, sealing.

Keys are ECDSA P-256 (FIPS 186-5); a public key is always the 33-byte compressed point (SEC 1 section 2.3.3).
"""

from __future__ import annotations

import hashlib
from base64 import b32encode

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from warpgate.errors import AuthenticationError, ConfigError, DecodeError
from warpgate.model.certificate import ISSUER, certificate, to_pem

PUBLIC_KEY_SIZE = 33
SIGNATURE_SIZE = 64
SESSION_SIZE = 16
SESSION_KEY_SIZE = 32
# RFC 9180: a 65-byte encapsulated point (section 7.1) and a 16-byte AEAD tag (section 7.3) go with a message.
HPKE_OVERHEAD = 81

# 128 bits: finding another key with the same id costs 2^128 tries; 26 characters are still copied by hand.
_NODE_ID_BYTES = 16
# Above the well-known and most registered services, below Linux's ephemeral range (32768..60999), from which
# the kernel hands ports to anybody.
_PORT_LOW = 16384
_PORT_COUNT = 16000

# SEC 1 section 2.3.3, of P-256: 4, x, y.
_UNCOMPRESSED = 4
_POINT_SIZE = 65

_SHA256_ECDSA = ec.ECDSA(hashes.SHA256())
_HPKE = Suite(KEM.P256, KDF.HKDF_SHA256, AEAD.AES_128_GCM)


class Identity:
    """A private key. Immutable; never leaves the process except through `to_pem`."""

    __slots__ = ("_private", "node_id", "public_key")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private.curve, ec.SECP256R1):
            raise ConfigError(f"the identity key is on {private.curve.name}, not on P-256 (secp256r1)")
        self._private = private
        self.public_key: bytes = private.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )
        self.node_id: str = node_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"

    @classmethod
    def generate(cls) -> Identity:
        """A new key from the system's random source."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> Identity:
        """From an unencrypted PEM private key; raises ConfigError for anything but P-256."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"the identity is not an unencrypted PEM private key: {error}") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ConfigError("the identity key is not an elliptic-curve key; P-256 (secp256r1) is needed")
        return cls(private)

    def to_pem(self) -> bytes:
        """PKCS #8, unencrypted: the file's mode (0600) protects it."""
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def to_encrypted_pem(self, password: bytes) -> bytes:
        """PKCS #8 under a password, for a file that others may see."""
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )

    def session_key(self, peer_public_key: bytes, session: bytes, *, initiator: bool) -> bytes:
        """32 bytes that only the two key holders know, per session id (16 bytes); `initiator`: whether we are it.

        ECDH(static, static) then HKDF (RFC 5869). Both public keys are in its info: the ECDH output is the same for a
        point and its negative, so without them a node could be reached under a second key (an unknown key share,
        NIST SP 800-56A section 5.8.2). AuthenticationError when the peer's key is no P-256 point.
        """
        secret = self._private.exchange(ec.ECDH(), _point(peer_public_key))
        ends = (self.public_key, peer_public_key) if initiator else (peer_public_key, self.public_key)
        info = b"warpgate/2 session" + b"".join(ends)
        return HKDF(hashes.SHA256(), length=SESSION_KEY_SIZE, salt=session, info=info).derive(secret)

    def sign(self, data: bytes) -> bytes:
        """ECDSA over SHA-256 as raw r || s (64 bytes, big-endian), as in RFC 7518 section 3.4."""
        r, s = decode_dss_signature(self._private.sign(data, _SHA256_ECDSA))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def certificate(self) -> bytes:
        """PEM of an X.509 certificate of this key, signed with it: the form in which TLS wants to see the key.

        It claims nothing but the key; whose that is, and until when, node addresses say.
        """
        return to_pem(_certificate(self.node_id, self._private.public_key(), self._private))

    def hpke_open(self, ciphertext: bytes, info: bytes) -> bytes:
        """Undo `hpke_seal`. DecodeError when too short, AuthenticationError when not sealed to this key."""
        if len(ciphertext) < HPKE_OVERHEAD:
            raise DecodeError(f"a sealed message has at least {HPKE_OVERHEAD} bytes, this one {len(ciphertext)}")
        try:
            return _HPKE.decrypt(ciphertext, self._private, info)
        except (InvalidTag, ValueError):
            raise AuthenticationError("the message is not sealed to this node's key, or was altered") from None


def trust_anchor(public_key: bytes) -> bytes:
    """DER of a CA certificate that makes a TLS library trust what that node key signed, and nothing else.

    A trust anchor is a name and a key (RFC 5280 section 6.1.1 (d)); libraries take it as a certificate whose own
    signature means nothing. This one's is made with a key that is thrown away. AuthenticationError: no P-256 point.
    """
    throwaway = ec.generate_private_key(ec.SECP256R1())
    return _certificate(ISSUER, _point(public_key), throwaway, anchor=True)


def _certificate(
    subject: str, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey, *, anchor: bool = False
) -> bytes:
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate(subject, encoded, lambda data: signer.sign(data, _SHA256_ECDSA), anchor=anchor)


def check_certificate(der: bytes, public_key: bytes) -> None:
    """AuthenticationError unless the certificate is of that node key (33 bytes).

    Whoever shows it must also prove that it holds the key; TLS sees to that (RFC 8446 section 4.4.3).
    """
    from cryptography import x509  # noqa: PLC0415 - 20 ms, and only TLS on TCP needs it

    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthenticationError(f"the peer's certificate cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AuthenticationError("the peer's certificate is not of a P-256 key")
    check_shown_key(
        key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
        public_key,
    )


def check_shown_key(point: bytes, public_key: bytes) -> None:
    """AuthenticationError unless a certificate's P-256 point (65 bytes, SEC 1 section 2.3.3) is that node key."""
    if len(point) != _POINT_SIZE or point[0] != _UNCOMPRESSED:
        raise AuthenticationError("the peer's certificate is not of a P-256 key")
    shown = bytes([2 + point[-1] % 2]) + point[1 : 1 + _POINT_SIZE // 2]
    if shown != public_key:
        raise AuthenticationError(f"the certificate is of {node_id_of(shown)}, not of {node_id_of(public_key)}")


def node_id_of(public_key: bytes) -> str:
    """The name of a node everywhere: 26 characters of lowercase base32 (RFC 4648 section 6, no padding)."""
    digest = hashlib.sha256(public_key).digest()[:_NODE_ID_BYTES]
    return b32encode(digest).decode("ascii").rstrip("=").lower()


def listen_port_of(public_key: bytes) -> int:
    """The port a node listens on unless told otherwise: stable over restarts, 16384..32383."""
    digest = hashlib.sha256(b"warpgate/1 port" + public_key).digest()
    return _PORT_LOW + int.from_bytes(digest[:4], "big") % _PORT_COUNT


def verify(public_key: bytes, signature: bytes, data: bytes) -> None:
    """Raises AuthenticationError unless `signature` (raw r || s) over `data` was made with that key."""
    if len(signature) != SIGNATURE_SIZE:
        raise AuthenticationError(f"a signature has {SIGNATURE_SIZE} bytes, this one {len(signature)}")
    encoded = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        _point(public_key).verify(encoded, data, _SHA256_ECDSA)
    except InvalidSignature:
        raise AuthenticationError(f"the signature does not verify under {public_key.hex()}") from None


def hpke_seal(public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """RFC 9180 base mode, DHKEM(P-256) + HKDF-SHA256 + AES-128-GCM: encapsulated key || ciphertext.

    Adds `HPKE_OVERHEAD` bytes; raises AuthenticationError when the key is no P-256 point.
    """
    return _HPKE.encrypt(plaintext, _point(public_key), info)


def check_public_key(public_key: bytes) -> None:
    """Raises AuthenticationError unless these are the 33 bytes of a compressed P-256 point."""
    _point(public_key)


def _point(public_key: bytes) -> ec.EllipticCurvePublicKey:
    # Only the compressed form: a second encoding of the same point would be a second node id.
    if len(public_key) != PUBLIC_KEY_SIZE or public_key[0] not in (2, 3):
        raise AuthenticationError("a public key is a 33-byte compressed point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    except ValueError:
        raise AuthenticationError(f"{public_key.hex()} is not a point on P-256") from None
