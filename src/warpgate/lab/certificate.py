"""A certificate for a server of the lab, which is its own authority: whoever trusts it trusts this server."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.model.endpoint import IPAddress

CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"


def write_certificate(directory: Path, addresses: Iterable[IPAddress], *hosts: str) -> tuple[Path, Path]:
    """Paths of a fresh certificate for these addresses and host names and of its key, both PEM, valid for a day around
    now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "warpgate lab")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [*(x509.IPAddress(ip) for ip in addresses), *(x509.DNSName(host) for host in hosts)]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=12))
        .not_valid_after(now + datetime.timedelta(hours=12))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / CERTIFICATE_FILE, directory / KEY_FILE
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
