"""A nickname's record: the owner's signed word on where it is reached, kept by name servers that cannot forge it.

    record    = version(1)=1  body  signature(64)
    body      = msgpack array: kind, name, public key(33), sequence, issued, lifetime, address
    signature = ECDSA P-256 / SHA-256, raw r || s, by that key, over "warpgate/1 name" 0x00  version  body

A CLAIM carries the owner's encoded address, and the key in that is the record's; a RELEASE carries none. Of two
records of one key and name the one with the higher sequence counts.
"""

from __future__ import annotations

from dataclasses import astuple
from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from warpgate.errors import AddressError, AuthenticationError, DecodeError, ProtocolError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import MAX_ADDRESS_SIZE, NodeAddress
from warpgate.model.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity, verify
from warpgate.model.nickname import MAX_BYTES, fold

RECORD_VERSION = 1
MAX_RECORD = 2048
MAX_LIFETIME = 30 * 86_400  # who has forgotten a name gives it back to others within a month
MAX_ISSUED = 2**40  # the year 36812

_DOMAIN = b"warpgate/1 name\0"


class RecordKind(IntEnum):
    CLAIM = 1  # this name is mine, and leads to this address
    RELEASE = 2  # this name is free again


@dataclass(frozen=True, slots=True)
class NameRecord:
    """`issued` is the signer's clock in Unix seconds, `lifetime` seconds; `sequence` an unsigned 64-bit number."""

    kind: RecordKind
    name: str
    public_key: bytes
    sequence: int
    issued: int
    lifetime: int
    address: bytes = b""

    @property
    def expires(self) -> int:
        """Unix seconds."""
        return self.issued + self.lifetime


class _Body(msgspec.Struct, frozen=True, array_like=True):
    kind: RecordKind
    name: Annotated[str, Meta(min_length=1, max_length=MAX_BYTES)]
    public_key: Annotated[bytes, Meta(min_length=PUBLIC_KEY_SIZE, max_length=PUBLIC_KEY_SIZE)]
    sequence: Annotated[int, Meta(ge=0)]
    issued: Annotated[int, Meta(ge=0, le=MAX_ISSUED)]
    lifetime: Annotated[int, Meta(ge=1, le=MAX_LIFETIME)]
    address: Annotated[bytes, Meta(max_length=MAX_ADDRESS_SIZE)]


_DECODER = msgspec.msgpack.Decoder(_Body)


def seal(record: NameRecord, identity: Identity) -> bytes:
    """At most 2048 bytes. ProtocolError when a field is out of bounds, ValueError when the key is another's."""
    if record.public_key != identity.public_key:
        raise ValueError("a record is signed by the key in it")
    try:
        body = msgspec.msgpack.encode(astuple(record))
        _check(_decode_body(body))  # a NameRecord is not checked when it is built
    except (OverflowError, DecodeError, AuthenticationError) as error:
        raise ProtocolError(f"cannot sign this record: {error}") from None
    signed = bytes((RECORD_VERSION,)) + body
    return signed + identity.sign(_DOMAIN + signed)


def open_record(data: bytes) -> NameRecord:
    """DecodeError when malformed or too large; AuthenticationError when the key in it did not sign it.

    What comes back is whole: the name is folded, the address of a CLAIM can be decoded and is of the record's key.
    """
    if not SIGNATURE_SIZE < len(data) <= MAX_RECORD:
        raise DecodeError(f"a name record has {SIGNATURE_SIZE + 1} to {MAX_RECORD} bytes, not {len(data)}")
    if data[0] != RECORD_VERSION:
        raise DecodeError(f"the name record is of version {data[0]}; this program knows version {RECORD_VERSION}")
    signed, signature = data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
    record = _decode_body(signed[1:])
    verify(record.public_key, signature, _DOMAIN + signed)
    _check(record)
    return record


def _decode_body(body: bytes) -> NameRecord:
    """Fields added at the end pass: they are signed too."""
    try:
        fields = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a name record: {error}") from None
    return NameRecord(*msgspec.structs.astuple(fields))


def _check(record: NameRecord) -> None:
    """What the types do not say."""
    try:
        folded = fold(record.name)
    except AddressError as error:
        raise DecodeError(f"the name in the record: {error}") from None
    if folded != record.name:
        raise DecodeError(f"the name in the record, {record.name!r}, is not folded ({folded!r})")
    if record.kind is RecordKind.RELEASE:
        if record.address:
            raise DecodeError("a release carries no address")
        return
    try:
        address = NodeAddress.decode(record.address)
    except AddressError as error:
        raise DecodeError(f"the address in the name record: {error}") from None
    if address.public_key != record.public_key:
        raise AuthenticationError("the address in the name record is of another key than the record")
