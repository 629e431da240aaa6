"""The open requests of one TURN client: sealing, repeating, logging in again, and trusting answers.

Owned by the machines that talk to TURN servers; not a machine itself. Rules:

* An answer counts when its transaction id is that of an open request, its method fits, and its integrity is right.
  An answer with a wrong integrity is nobody's (RFC 8489 section 9.2.5: "MUST be discarded, as if it had never been
  received"), and so is an unsigned success, unless the request was unsigned too: then the server lets anybody in.
* An unsigned *error* is believed. The RFC would have us wait for a better one, but real servers leave the integrity
  out (and must in 400, 401, 438), and whoever knows the transaction id can as well drop our packets: the reason told
  at once is worth more.
* 401 and 438 are answered here, with the new nonce, a few times; then they are errors like others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.proto.stun import (
    HEADER_SIZE,
    Attributes,
    ErrorCode,
    StunClass,
    StunMessage,
    decode,
    integrity_of,
)
from warpgate.proto.transaction import RETRANSMIT_WAITS
from warpgate.proto.turn_auth import LongTermAuth

PurposeT = TypeVar("PurposeT")

UNAUTHENTICATED = 401
STALE_NONCE = 438
# One for the first log-in, and some for nonces that went stale on the way (a server may rotate them each minute).
MAX_CHALLENGES = 4
# RFC 8489 section 6.2.2: over TCP nothing is repeated, and the request times out after 39.5 s. An attempt takes 20 s
# at most, and a server that has nothing to say for half of that is not there.
RELIABLE_WAIT = 10.0


@dataclass(slots=True)
class _Open(Generic[PurposeT]):
    purpose: PurposeT
    method: int
    attributes: Attributes
    data: bytes
    sealed: bool
    challenges: int
    due: float
    sends: int = 1


@dataclass(frozen=True, slots=True)
class Answered(Generic[PurposeT]):
    """`error` None for a success, whose integrity was checked. `message` None when nobody answered."""

    purpose: PurposeT
    message: StunMessage | None
    error: ErrorCode | None


class Requests(Generic[PurposeT]):
    """`outbox` gets the bytes to send, in order with whatever else the owner puts there."""

    def __init__(
        self,
        auth: LongTermAuth,
        outbox: deque[bytes],
        *,
        reliable: bool,
        new_transaction_id: Callable[[], bytes],
    ) -> None:
        self.auth = auth
        self._outbox = outbox
        self._waits = (RELIABLE_WAIT,) if reliable else RETRANSMIT_WAITS
        self._new_transaction_id = new_transaction_id
        self._open: dict[bytes, _Open[PurposeT]] = {}

    def begin(self, purpose: PurposeT, method: int, attributes: Attributes, now: float, challenges: int = 0) -> None:
        """Send for the first time."""
        transaction_id = self._new_transaction_id()
        data = self.auth.seal(StunMessage(method, StunClass.REQUEST, transaction_id, attributes))
        due = now + self._waits[0]
        self._open[transaction_id] = _Open(purpose, method, attributes, data, self.auth.ready, challenges, due)
        self._outbox.append(data)

    def drop(self) -> None:
        """Forget everything; answers that still come are nobody's."""
        self._open.clear()

    @property
    def purposes(self) -> tuple[PurposeT, ...]:
        return tuple(request.purpose for request in self._open.values())

    def take(self, data: bytes, now: float) -> Answered[PurposeT] | None:
        """The outcome of one of our requests, now closed; None for everything else, garbage included."""
        message = self._answer_in(data)
        if message is None:
            return None
        request = self._open.pop(message.transaction_id)
        if message.cls is StunClass.SUCCESS:
            return Answered(request.purpose, message, None)
        error = message.error or ErrorCode(400, "an error without a code")
        if error.code in (UNAUTHENTICATED, STALE_NONCE):
            return self._log_in(request, message, error, now)
        return Answered(request.purpose, message, error)

    def _answer_in(self, data: bytes) -> StunMessage | None:
        request = self._open.get(bytes(data[8:HEADER_SIZE]))
        try:
            message = decode(data)
        except DecodeError:
            return None
        if request is None or message.method != request.method:
            return None
        if message.cls not in (StunClass.SUCCESS, StunClass.ERROR):
            return None
        trusted = not (request.sealed or self.auth.ready) or self._believable(data, message)
        return message if trusted else None

    def _believable(self, data: bytes, message: StunMessage) -> bool:
        try:
            self.auth.check(data)
        except AuthenticationError:
            return message.cls is StunClass.ERROR and integrity_of(data) is None
        return True

    def _log_in(
        self, request: _Open[PurposeT], message: StunMessage, error: ErrorCode, now: float
    ) -> Answered[PurposeT] | None:
        nonce = self.auth.nonce
        refused = request.sealed and error.code == UNAUTHENTICATED
        if request.challenges >= MAX_CHALLENGES:
            return Answered(request.purpose, message, error)
        try:
            self.auth.challenged(message)
        except AuthenticationError as reason:
            return Answered(request.purpose, message, ErrorCode(error.code, str(reason)))
        if refused and self.auth.nonce == nonce:  # RFC 8489 section 9.2.5: the same credentials would fail again
            return Answered(request.purpose, message, error)
        self.begin(request.purpose, request.method, request.attributes, now, request.challenges + 1)
        return None

    def handle_timeout(self, now: float) -> list[PurposeT]:
        """Repeat what is due; returns what was given up."""
        given_up = []
        for transaction_id, request in list(self._open.items()):
            if request.due > now:
                continue
            if request.sends < len(self._waits):
                request.due = now + self._waits[request.sends]
                request.sends += 1
                self._outbox.append(request.data)
            else:
                del self._open[transaction_id]
                given_up.append(request.purpose)
        return given_up

    def poll_timeout(self) -> float | None:
        return min((request.due for request in self._open.values()), default=None)
