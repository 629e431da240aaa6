"""Our certificates beside those that `cryptography.x509` makes of the same names and keys."""

from __future__ import annotations

import ssl
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from warpgate.model.certificate import ISSUER, certificate, to_pem


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def theirs(subject: str, key: ec.EllipticCurvePrivateKey, *, anchor: bool) -> bytes:
    """The part that is signed."""
    builder = x509.CertificateBuilder(
        issuer_name=name(ISSUER),
        subject_name=name(subject),
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=datetime(2000, 1, 1),
        not_valid_after=datetime(9999, 12, 31, 23, 59, 59),
    )
    if anchor:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA256()).tbs_certificate_bytes


@pytest.mark.parametrize("anchor", [False, True])
@pytest.mark.parametrize("subject", ["bob", "x" * 64, "Zoë"])
def test_the_same_bytes(subject: str, anchor: bool) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm = ec.ECDSA(hashes.SHA256())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    der = certificate(subject, public, lambda data: key.sign(data, algorithm), anchor=anchor)
    made = x509.load_der_x509_certificate(der)
    assert made.tbs_certificate_bytes == theirs(subject, key, anchor=anchor)
    key.public_key().verify(made.signature, made.tbs_certificate_bytes, algorithm)
    assert to_pem(der).decode() == ssl.DER_cert_to_PEM_cert(der)
