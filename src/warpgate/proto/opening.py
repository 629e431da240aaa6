"""How far a packet must get to open every NAT and firewall of ours: the lowest TTL that does, sans-I/O.

What primes a punch has to pass all filters on our side and must die before the peer's (`plan/volley.py`). A router's
ICMP errors would tell hops apart, but not which of them filter, and anybody can forge them. So the filters themselves
are asked, by a STUN server with a second address (RFC 5780): a request leaves for that address with a TTL that ends on
the way, and another one asks the first address for an answer from the second. It comes in only if the filters that
would have kept it out were opened by the packet that died. One hop more each time, from the second on: the first router
is passed by none with less.

Only for filters that were measured to keep such answers out (`proto/filtering.py`), on a socket that has sent nothing
to the second address. A server that lies makes us prime with one of the TTLs that are tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.proto.machine import Outputs, Transmit
from warpgate.proto.stun import BINDING, Attribute, ChangeRequest, StunClass, StunMessage, encode
from warpgate.proto.transaction import Transactions

# A home router alone, one more, and a carrier's NAT with a router before it. Further would reach neighbours' routers.
TTLS = (2, 3, 4)
OPENERS = 2  # one may be lost
# In round trips, after each of three sendings: at 10 % loss each way all are lost once in 150 times, and then the next
# TTL does as well.
WAITS = (1.25, 1.25, 2.5)


@dataclass(frozen=True, slots=True)
class Opened:
    """The result, once; None: none of these TTLs, or the server does not do its part."""

    ttl: int | None


class OpeningTest(Outputs[Opened, Transmit]):
    """A machine for a fresh UDP socket bound to `base`; one result, then it is idle permanently."""

    def __init__(
        self,
        base: Endpoint,
        server: Endpoint,
        other: Endpoint,
        round_trip: float,
        now: float,
        *,
        new_transaction_id: Callable[[], bytes],
    ) -> None:
        """`other`: the server's second address and port; `round_trip` in seconds, as measured."""
        super().__init__()
        self._base, self._server, self._other = base, server, other
        self._waits = [wait * round_trip for wait in WAITS]
        self._new_transaction_id = new_transaction_id
        self._transactions = Transactions(base, self._outbox)
        self._untried = deque(TTLS)
        self._try_next(now)

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """Ignores what is not an answer to us from the second address."""
        if source != self._other:
            return
        found = self._transactions.take_answer(data)
        if found is None:
            return
        if found[1].cls is StunClass.ERROR:
            self._finish(None)
        else:
            self._finish(self._ttl)

    def handle_timeout(self, now: float) -> None:
        if self._transactions.handle_timeout(now):
            self._try_next(now)

    def poll_timeout(self) -> float | None:
        return self._transactions.poll_timeout()

    def _try_next(self, now: float) -> None:
        if not self._untried:
            self._finish(None)
            return
        self._ttl = self._untried.popleft()
        for _ in range(OPENERS):
            opener = StunMessage(BINDING, StunClass.REQUEST, self._new_transaction_id())
            self._outbox.append(Transmit(encode(opener), self._base, self._other, self._ttl))
        both = ((Attribute.CHANGE_REQUEST, ChangeRequest.IP | ChangeRequest.PORT),)
        request = StunMessage(BINDING, StunClass.REQUEST, self._new_transaction_id(), both)
        self._transactions.begin(request, self._server, now, self._waits)

    def _finish(self, ttl: int | None) -> None:
        self._transactions.drop()
        self._untried.clear()
        self._events.append(Opened(ttl))
