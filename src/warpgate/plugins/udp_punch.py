"""udp_punch: both sides send at once, so that each NAT sees its own host speak first. Usable after s + r.

First volley, from the listening sockets whose mappings are live. The initiator *primes*: packets with a TTL that ends
between the routers open its own NAT in the very tick in which the signal leaves, and die before they could claim
the tuple on a peer's router that accepts unsolicited packets (first-packet poisoning). Once the peer must have
fired, the initiator sends with full TTL.

Later volleys use fresh sockets on both sides and swapped order (the responder primes, the initiator fires on its
answer): 97.6 % of punches succeed on the first try, so a repetition must differ.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from warpgate.errors import AttemptFailed, NetworkError, ServiceError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.net.race import RaceLost, first_of
from warpgate.plan.targets import Pair, pairs
from warpgate.plugins.base import Attempt, Plugin, outward, register

# Passes the own router, dies at the provider's first hop: 20/20 punches against accepting routers, 0/20 without.
PRIMING_TTL = 2
# Brokers without a measured round trip: what two far ends over a busy public broker need.
UNKNOWN_SIGNAL_DELAY = 0.15
# How much later than estimated a signal is usually heard at worst, seconds: scheduling, a busy broker.
LATE_SIGNAL = 0.025
# No broker that still serves is slower; a peer that says more is not believed.
LONGEST_DELAY = 2.0
# A volley is given its first six repeats and a long round trip before the next one, on other ports, joins it.
VOLLEY_PATIENCE = 1.5
VOLLEYS = 4


@dataclass(frozen=True, slots=True)
class Punch:
    """`endpoints`: reflexive endpoints of fresh sockets as text; none for the first volley (the address has them).

    `delay`: the sender's best estimate of a signal's one-way time in seconds, negative when it has none.
    """

    volley: int
    endpoints: tuple[str, ...] = ()
    delay: float = -1.0


@register
class UdpPunch(Plugin):
    name: ClassVar[str] = "udp_punch"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.UDP})
    message_type: ClassVar[type | None] = Punch

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        found = pairs(local, remote, Transport.UDP)
        if not found and not remote.brokers:  # with a broker the peer's answer may know better
            return "no UDP endpoint of the peer's can be tried from here"
        families = {pair.remote.family for pair in found}
        for side, address in (("our", local), ("the peer's", remote)):
            blocked = [at.nat.udp_blocked for at in address.attachments if at.family in families]
            if blocked and all(blocked):
                return f"{side} network blocks UDP"
        return None

    # -- initiating ----------------------------------------------------------------------------------------------

    async def initiate(self, attempt: Attempt) -> Link:
        patience = self._first_volley(attempt)
        try:
            return await first_of(
                {"checks": attempt.verified, "volleys": partial(self._initiate_volleys, attempt, patience)},
                Link.abort,
                leader="volleys",
            )
        except RaceLost as lost:
            raise AttemptFailed(str(lost)) from None

    def _first_volley(self, attempt: Attempt) -> float:
        """Returns how long it should be given before the next one; not at all when other pipes are in its place."""
        wait = self._full_after(attempt)
        possible = attempt.pairs(Transport.UDP)
        targets = [pair for pair in possible if not attempt.occupied(pair.base, pair.remote)]
        if possible and not targets:
            attempt.note("other pipes are on all known endpoints: going to fresh ports at once")
            return 0.0
        for pair in targets:
            if not pair.nearby:
                attempt.probe(pair.base, pair.remote, offsets=(0.0,), ttl=PRIMING_TTL)
            self._fire(attempt, pair, wait)
        attempt.signal(Punch(1))
        shown = ", ".join(str(pair.remote) for pair in targets) or "nothing"
        attempt.note(f"primed {shown}; full checks in {wait * 1000:.0f} ms, when the offer should be there")
        return _delay(attempt) + VOLLEY_PATIENCE

    def _full_after(self, attempt: Attempt, measured: float = -1.0) -> float:
        """When to send with full TTL: not before the peer has fired, however late the signal was.

        Who primed loses nothing by waiting, since the peer's checks come in meanwhile. One whose mapping depends on
        the destination could prime for nobody but the peer's listed endpoint, so it goes at once. `measured`: what
        the peer says of the delay.
        """
        delay = measured if 0.0 <= measured <= LONGEST_DELAY else _delay(attempt)
        if any(at.nat.mapping.endpoint_dependent for at in attempt.local.attachments):
            return delay
        return delay + max(LATE_SIGNAL, delay / 2)

    async def _initiate_volleys(self, attempt: Attempt, patience: float) -> Link:
        refreshing = asyncio.ensure_future(self._follow_address(attempt))
        attempt.stack.callback(refreshing.cancel)
        await asyncio.sleep(patience)
        for volley in range(2, VOLLEYS + 1):
            bases, endpoints = await _fresh(attempt)
            delay = attempt.signal_delay
            attempt.signal(Punch(volley, endpoints, -1.0 if delay is None else delay))
            attempt.note(f"volley {volley} from fresh ports: {', '.join(endpoints)}")
            peers = _parse(await self._answer(attempt, volley))
            attempt.check_targets(peers)
            for base in bases:
                for peer in peers:
                    if peer.family is base.family:
                        attempt.probe(base, peer)
            await asyncio.sleep(VOLLEY_PATIENCE)
        await asyncio.sleep(attempt.config.timing.check_offsets[-1])
        raise AttemptFailed(f"{VOLLEYS} volleys, the later ones from fresh ports, and nothing came through")

    async def _answer(self, attempt: Attempt, volley: int) -> Punch:
        while True:
            message = await attempt.receive()
            if isinstance(message, Punch) and message.volley == volley:
                return message

    async def _follow_address(self, attempt: Attempt) -> None:
        """The peer's endpoints have changed, or become known: it has already sent to us from the new ones."""
        while True:
            await attempt.remote_changed()
            for pair in attempt.pairs(Transport.UDP):
                self._fire(attempt, pair, 0.0)

    # -- responding ----------------------------------------------------------------------------------------------

    async def respond(self, attempt: Attempt) -> Link:
        waiting = asyncio.ensure_future(attempt.verified())
        attempt.stack.callback(waiting.cancel)
        refreshing = asyncio.ensure_future(self._follow_address(attempt))
        attempt.stack.callback(refreshing.cancel)
        volleys = 0
        while volleys < VOLLEYS:
            message = await attempt.receive()
            volleys += 1
            if not isinstance(message, Punch) or not message.endpoints:
                self._respond_first(attempt)
            else:
                await self._respond_later(attempt, message)
        return await waiting

    def _respond_first(self, attempt: Attempt) -> None:
        targets = attempt.pairs(Transport.UDP)
        for pair in targets:
            self._fire(attempt, pair, 0.0)
        shown = ", ".join(str(pair.remote) for pair in targets)
        attempt.note(f"fired at {shown or 'nothing: none of the initiator endpoints may be tried from here'}")

    async def _respond_later(self, attempt: Attempt, message: Punch) -> None:
        peers = _parse(message)
        attempt.check_targets(peers)
        bases, endpoints = await _fresh(attempt)
        wait = self._full_after(attempt, message.delay)
        for base in bases:
            for peer in peers:
                if peer.family is base.family:
                    attempt.probe(base, peer, offsets=(0.0,), ttl=PRIMING_TTL)
                    attempt.probe(base, peer, offsets=_later(attempt, wait))
        attempt.signal(Punch(message.volley, endpoints))
        attempt.note(f"volley {message.volley} from fresh ports: {', '.join(endpoints)}")

    def _fire(self, attempt: Attempt, pair: Pair, wait: float) -> None:
        attempt.probe(pair.base, pair.remote, offsets=_later(attempt, 0.0 if pair.nearby else wait))


def _delay(attempt: Attempt) -> float:
    return UNKNOWN_SIGNAL_DELAY if attempt.signal_delay is None else attempt.signal_delay


def _later(attempt: Attempt, wait: float) -> tuple[float, ...]:
    return tuple(wait + offset for offset in attempt.config.timing.check_offsets)


async def _fresh(attempt: Attempt) -> tuple[list[Endpoint], tuple[str, ...]]:
    """New sockets on the interfaces that face the peer, and what the outside sees of them."""
    bases = [await attempt.open_udp(near) for near in outward(attempt, Transport.UDP)]
    if not bases:
        raise AttemptFailed("no interface of ours faces the peer's network")
    return bases, tuple([str(await _reflexive(attempt, base)) for base in bases])


async def _reflexive(attempt: Attempt, base: Endpoint) -> Endpoint:
    try:
        return await attempt.reflexive(base)
    except (ServiceError, NetworkError) as error:
        # Most NATs preserve the port where they can (RFC 4787 section 4.2.1): the best guess without a server.
        known = next((at.reflexive for at in attempt.local.attachments if at.host == base.ip), None)
        attempt.note(f"{error}; assuming that our router preserves port {base.port}")
        return Endpoint(base.ip if known is None else known, base.port)


def _parse(message: Punch) -> list[Endpoint]:
    return [Endpoint.parse(text) for text in message.endpoints[:8]]
