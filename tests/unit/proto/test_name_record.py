"""Name records: sealed by their owner, and everything else refused for the right reason."""

from __future__ import annotations

from dataclasses import astuple, replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.errors import AuthenticationError, DecodeError, ProtocolError
from warpgate.model.address import NodeAddress
from warpgate.model.identity import Identity
from warpgate.proto.name_record import MAX_LIFETIME, MAX_RECORD, NameRecord, RecordKind, open_record, seal

ALICE, BOB = (Identity(ec.derive_private_key(secret, ec.SECP256R1())) for secret in (1234, 5678))
CLAIM = NameRecord(
    kind=RecordKind.CLAIM,
    name="alice",
    public_key=ALICE.public_key,
    sequence=1_700_000_000_000,
    issued=1_700_000_000,
    lifetime=MAX_LIFETIME,
    address=NodeAddress(ALICE.public_key).encode(),
)
RELEASE = replace(CLAIM, kind=RecordKind.RELEASE, address=b"")


def signed(body: bytes, identity: Identity = ALICE, version: int = 1) -> bytes:
    """What a key holder who ignores `seal` can make."""
    content = bytes((version,)) + body
    return content + identity.sign(b"warpgate/1 name\0" + content)


def packed(*fields: object) -> bytes:
    return signed(msgspec.msgpack.encode(fields))


def changed(**fields: object) -> bytes:
    return packed(*astuple(replace(CLAIM, **fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize("record", [CLAIM, RELEASE, replace(CLAIM, sequence=2**64 - 1, lifetime=1)])
def test_round_trip(record: NameRecord) -> None:
    opened = open_record(seal(record, ALICE))
    assert opened == record
    assert opened.kind is record.kind
    assert opened.expires == record.issued + record.lifetime


def test_fields_of_later_versions_pass() -> None:
    assert open_record(packed(*astuple(CLAIM), "later")) == CLAIM


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Alice"},
        {"name": "a"},
        {"name": "x" * 200},
        {"sequence": -1},
        {"sequence": 2**64},
        {"issued": -1},
        {"lifetime": 0},
        {"lifetime": MAX_LIFETIME + 1},
        {"address": b""},
        {"address": b"garbage"},
        {"address": NodeAddress(BOB.public_key).encode()},
        {"kind": RecordKind.RELEASE},
        {"kind": 3},
    ],
    ids=str,
)
def test_what_cannot_be_sealed(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="cannot sign this record"):
        seal(replace(CLAIM, **fields), ALICE)  # type: ignore[arg-type]


def test_sealing_with_another_key_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="signed by the key in it"):
        seal(CLAIM, BOB)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has 65 to 2048 bytes, not 0"),
        (bytes(64), "has 65 to 2048 bytes, not 64"),
        (bytes(MAX_RECORD + 1), "not 2049"),
        (signed(b"\x90", version=2), "version 2"),
        (signed(b""), "not a name record"),
        (signed(b"\xc1"), "not a name record"),
        (signed(msgspec.msgpack.encode({"kind": 1})), "not a name record"),
        (packed(*astuple(CLAIM)[:-1]), "not a name record"),
        (changed(kind=9), "not a name record"),
        (changed(name="Alice"), "is not folded ('alice')"),
        (changed(name="ad-min"), "reserved"),
        (changed(lifetime=MAX_LIFETIME + 1), "not a name record"),
        (changed(public_key=ALICE.public_key[:-1]), "not a name record"),
        (changed(address=CLAIM.address + b"\0"), "the address in the name record"),
        (changed(kind=RecordKind.RELEASE), "a release carries no address"),
        (changed(address=b""), "the address in the name record"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else value,  # signatures differ each time
)
def test_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        open_record(data)
    assert reason in str(caught.value)


def test_address_of_another_key() -> None:
    with pytest.raises(AuthenticationError, match="of another key"):
        open_record(changed(address=NodeAddress(BOB.public_key).encode()))


def test_signed_by_another_key() -> None:
    with pytest.raises(AuthenticationError, match="does not verify"):
        open_record(signed(msgspec.msgpack.encode(astuple(CLAIM)), BOB))


def test_a_key_that_is_no_point() -> None:
    with pytest.raises(AuthenticationError, match="not a point"):
        open_record(changed(public_key=b"\x02" + b"\xff" * 32))


def test_every_flipped_bit_is_noticed() -> None:
    data = seal(CLAIM, ALICE)
    for position in range(len(data)):
        flipped = data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :]
        with pytest.raises(ProtocolError):
            open_record(flipped)
