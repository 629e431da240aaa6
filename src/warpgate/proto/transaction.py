"""STUN request transactions over UDP: retransmission and matching answers (RFC 8489 section 6).

Owned by the machines that send Binding requests; not a machine itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.proto.machine import Transmit
from warpgate.proto.stun import HEADER_SIZE, StunClass, StunMessage, decode, encode, is_stun

# RFC 8489 section 6.2.1: "The initial value for RTO SHOULD be greater than or equal to 500 ms", doubled
# "until a response is received, or a total of 7 requests have been sent", which takes 39.5 s. The exceptions
# it allows are for known paths; ours is that nearly all paths answer within 250 ms, that a node asks a
# handful of servers one small question each, and that start waits 1.5 s in all, in which this sends three
# times. Each wait is one request's; they double from 250 ms to a cap of 2 s. At 10 % loss each way, four
# requests fail together once in 770.
RETRANSMIT_WAITS = (0.25, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class Transaction:
    """One request, repeated unchanged until answered. `started` is when it was first sent; after each sending the next
    of `waits` is waited, in seconds, and given up after the last.
    """

    request: StunMessage
    server: Endpoint
    started: float
    due: float
    sends: int
    waits: Sequence[float]


class Transactions:
    """The outstanding requests of one socket; what they want sent goes to `outbox`, the owner's."""

    __slots__ = ("_base", "_open", "_outbox")

    def __init__(self, base: Endpoint, outbox: deque[Transmit]) -> None:
        self._base = base
        self._open: dict[bytes, Transaction] = {}
        self._outbox = outbox

    def begin(
        self, request: StunMessage, server: Endpoint, now: float, waits: Sequence[float] = RETRANSMIT_WAITS
    ) -> None:
        """Send for the first time."""
        transaction = Transaction(request, server, started=now, due=now, sends=0, waits=waits)
        self._open[request.transaction_id] = transaction
        self._send(transaction, now)

    def waiting_for(self, server: Endpoint) -> bool:
        return any(transaction.server == server for transaction in self._open.values())

    def drop(self, server: Endpoint | None = None) -> None:
        """Forget all that is outstanding (at this server); answers still on their way are nobody's."""
        self._open = {id_: each for id_, each in self._open.items() if server is not None and each.server != server}

    def owns(self, data: bytes) -> bool:
        """Whether this looks like the answer to an outstanding request."""
        return is_stun(data) and bytes(data[8:HEADER_SIZE]) in self._open

    def take_answer(self, data: bytes, source: Endpoint | None = None) -> tuple[Transaction, StunMessage] | None:
        """The transaction that this answers, now closed; None for anything else, garbage included.

        With `source`, only an answer from the endpoint that was asked counts.
        """
        if not self.owns(data):
            return None
        try:
            answer = decode(data)
        except DecodeError:
            return None
        transaction = self._open[answer.transaction_id]
        if answer.cls not in (StunClass.SUCCESS, StunClass.ERROR):
            return None
        if answer.method != transaction.request.method or source not in (None, transaction.server):
            return None
        del self._open[answer.transaction_id]
        return transaction, answer

    def handle_timeout(self, now: float) -> list[Transaction]:
        """Repeat what is due; returns the transactions that were given up."""
        given_up = []
        for transaction in [item for item in self._open.values() if item.due <= now]:
            if transaction.sends < len(transaction.waits):
                self._send(transaction, now)
            else:
                del self._open[transaction.request.transaction_id]
                given_up.append(transaction)
        return given_up

    def poll_timeout(self) -> float | None:
        return min((transaction.due for transaction in self._open.values()), default=None)

    def _send(self, transaction: Transaction, now: float) -> None:
        self._outbox.append(Transmit(encode(transaction.request), self._base, transaction.server))
        transaction.due = now + transaction.waits[transaction.sends]
        transaction.sends += 1
