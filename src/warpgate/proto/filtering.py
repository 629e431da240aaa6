"""Which strangers a NAT or firewall lets in: the filtering test of RFC 5780 section 4.4, sans-I/O.

It needs a UDP socket of its own that has never sent anything to the server's other address: a request sent
there, as the mapping test does, would open the very filter that is to be tested. All requests here go to the
server's primary endpoint; the answers come from where they ask:

    I    plain Binding            the server is there, UDP passes, and OTHER-ADDRESS says that it can do the
    rest II   change IP and port       an answer from the other address and port: endpoint-independent
    filtering III  change port              an answer from the same address, other port: address-dependent
    filtering
                                  silence: address- and port-dependent filtering

II and III are sent together, II first: only what we send opens filters, so neither spoils the other. III
counts only when II was given up. An answer from a place that was not asked for means that the server does not
do its part.

The path's round trip is known from I, so silence is believed after seven of those instead of STUN's usual
seconds: peers decide by what it says (`plan/birthday.py`), and a node may be asked for as soon as it is up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Filtering
from warpgate.proto.machine import Outputs, Transmit
from warpgate.proto.stun import BINDING, Attribute, ChangeRequest, StunClass, StunMessage
from warpgate.proto.transaction import RETRANSMIT_WAITS, Transactions

_BOTH = ChangeRequest.IP | ChangeRequest.PORT
# Waits after each of four sendings, in round trips of test I. At 10 % loss each way all four answers are lost once in
# 770 tests, and a filter taken for a stricter one costs a peer some needless probes.
_WAITS = (1.25, 1.25, 2.5, 2.5)
SHORTEST_ROUND_TRIP = 0.04  # s; less is not counted on: loops and servers are busy at times


@dataclass(frozen=True, slots=True)
class FilteringMeasured:
    """The result, once. `samples`: how many tests it rests on (0 when UNKNOWN); `reason` is for people. `other`: the
    server's second address and port, which it does answer from or says so; `round_trip` to it, in seconds.
    """

    server: Endpoint
    filtering: Filtering
    samples: int
    reason: str
    other: Endpoint | None = None
    round_trip: float = SHORTEST_ROUND_TRIP


class FilteringTest(Outputs[FilteringMeasured, Transmit]):
    """A machine for a fresh UDP socket bound to `base`; one result, then it is idle permanently."""

    def __init__(
        self, base: Endpoint, server: Endpoint, now: float, *, new_transaction_id: Callable[[], bytes]
    ) -> None:
        super().__init__()
        self._server = server
        self._new_transaction_id = new_transaction_id
        self._transactions = Transactions(base, self._outbox)
        self._other: Endpoint | None = None
        self._round_trip = SHORTEST_ROUND_TRIP
        self._results: dict[ChangeRequest, bool] = {}  # whether the changed answer arrived
        self._ask(ChangeRequest.NOTHING, now, RETRANSMIT_WAITS)

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """Ignores what is not an answer to us."""
        found = self._transactions.take_answer(data)  # from anywhere: see _is_from
        if found is None:
            return
        transaction, answer = found
        change = _change_of(transaction.request)
        if answer.cls is StunClass.ERROR:
            code = str(answer.error) if answer.error else "an error"
            self._finish(Filtering.UNKNOWN, f"the server answered {code}")
        elif change is ChangeRequest.NOTHING:
            round_trip = max(SHORTEST_ROUND_TRIP, now - transaction.started)
            self._start_changes(answer.endpoint(Attribute.OTHER_ADDRESS), round_trip, now)
        elif not self._is_from(source, change):
            self._finish(Filtering.UNKNOWN, f"the server answered from {source}, where it was not asked to")
        else:
            self._results[change] = True
            self._conclude()

    def handle_timeout(self, now: float) -> None:
        for transaction in self._transactions.handle_timeout(now):
            change = _change_of(transaction.request)
            if change is ChangeRequest.NOTHING:
                self._finish(Filtering.UNKNOWN, "the server does not answer")
            else:
                self._results[change] = False
                self._conclude()

    def poll_timeout(self) -> float | None:
        return self._transactions.poll_timeout()

    def _ask(self, change: ChangeRequest, now: float, waits: Sequence[float]) -> None:
        attributes = ((Attribute.CHANGE_REQUEST, change),) if change else ()
        request = StunMessage(BINDING, StunClass.REQUEST, self._new_transaction_id(), attributes)
        self._transactions.begin(request, self._server, now, waits)

    def _start_changes(self, other: Endpoint | None, round_trip: float, now: float) -> None:
        if other is None or other.ip == self._server.ip or other.port == self._server.port:
            self._finish(Filtering.UNKNOWN, f"the server has no other address and port (says {other})")
            return
        self._other, self._round_trip = other, round_trip
        waits = [wait * round_trip for wait in _WAITS]
        self._ask(_BOTH, now, waits)
        self._ask(ChangeRequest.PORT, now, waits)

    def _is_from(self, source: Endpoint, change: ChangeRequest) -> bool:
        if change is ChangeRequest.PORT:
            return source.ip == self._server.ip and source.port != self._server.port
        return source == self._other

    def _conclude(self) -> None:
        both, port = self._results.get(_BOTH), self._results.get(ChangeRequest.PORT)
        if both:
            self._finish(Filtering.EIF, "an answer from another address and port came in")
        elif both is False and port:
            self._finish(Filtering.ADF, "an answer from another port came in, from another address none")
        elif both is False and port is False:
            self._finish(Filtering.APDF, "only the endpoint that was asked gets in")

    def _finish(self, filtering: Filtering, reason: str) -> None:
        self._transactions.drop()
        samples = 0 if filtering is Filtering.UNKNOWN else len(self._results)
        self._events.append(FilteringMeasured(self._server, filtering, samples, reason, self._other, self._round_trip))


def _change_of(request: StunMessage) -> ChangeRequest:
    change = request.get(Attribute.CHANGE_REQUEST)
    return change if isinstance(change, ChangeRequest) else ChangeRequest.NOTHING
