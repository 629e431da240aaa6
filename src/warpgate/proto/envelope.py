"""A signal on its way through public brokers: sealed to its receiver, signed by its sender.

    envelope  = mark(16)  sealed
    sealed    = HPKE (RFC 9180, base mode) to the receiver's key, info "warpgate/2 envelope", of
    plaintext = sender's public key(33)  signature(64)  message id(16)  signal (msgpack)
    signature = ECDSA P-256 / SHA-256, raw r || s, over
                "warpgate/2 signal"  sender's public key  receiver's public key  message id  signal

The receiver's key under the signature keeps whoever opens an envelope from sealing its content to somebody
else. The sender's key is inside the sealing: brokers learn who is addressed, not by whom. The mark (`proto/marks.py`)
tells the receiver alone whether somebody that it knows has sent it; it decides about nothing but its turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from warpgate.errors import AddressError, AuthenticationError, DecodeError, ProtocolError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.identity import (
    HPKE_OVERHEAD,
    PUBLIC_KEY_SIZE,
    SIGNATURE_SIZE,
    Identity,
    hpke_seal,
    verify,
)
from warpgate.proto.marks import MARK_SIZE
from warpgate.proto.signals import Signal, decode_signal, encode_signal

MESSAGE_ID_SIZE = 16
MAX_ENVELOPE = 4096  # every public broker takes that much

_INFO = b"warpgate/2 envelope"
_DOMAIN = b"warpgate/2 signal"
_SIGNED_AT = PUBLIC_KEY_SIZE + SIGNATURE_SIZE
_MIN_PLAINTEXT = _SIGNED_AT + MESSAGE_ID_SIZE


@dataclass(frozen=True, slots=True)
class Opened:
    """A signal whose sender is proved. `address` is `signal.address`, decoded, and is of the sender's key."""

    sender: bytes
    message_id: bytes
    signal: Signal
    address: NodeAddress


def _strangers(_: bytes) -> None:
    return None


def seal(
    identity: Identity,
    receiver_public_key: bytes,
    signal: Signal,
    message_id: bytes,
    mark: Callable[[bytes], bytes | None] = _strangers,
) -> bytes:
    """At most 4096 bytes; `message_id` is 16 fresh random bytes, the same for all brokers. `mark` makes the mark of
    what is sealed, if there is to be one.

    ProtocolError when the signal is out of bounds or too large (send fewer messages), AuthenticationError
    when the receiver's key is no key.
    """
    if len(message_id) != MESSAGE_ID_SIZE:
        raise ValueError(f"a message id has {MESSAGE_ID_SIZE} bytes, this one {len(message_id)}")
    packed = encode_signal(signal)
    try:
        decode_signal(packed)  # a Signal is not checked when it is built
    except DecodeError as error:
        raise ProtocolError(f"cannot send this signal: {error}") from None
    size = MARK_SIZE + HPKE_OVERHEAD + _MIN_PLAINTEXT + len(packed)
    if size > MAX_ENVELOPE:
        raise ProtocolError(f"the envelope would take {size} bytes, more than {MAX_ENVELOPE}")
    body = message_id + packed
    signature = identity.sign(_signed(identity.public_key, receiver_public_key, body))
    sealed = hpke_seal(receiver_public_key, identity.public_key + signature + body, _INFO)
    # The id is as random as a mark, and nobody who does not open the envelope learns it.
    return (mark(sealed) or hashlib.sha256(b"no mark" + message_id).digest()[:MARK_SIZE]) + sealed


def open_envelope(identity: Identity, data: bytes) -> Opened:
    """DecodeError when malformed or too large; AuthenticationError when not for us or forged."""
    if len(data) > MAX_ENVELOPE:
        raise DecodeError(f"an envelope has at most {MAX_ENVELOPE} bytes, this one {len(data)}")
    plaintext = identity.hpke_open(data[MARK_SIZE:], _INFO)
    if len(plaintext) < _MIN_PLAINTEXT:
        raise DecodeError(f"an envelope's content has at least {_MIN_PLAINTEXT} bytes, this {len(plaintext)}")
    sender, signature = plaintext[:PUBLIC_KEY_SIZE], plaintext[PUBLIC_KEY_SIZE:_SIGNED_AT]
    body = plaintext[_SIGNED_AT:]
    verify(sender, signature, _signed(sender, identity.public_key, body))
    signal = decode_signal(body[MESSAGE_ID_SIZE:])
    try:
        address = NodeAddress.decode(signal.address)
    except AddressError as error:
        raise DecodeError(f"the sender's address in the signal: {error}") from None
    if address.public_key != sender:
        raise AuthenticationError("the address in the signal is not its sender's")
    return Opened(sender, body[:MESSAGE_ID_SIZE], signal, address)


def _signed(sender: bytes, receiver: bytes, body: bytes) -> bytes:
    return _DOMAIN + sender + receiver + body
