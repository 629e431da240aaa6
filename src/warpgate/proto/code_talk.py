"""How two nodes that share a one-time code learn each other's addresses over brokers that anybody reads. Sans-I/O.

    the taker                               the offerer (who made the code)
    Open    id, SPAKE2 element B  -------->
            <--------  Answer   id, SPAKE2 element A, the offerer's address sealed
    Confirm id, the taker's address sealed  -------->

Both elements are SPAKE2's (draft-irtf-cfrg-spake2, Ed25519 group, as python-spake2 has it), with the whole code as the
password. Whoever sees all messages can check no guess of the words against them; whoever takes part can check one.
The sealing (AES-128-GCM under keys derived from what both now share) is the proof: an address that opens was sealed by
somebody with the same code. The keys in the two addresses are what the connection is pinned to afterwards.

Rules:

* The offerer answers the first Open, and nobody else, ever: to another id it says Taken. So a code allows one guess,
  right or wrong, and a wrong one is the end of it on both sides.
* Every message may be lost or doubled: the taker repeats Open until it is answered, the offerer repeats the same Answer
  until it is confirmed, and the taker says Confirm again whenever it sees the Answer again. What is decoded and not
  expected is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from warpgate.errors import AddressError, DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import MAX_ADDRESS_SIZE, NodeAddress
from warpgate.proto.machine import Outputs

if TYPE_CHECKING:
    from warpgate.model.code import OneTimeCode

VERSION = 1
ID_SIZE = 16
ELEMENT_SIZE = 33  # python-spake2's side byte, and a compressed Ed25519 point
TAG_SIZE = 16
# Seconds. A person reads the code out meanwhile, by telephone perhaps.
CODE_LIFETIME = 3600.0
# How long a taker looks for the offerer: it may have been started first, but not for ever.
TAKER_PATIENCE = 60.0
# From the answer to its confirmation, which is one round trip; then the guess counts as wrong.
CONFIRM_PATIENCE = 20.0
# Brokers deliver at most once (QoS 0). Doubled up to the last.
FIRST_REPEAT, LAST_REPEAT = 0.5, 2.0
# Taken is for people who mistype or share a code; a flood of others gets no flood of answers.
TAKEN_SAID = 16

_ID_A, _ID_B = b"warpgate/1 code offer", b"warpgate/1 code take"

Id = Annotated[bytes, Meta(min_length=ID_SIZE, max_length=ID_SIZE)]
Element = Annotated[bytes, Meta(min_length=ELEMENT_SIZE, max_length=ELEMENT_SIZE)]
Sealed = Annotated[bytes, Meta(min_length=TAG_SIZE + 1, max_length=MAX_ADDRESS_SIZE + TAG_SIZE)]


class CodeMessage(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages; msgpack arrays, their kind first. Fields that later versions add at the end are ignored."""


class Open(CodeMessage, frozen=True, tag=1):
    version: Annotated[int, Meta(ge=0, lt=2**16)]
    id: Id
    element: Element


class Answer(CodeMessage, frozen=True, tag=2):
    id: Id
    element: Element
    sealed: Sealed


class Confirm(CodeMessage, frozen=True, tag=3):
    id: Id
    sealed: Sealed


class Taken(CodeMessage, frozen=True, tag=4):
    """Somebody else's Open came first, or the code was burnt."""

    id: Id


AnyCodeMessage = Open | Answer | Confirm | Taken
_DECODER: msgspec.msgpack.Decoder[AnyCodeMessage] = msgspec.msgpack.Decoder(AnyCodeMessage)


def encode_code_message(message: AnyCodeMessage) -> bytes:
    return msgspec.msgpack.encode(message)


def decode_code_message(data: bytes) -> AnyCodeMessage:
    """Raises DecodeError."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"no message of a one-time code: {error}") from None


@dataclass(frozen=True, slots=True)
class Agreed:
    """Both sides have the same code. `address` is the other one's, and so is the key in it."""

    address: NodeAddress


@dataclass(frozen=True, slots=True)
class NotAgreed:
    """The code is of no use any more."""

    reason: str


CodeEvent = Agreed | NotAgreed
Entropy = Callable[[int], bytes]


class _Side(Outputs[CodeEvent, bytes]):
    """What both sides have in common: what waits to go out, what has happened, and when something is due."""

    def __init__(self, now: float, patience: float) -> None:
        super().__init__()
        self._over = False
        self._end = now + patience
        self._repeat_at: float | None = None
        self._interval = FIRST_REPEAT
        self._repeated = b""

    def poll_timeout(self) -> float | None:
        if self._over:
            return None
        return self._end if self._repeat_at is None else min(self._end, self._repeat_at)

    def _repeat(self, message: AnyCodeMessage, now: float) -> None:
        """Say this now and, ever more slowly, until something else is said."""
        self._repeated = encode_code_message(message)
        self._interval = FIRST_REPEAT
        self._say_again(now)

    def _say_again(self, now: float) -> None:
        self._outbox.append(self._repeated)
        self._repeat_at = now + self._interval
        self._interval = min(2 * self._interval, LAST_REPEAT)

    def _finish(self, event: CodeEvent) -> None:
        self._events.append(event)
        self._over = True
        self._repeat_at = None

    def _due(self, now: float) -> bool:
        """Repeat what is due; whether the end has come."""
        if self._over:
            return False
        if now >= self._end:
            return True
        if self._repeat_at is not None and now >= self._repeat_at:
            self._say_again(now)
        return False


class CodeOfferer(_Side):
    """Who made the code. `address` is our encoded NodeAddress."""

    def __init__(self, code: OneTimeCode, address: bytes, entropy: Entropy, now: float) -> None:
        super().__init__(now, CODE_LIFETIME)
        self._pake = _new_pake("A", code, entropy)
        self._address = address
        self._id: bytes | None = None
        self._keys: _Keys | None = None
        self._taken_left = TAKEN_SAID

    def receive(self, data: bytes, now: float) -> None:
        """What came to the offerer's topic. Never raises: anybody may write there."""
        try:
            message = decode_code_message(data)
        except DecodeError:
            return
        if isinstance(message, Open):
            self._opened(message, now)
        elif isinstance(message, Confirm) and message.id == self._id and not self._over:
            self._confirmed(message)

    def handle_timeout(self, now: float) -> None:
        if not self._due(now):
            return
        if self._id is None:
            self._finish(NotAgreed(f"nobody took the code within {CODE_LIFETIME / 60:g} minutes"))
        else:
            self._finish(NotAgreed("somebody tried the code and did not prove that they have it: it is burnt"))

    def _opened(self, message: Open, now: float) -> None:
        if message.id == self._id or message.version != VERSION:
            return  # the Answer is being repeated
        if self._id is not None or self._over:
            if self._taken_left:
                self._taken_left -= 1
                self._outbox.append(encode_code_message(Taken(message.id)))
            return
        self._id = message.id
        element = self._pake.start()
        secret = _finish_pake(self._pake, message.element)
        if secret is None:
            self._finish(NotAgreed("somebody tried the code with a message that is none: it is burnt"))
            return
        self._keys = _Keys(secret, message.id)
        self._end = now + CONFIRM_PATIENCE
        self._repeat(Answer(message.id, element, self._keys.seal(_ID_A, self._address)), now)

    def _confirmed(self, message: Confirm) -> None:
        assert self._keys is not None
        address = self._keys.open(_ID_B, message.sealed)
        if address is None:
            self._finish(NotAgreed("somebody tried a wrong code: it is burnt"))
        else:
            self._finish(Agreed(address))


class CodeTaker(_Side):
    """Who was told the code. `id_` is 16 random bytes, new for each try. `drain` it once it is made."""

    def __init__(self, code: OneTimeCode, address: bytes, entropy: Entropy, id_: bytes, now: float) -> None:
        super().__init__(now, TAKER_PATIENCE)
        self._pake = _new_pake("B", code, entropy)
        self._address = address
        self._id = id_
        self._confirm = b""
        self._repeat(Open(VERSION, id_, self._pake.start()), now)

    def receive(self, data: bytes, now: float) -> None:
        """What came to the taker's topic. Never raises: anybody may write there."""
        try:
            message = decode_code_message(data)
        except DecodeError:
            return
        if not isinstance(message, Answer | Taken) or message.id != self._id:
            return
        if self._over:
            if self._confirm and isinstance(message, Answer):
                self._outbox.append(self._confirm)
        elif isinstance(message, Taken):
            self._finish(NotAgreed("somebody else has used this code already"))
        else:
            self._answered(message)

    def handle_timeout(self, now: float) -> None:
        if self._due(now):
            self._finish(NotAgreed(f"nobody answered within {TAKER_PATIENCE:g} s: is the code right and unused?"))

    def _answered(self, message: Answer) -> None:
        secret = _finish_pake(self._pake, message.element)
        keys = None if secret is None else _Keys(secret, self._id)
        address = None if keys is None else keys.open(_ID_A, message.sealed)
        if keys is None or address is None:
            # What cannot be opened burns the code at the other side as well, at once.
            self._outbox.append(encode_code_message(Confirm(self._id, bytes(TAG_SIZE + 1))))
            self._finish(NotAgreed("the code is wrong: it is burnt, and a new one is needed"))
            return
        self._confirm = encode_code_message(Confirm(self._id, keys.seal(_ID_B, self._address)))
        self._outbox.append(self._confirm)
        self._finish(Agreed(address))


class _Keys:
    """One key each way, each used for one message: the nonce is always 0."""

    def __init__(self, secret: bytes, id_: bytes) -> None:
        self._secret = secret
        self._id = id_

    def seal(self, side: bytes, address: bytes) -> bytes:
        return self._cipher(side).encrypt(bytes(12), address, self._id)

    def open(self, side: bytes, sealed: bytes) -> NodeAddress | None:
        """None when it was sealed by somebody with another code, or holds no address."""
        try:
            return NodeAddress.decode(self._cipher(side).decrypt(bytes(12), sealed, self._id))
        except (InvalidTag, AddressError):
            return None

    def _cipher(self, side: bytes) -> AESGCM:
        kdf = HKDF(hashes.SHA256(), length=16, salt=self._id, info=side)  # RFC 5869
        return AESGCM(kdf.derive(self._secret))


def _new_pake(side: str, code: OneTimeCode, entropy: Entropy) -> Any:
    import spake2  # noqa: PLC0415 - 90 ms, for one-time codes alone

    kind = spake2.SPAKE2_A if side == "A" else spake2.SPAKE2_B
    return kind(code.password, idA=_ID_A, idB=_ID_B, entropy_f=entropy)


def _finish_pake(pake: Any, element: bytes) -> bytes | None:
    """The secret, 32 bytes; None for an element that is none of the group, or of the wrong side."""
    import spake2  # noqa: PLC0415
    from spake2.ed25519_basic import NotOnCurve  # noqa: PLC0415

    try:
        secret: bytes = pake.finish(element)
    except (spake2.SPAKEError, NotOnCurve, ValueError, AssertionError):
        return None
    return secret
