"""X.509 certificates of node keys (RFC 5280 section 4.1), written in DER (X.690) by ourselves.

`cryptography.x509` costs 20 ms and more than a megabyte, and each of ours is the same but for a name and a key.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

# The issuer of every node's certificate: a name under which a verifier can put the key that it expects.
ISSUER = "warpgate/1 node key"

_SEQUENCE, _SET, _INTEGER, _BIT_STRING, _OCTET_STRING, _BOOLEAN = 0x30, 0x31, 0x02, 0x03, 0x04, 0x01
_UTF8, _UTC_TIME, _GENERALIZED_TIME, _OID, _VERSION, _EXTENSIONS = 0x0C, 0x17, 0x18, 0x06, 0xA0, 0xA3
_ECDSA_WITH_SHA256 = bytes.fromhex("2a8648ce3d040302")
_COMMON_NAME, _BASIC_CONSTRAINTS = bytes.fromhex("550403"), bytes.fromhex("551d13")
# All time: the end is RFC 5280's "no well-defined expiration date" (section 4.1.2.5).
_BEGIN, _END = b"000101000000Z", b"99991231235959Z"
_LINE = 64  # characters of a line of PEM (RFC 7468 section 2)


def certificate(subject: str, key: bytes, sign: Callable[[bytes], bytes], *, anchor: bool = False) -> bytes:
    """DER. `key`: a SubjectPublicKeyInfo; `sign`: ECDSA over SHA-256, as DER. `anchor`: one that may sign others."""
    algorithm = _tlv(_SEQUENCE, _tlv(_OID, _ECDSA_WITH_SHA256))
    signed = _tlv(
        _SEQUENCE,
        _tlv(_VERSION, _tlv(_INTEGER, b"\x02")),  # version 3
        _tlv(_INTEGER, b"\x01"),  # serial number
        algorithm,
        _name(ISSUER),
        _tlv(_SEQUENCE, _tlv(_UTC_TIME, _BEGIN), _tlv(_GENERALIZED_TIME, _END)),
        _name(subject),
        key,
        _authority() if anchor else b"",
    )
    return _tlv(_SEQUENCE, signed, algorithm, _tlv(_BIT_STRING, b"\x00", sign(signed)))


def to_pem(der: bytes) -> bytes:
    text = b64encode(der)
    lines = (text[at : at + _LINE] for at in range(0, len(text), _LINE))
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))


def _authority() -> bytes:
    """Basic constraints, critical: an authority, and what it signs is none (section 4.2.1.9)."""
    constraints = _tlv(_SEQUENCE, _tlv(_BOOLEAN, b"\xff"), _tlv(_INTEGER, b"\x00"))
    extension = _tlv(
        _SEQUENCE,
        _tlv(_OID, _BASIC_CONSTRAINTS),
        _tlv(_BOOLEAN, b"\xff"),
        _tlv(_OCTET_STRING, constraints),
    )
    return _tlv(_EXTENSIONS, _tlv(_SEQUENCE, extension))


def _name(text: str) -> bytes:
    attribute = _tlv(_SEQUENCE, _tlv(_OID, _COMMON_NAME), _tlv(_UTF8, text.encode()))
    return _tlv(_SEQUENCE, _tlv(_SET, attribute))


def _tlv(tag: int, *parts: bytes) -> bytes:
    """X.690 section 8.1."""
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + value
