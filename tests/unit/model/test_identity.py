"""Keys: what they sign, seal and agree on, and what happens with wrong ones."""

from __future__ import annotations

import re

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from warpgate.errors import AuthenticationError, ConfigError, DecodeError
from warpgate.model.identity import (
    HPKE_OVERHEAD,
    Identity,
    check_public_key,
    hpke_seal,
    listen_port_of,
    node_id_of,
    verify,
)

ALICE, BOB = Identity.generate(), Identity.generate()
SESSION = bytes(range(16))


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_the_pem_keeps_the_identity() -> None:
    again = Identity.from_pem(ALICE.to_pem())
    assert (again.public_key, again.node_id) == (ALICE.public_key, ALICE.node_id)
    assert len(ALICE.public_key) == 33
    assert re.fullmatch(r"[a-z2-7]{26}", ALICE.node_id)
    assert ALICE.node_id == node_id_of(ALICE.public_key) != BOB.node_id
    assert ALICE.node_id in repr(ALICE)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"garbage",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(ed25519.Ed25519PrivateKey.generate()),
    ],
)
def test_a_pem_that_is_no_p256_key_is_a_config_error(pem: bytes) -> None:
    with pytest.raises(ConfigError):
        Identity.from_pem(pem)


def test_node_id_and_port_are_fixed_by_the_key() -> None:
    # Known answers: another implementation must arrive at the same.
    key = bytes.fromhex("036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296")
    assert node_id_of(key) == "lox7rhph3zob263bsoqvm7ho5m"
    assert listen_port_of(key) == 31933


def test_listen_ports_stay_below_the_ephemeral_range() -> None:
    ports = {listen_port_of(index.to_bytes(33, "big")) for index in range(500)}
    assert min(ports) >= 16384
    assert max(ports) < 32384
    assert len(ports) > 450


def test_both_ends_derive_the_same_session_key_and_no_other() -> None:
    key = ALICE.session_key(BOB.public_key, SESSION, initiator=True)
    assert key == BOB.session_key(ALICE.public_key, SESSION, initiator=False)
    assert len(key) == 32
    assert key != ALICE.session_key(BOB.public_key, bytes(16), initiator=True)
    assert key != ALICE.session_key(Identity.generate().public_key, SESSION, initiator=True)


def test_signatures_verify_only_for_their_key_and_data() -> None:
    signature = ALICE.sign(b"data")
    assert len(signature) == 64
    verify(ALICE.public_key, signature, b"data")
    for key, candidate, data in [
        (BOB.public_key, signature, b"data"),
        (ALICE.public_key, signature, b"other"),
        (ALICE.public_key, bytes(64), b"data"),
        (ALICE.public_key, b"\xff" * 64, b"data"),
        (ALICE.public_key, signature[:-1], b"data"),
        (b"", signature, b"data"),
    ]:
        with pytest.raises(AuthenticationError):
            verify(key, candidate, data)


def test_only_the_receiver_opens_what_was_sealed() -> None:
    sealed = hpke_seal(BOB.public_key, b"secret", b"info")
    assert len(sealed) == len(b"secret") + HPKE_OVERHEAD
    assert BOB.hpke_open(sealed, b"info") == b"secret"
    with pytest.raises(AuthenticationError):
        ALICE.hpke_open(sealed, b"info")
    with pytest.raises(AuthenticationError):
        BOB.hpke_open(sealed, b"other info")
    with pytest.raises(AuthenticationError):
        BOB.hpke_open(sealed[:-1] + bytes([sealed[-1] ^ 1]), b"info")
    with pytest.raises(DecodeError):
        BOB.hpke_open(sealed[: HPKE_OVERHEAD - 1], b"info")


@pytest.mark.parametrize(
    "key",
    [b"", b"\x02" * 32, b"\x02" + b"\xff" * 32, b"\x05" + bytes(32), b"\x04" + bytes(64)],
)
def test_a_bad_peer_key_is_an_authentication_error(key: bytes) -> None:
    for use in (
        lambda: ALICE.session_key(key, SESSION, initiator=True),
        lambda: hpke_seal(key, b"", b""),
        lambda: check_public_key(key),
    ):
        with pytest.raises(AuthenticationError):
            use()
