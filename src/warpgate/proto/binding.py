"""What the outside sees of one UDP socket, and keeping it so: a STUN Binding client (RFC 8489 section 2),
sans-I/O.

Rules:

* Every server is asked once at the start and whenever `measure` is called. An answer counts only when it
  comes from the endpoint that was asked, carries the transaction id, and names what can be an outside endpoint of
  ours (`model/scope.py`): any server may say anything.
* In between, one server (the nearest of those that are furthest outside) is asked again and again: that keeps the
  mapping open and shows when it has become another. Then, at once, all servers are asked: the network under us has
  changed. A server within our NAT, or before an outer one, would let the mapping expire.
* A mapping that is gone at the very next keepalive did not live as long as the pause: from then on that is half as
  long, and so on (carriers' NATs forget one after 10 s, Richter et al., IMC 2016). One that was renewed first died of
  something else.
* A server that is given up is reported and, for keepalives, replaced by the next at once. While none answers,
  all are asked at each keepalive, so that the first one to come back is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warpgate.errors import ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.scope import Scope, misnamed, scope_of
from warpgate.proto.machine import Outputs, Transmit
from warpgate.proto.stun import BINDING, Attribute, StunClass, StunMessage
from warpgate.proto.transaction import Transactions

# A NAT that changes its mind with every packet must not make us ask without end.
REMEASURE_AFTER = 2.0
# No NAT is known that forgets sooner; keepalives in seconds.
LEAST_KEEPALIVE = 4.0


class Unusable(ServiceError):
    """A server's answer tells no outside endpoint of ours."""


class Translated(Unusable):
    """It was reached by an address that a DNS64 had made up. What it has in IPv4 is asked for with the prefix."""


def mapped_in(answer: StunMessage, local: Endpoint, server: IPAddress) -> Endpoint:
    """As what this server sees our socket `local`. Unusable."""
    mapped = answer.mapped
    if answer.cls is StunClass.ERROR or mapped is None:
        raise Unusable(f"answered: {answer.error}" if answer.error else "answered: no mapped address")
    if mapped.family is not local.family:
        raise Translated(f"a translator is between: it sees {mapped}")
    if (reason := misnamed(mapped, server)) is not None:
        raise Unusable(f"of no use: {reason}")
    return mapped


@dataclass(frozen=True, slots=True)
class Mapped:
    """`server` sees our socket as `mapped`. `changed`: it had not answered before, or had seen another
    endpoint.

    `rtt` in seconds counts from the first request: after retransmissions it is an upper bound.
    """

    server: Endpoint
    mapped: Endpoint
    rtt: float
    changed: bool


@dataclass(frozen=True, slots=True)
class ServerSilent:
    """`server` gave no usable answer. `translated`: see `Translated`."""

    server: Endpoint
    reason: str
    translated: bool = False


@dataclass(frozen=True, slots=True)
class OtherAddress:
    """`server` has a second address and port (RFC 5780): it can tell NAT behaviours apart."""

    server: Endpoint
    other: Endpoint


BindingEvent = Mapped | ServerSilent | OtherAddress


@dataclass(slots=True)
class _Server:
    mapped: Endpoint | None = None
    other: Endpoint | None = None
    rtt: float = 0.0
    answers: bool = False
    since: float = 0.0
    renewed: bool = False  # the mapping was there still when it was asked for again


class BindingClient(Outputs[BindingEvent, Transmit]):
    """A machine for the UDP socket bound to `base`; asks all `servers` at once when made."""

    def __init__(
        self,
        base: Endpoint,
        servers: Sequence[Endpoint],
        now: float,
        *,
        new_transaction_id: Callable[[], bytes],
        jitter: Callable[[], float],
        keepalive_low: float = 20.0,
        keepalive_high: float = 26.0,
    ) -> None:
        """`new_transaction_id` gives 12 random bytes, `jitter` a number in 0..1; keepalives in seconds."""
        super().__init__()
        self._new_transaction_id = new_transaction_id
        self._jitter = jitter
        self._low, self._high = keepalive_low, keepalive_high
        self._transactions = Transactions(base, self._outbox)
        self._base = base
        self._servers = {server: _Server() for server in servers}
        self._kept: Endpoint | None = None  # who is asked again and again
        self.shortened = False  # keepalives leave more often than they were to
        self._keepalive_at = self._measured_at = now
        self.measure(now)

    def measure(self, now: float) -> None:
        """Ask every server now, except those still being asked."""
        self._measured_at = now
        for server in self._servers:
            self._ask(server, now)
        self._schedule(now)

    def add_server(self, server: Endpoint, now: float) -> None:
        """One more server, asked at once; known ones are left alone."""
        if server not in self._servers:
            self._servers[server] = _Server()
            self._ask(server, now)

    def remove_server(self, server: Endpoint) -> None:
        """It is not asked any more, and what it told is forgotten; unknown ones are no matter."""
        self._servers.pop(server, None)
        self._transactions.drop(server)

    @property
    def keepalive(self) -> float:
        """Seconds between two, at least."""
        return self._low

    @property
    def mappings(self) -> tuple[tuple[Endpoint, Endpoint], ...]:
        """(server, mapped) of the servers that answered last time they were asked."""
        return tuple(
            (server, known.mapped)
            for server, known in self._servers.items()
            if known.answers and known.mapped is not None
        )

    @property
    def round_trip(self) -> float | None:
        """Seconds to the nearest server of those that are furthest outside, and back; None while none answers."""
        nearest = self._nearest()
        return None if nearest is None else self._servers[nearest].rtt

    def owns(self, data: bytes) -> bool:
        """Whether `receive` would look at this datagram."""
        return self._transactions.owns(data)

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """Ignores what is not an answer to us."""
        found = self._transactions.take_answer(data, source)
        if found is None:
            return
        transaction, answer = found
        try:
            mapped = mapped_in(answer, self._base, source.ip)
        except Unusable as error:
            self._silent(source, str(error), now, translated=isinstance(error, Translated))
            return
        self._answered(source, mapped, now - transaction.started, now)
        self._note_other(source, answer.endpoint(Attribute.OTHER_ADDRESS))

    def handle_timeout(self, now: float) -> None:
        for transaction in self._transactions.handle_timeout(now):
            waited = now - transaction.started
            reason = f"no answer to {transaction.sends} requests in {waited:.2f} s"
            self._silent(transaction.server, reason, now)
        if now >= self._keepalive_at:
            self._keep_alive(now)

    def poll_timeout(self) -> float | None:
        if not self._servers:
            return None
        retransmission = self._transactions.poll_timeout()
        return self._keepalive_at if retransmission is None else min(retransmission, self._keepalive_at)

    def _ask(self, server: Endpoint, now: float) -> None:
        if not self._transactions.waiting_for(server):
            request = StunMessage(BINDING, StunClass.REQUEST, self._new_transaction_id())
            self._transactions.begin(request, server, now)

    def _keep_alive(self, now: float) -> None:
        self._kept = nearest = self._nearest()
        for server in self._servers if nearest is None else (nearest,):
            self._ask(server, now)
        self._schedule(now)

    def _nearest(self) -> Endpoint | None:
        answering = (server for server, known in self._servers.items() if known.answers)
        return min(answering, key=self._distance, default=None)

    def _distance(self, server: Endpoint) -> tuple[bool, bool, float]:
        known = self._servers[server]
        outside = known.mapped is not None and scope_of(known.mapped.ip) is Scope.GLOBAL
        inside = known.mapped == self._base
        return not outside, inside, known.rtt

    def _schedule(self, now: float) -> None:
        self._keepalive_at = now + self._low + (self._high - self._low) * self._jitter()

    def _answered(self, server: Endpoint, mapped: Endpoint, rtt: float, now: float) -> None:
        known = self._servers[server]
        moved = known.mapped is not None and known.mapped != mapped
        changed = known.mapped != mapped
        if moved and server == self._kept and known.mapped is not None and known.mapped.ip == mapped.ip:
            self._look_at_age(known)
        if changed:
            known.since, known.renewed = now, False
        else:
            # The measurement that a change brings is no renewal.
            known.renewed |= now - known.since > REMEASURE_AFTER
        # By another endpoint we may be somewhere else. Or else the least counts: more is a loss, or somebody's queue.
        known.rtt = rtt if changed else min(known.rtt, rtt)
        known.mapped, known.answers = mapped, True
        self._events.append(Mapped(server, mapped, rtt, changed))
        if moved and now - self._measured_at >= REMEASURE_AFTER:
            self.measure(now)

    def _look_at_age(self, known: _Server) -> None:
        if not known.renewed and self._low > LEAST_KEEPALIVE:
            self._low, self._high = max(LEAST_KEEPALIVE, self._low / 2), max(LEAST_KEEPALIVE, self._high / 2)
            self.shortened = True

    def _note_other(self, server: Endpoint, other: Endpoint | None) -> None:
        known = self._servers[server]
        if other is not None and other != known.other:
            known.other = other
            self._events.append(OtherAddress(server, other))

    def _silent(self, server: Endpoint, reason: str, now: float, *, translated: bool = False) -> None:
        known = self._servers[server]
        was_keeping_alive = known.answers
        known.answers = False
        self._events.append(ServerSilent(server, reason, translated))
        if was_keeping_alive and any(other.answers for other in self._servers.values()):
            self._keep_alive(now)
