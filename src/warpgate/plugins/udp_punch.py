"""udp_punch: both sides send at once, so that each NAT sees its own host speak first. Usable after s + r.

First volley, from the listening sockets whose mappings are live. The initiator *primes*: packets with a TTL that ends
between the routers open its own NAT in the very tick in which the signal leaves, and die before they could claim
the tuple on a peer's router that accepts unsolicited packets (first-packet poisoning). Once the peer must have
fired, the initiator sends with full TTL.

Later volleys use fresh sockets on both sides and swapped order (the responder primes, the initiator fires on its
answer): 97.6 % of punches succeed on the first try, so a repetition must differ.

A pair of endpoints carries one datagram pipe. Where others are on those of the listening sockets, or about to be, the
initiator leaves from a fresh socket at once. That makes another pair, so the peer can stay on its listening socket: it
is told as a prediction is. Usable after one STUN round trip + s + r.

Behind a NAT that gives each destination the next port of a count, a side samples the count on a fresh socket, fires
once from it, and tells the ports that this must have led to; the other side probes those from its listening socket.
Usable after s + one STUN round trip + R when the initiator counts, s more when the responder does. Two sides that both
count go to fresh sockets at once: each samples, tells, and sends its n-th packet to the other's n-th port.
"""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import ClassVar

from warpgate.errors import AttemptFailed, NetworkError, ServiceError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.plan.counting import (
    both_count,
    counts,
    foretold,
    in_aim,
    target_to_foretell,
)
from warpgate.plan.targets import Pair, pairs
from warpgate.plan.volley import DOUBTING, PRIMING_TTL, Face, as_text, routes_between
from warpgate.plugins.base import (
    Attempt,
    Plugin,
    beside,
    fingerprinted,
    outward,
    patient,
    race,
    signal_delay,
    until,
)
from warpgate.plugins.punching import PREDICTED, VOLLEYS, Conversation, Punch, delay_told, in_step

# How much later than estimated a signal is usually heard at worst, seconds: scheduling, a busy broker.
LATE_SIGNAL = 0.025
# A volley is given its first six repeats and a long round trip before the next one, on other ports, joins it.
VOLLEY_PATIENCE = 1.5
VOLLEY_SIGNALS = 1.5  # as many where they are slow
# What else begins in this tick, a relay's client for one, takes ports too: it is let through first. Seconds.
OWN_NOISE = 0.005


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
        attempt.try_found()
        patience = self._first_volley(attempt)
        self._start_predicting(attempt, 1)
        talk = self._converse(attempt)
        return await race(
            {"checks": attempt.verified, "volleys": partial(self._initiate_volleys, attempt, talk, patience)},
            "volleys",
        )

    def _converse(self, attempt: Attempt) -> Conversation:
        talk = Conversation(attempt)
        beside(attempt, talk.read())
        beside(attempt, self._follow_predictions(attempt, talk))
        beside(attempt, self._follow_address(attempt))
        return talk

    def _first_volley(self, attempt: Attempt) -> float:
        """Returns how long it should be given before the next one; not at all when other pipes are in its place."""
        if both_count(attempt.local, attempt.remote):
            attempt.note("both NATs count: going to fresh ports at once")
            return 0.0
        wait = self._full_after(attempt, signal_delay(attempt))
        possible = _in_aim(attempt)
        targets = [pair for pair in possible if not attempt.occupied(pair.base, pair.remote)]
        if possible and not targets:
            why = "mappings are old" if attempt.renewing else "other pipes are on all known endpoints, or will be"
            attempt.note(f"{why}: going to fresh ports at once")
            return 0.0
        for pair in targets:
            if not pair.nearby:
                attempt.probe(pair.base, pair.remote, offsets=(0.0,), ttl=attempt.priming_ttl(pair.base))
            self._fire(attempt, pair, wait)
        attempt.signal(Punch(1))
        shown = ", ".join(str(pair.remote) for pair in targets) or "nothing"
        attempt.note(f"primed {shown}; full checks in {wait * 1000:.0f} ms, when the offer should be there")
        return signal_delay(attempt) + patient(attempt, VOLLEY_PATIENCE, VOLLEY_SIGNALS)

    def _full_after(self, attempt: Attempt, delay: float) -> float:
        """When to send with full TTL: not before the peer has fired, however late the signal was.

        Who primed loses nothing by waiting, since the peer's checks come in meanwhile. One whose mapping depends on
        the destination could prime for nobody but the peer's listed endpoint, so it goes at once. `delay`: of a signal.
        """
        if any(at.nat.mapping.endpoint_dependent for at in attempt.local.attachments):
            return delay
        return delay + max(LATE_SIGNAL, delay / 2)

    async def _initiate_volleys(self, attempt: Attempt, talk: Conversation, patience: float) -> Link:
        towards_listed = not patience and not attempt.renewing and _listed_will_do(attempt)
        # Earlier when the peer's NAT turns out to count as ours does: then the first one was in vain.
        await until(attempt, lambda: both_count(attempt.local, attempt.remote), patience)
        for volley in range(2, VOLLEYS + 1):
            self._start_predicting(attempt, volley)
            faces = await _fresh(attempt)
            if why := self.unsuitable(attempt.local, attempt.remote):  # known since the first one
                raise AttemptFailed(why)
            if volley == 2 and towards_listed:
                self._fire_towards_listed(attempt, faces)
            else:
                try:
                    peers = await talk.exchange(volley, faces)
                except AttemptFailed as error:
                    attempt.note(f"volley {volley}: {error}")
                    continue
                for base, peer in routes_between(faces, peers):
                    attempt.probe(base, peer)
            await asyncio.sleep(patient(attempt, VOLLEY_PATIENCE, VOLLEY_SIGNALS))
        await asyncio.sleep(attempt.config.timing.check_offsets[-1])
        raise AttemptFailed(f"{VOLLEYS} volleys, the later ones from fresh ports, and nothing came through")

    def _fire_towards_listed(self, attempt: Attempt, faces: list[Face]) -> None:
        """From fresh ports to the peer's listening ones, which fire back as soon as they are told."""
        wait = self._full_after(attempt, signal_delay(attempt))
        for face, pair in itertools.product(faces, _in_aim(attempt)):
            if pair.base.ip == face.local.ip and not pair.nearby:
                attempt.probe(face.local, pair.remote, offsets=(0.0,), ttl=attempt.priming_ttl(face.local))
                attempt.probe(face.local, pair.remote, offsets=_later(attempt, wait))
        endpoints = as_text(faces)
        attempt.signal(Punch(PREDICTED, endpoints))
        attempt.note(f"from fresh ports to the peer's listening ones: {', '.join(endpoints)}")

    async def _follow_address(self, attempt: Attempt) -> None:
        """The peer's endpoints have changed, or become known: it has already sent to us from the new ones."""
        while True:
            await attempt.remote_changed()
            for pair in _in_aim(attempt):
                self._fire(attempt, pair, 0.0)

    # -- responding ----------------------------------------------------------------------------------------------

    async def respond(self, attempt: Attempt) -> Link:
        waiting = beside(attempt, attempt.verified())
        talk = self._converse(attempt)
        for volley in range(1, VOLLEYS + 1):
            message = await talk.volley()
            self._start_predicting(attempt, volley)
            if message.endpoints:
                await self._respond_later(attempt, talk, message)
            else:
                self._respond_first(attempt)
        return await waiting

    def _respond_first(self, attempt: Attempt) -> None:
        targets = _in_aim(attempt)
        for pair in targets:
            self._fire(attempt, pair, 0.0)
        shown = ", ".join(str(pair.remote) for pair in targets)
        attempt.note(f"fired at {shown or 'nothing: none of the initiator endpoints may be tried from here'}")

    async def _respond_later(self, attempt: Attempt, talk: Conversation, message: Punch) -> None:
        try:
            peers = talk.asked(message)
        except AttemptFailed as error:
            attempt.note(f"volley {message.volley}: {error}")
            return
        faces = await _fresh(attempt)
        wait = self._full_after(attempt, delay_told(attempt, message))
        for base, peer in routes_between(faces, in_step(attempt, peers, faces)):
            ttl = PRIMING_TTL if message.volley == DOUBTING else attempt.priming_ttl(base)
            attempt.probe(base, peer, offsets=(0.0,), ttl=ttl)
            attempt.probe(base, peer, offsets=_later(attempt, wait))
        talk.answer(message, faces)

    # -- predicting ----------------------------------------------------------------------------------------------

    def _start_predicting(self, attempt: Attempt, volley: int) -> None:
        beside(attempt, self._predict(attempt, volley))

    async def _predict(self, attempt: Attempt, volley: int) -> None:
        """Where our NAT counts and the peer's may filter by port: sample, fire once, tell.

        After a volley has failed, whatever was measured of the peer's filter.
        """
        await fingerprinted(attempt)
        try:
            for mine in attempt.local.attachments:
                outside = attempt.pairs(Transport.UDP)
                target = target_to_foretell(outside, mine, attempt.remote, certain=volley > 1)
                if counts(mine) and target is not None:
                    await self._fire_predicted(attempt, mine.nat.assignment.step, target)
        except (ServiceError, NetworkError) as error:
            attempt.note(f"no prediction: {error}")

    async def _fire_predicted(self, attempt: Attempt, known_step: int, target: Pair) -> None:
        base = await attempt.open_udp(target.base)
        seen = await attempt.samples(base)
        # Makes the mapping that we foretell.
        attempt.probe(base, target.remote, offsets=(0.0,), ttl=attempt.priming_ttl(base))
        attempt.probe(base, target.remote, offsets=_later(attempt, signal_delay(attempt) + LATE_SIGNAL))
        endpoints = tuple(map(str, foretold(seen, known_step)))
        attempt.signal(Punch(PREDICTED, endpoints))
        attempt.note(f"our NAT counts: fired at {target.remote}, from {endpoints[0]} or soon after")

    async def _follow_predictions(self, attempt: Attempt, talk: Conversation) -> None:
        offsets = attempt.config.timing.check_offsets[:8:2]
        async for peers in talk.predictions(VOLLEYS):  # an honest peer predicts once a volley
            for base in dict.fromkeys(pair.base for pair in attempt.pairs(Transport.UDP) if not pair.nearby):
                for peer in peers:
                    if peer.family is base.family:
                        attempt.probe(base, peer, offsets=offsets)
            attempt.note(f"probing predicted endpoints: {', '.join(map(str, peers))}")

    def _fire(self, attempt: Attempt, pair: Pair, wait: float) -> None:
        attempt.probe(pair.base, pair.remote, offsets=_later(attempt, 0.0 if pair.nearby else wait))


def _later(attempt: Attempt, wait: float) -> tuple[float, ...]:
    return tuple(wait + offset for offset in attempt.config.timing.check_offsets)


def _listed_will_do(attempt: Attempt) -> bool:
    """Whether packets between a fresh port and the other side's listening one are seen where each side expects them."""
    return all(at.nat.mapping.predictable for at in (*attempt.local.attachments, *attempt.remote.attachments))


def _in_aim(attempt: Attempt) -> list[Pair]:
    return in_aim(attempt.pairs(Transport.UDP), attempt.local, attempt.remote)


async def _fresh(attempt: Attempt) -> list[Face]:
    """New sockets on the interfaces that face the peer, and where the peer will see them."""
    bases = [await attempt.open_udp(near) for near in outward(attempt, Transport.UDP)]
    if not bases:
        raise AttemptFailed("no interface of ours faces the peer's network")
    return [Face(base, await _will_be_seen(attempt, base)) for base in bases]


async def _will_be_seen(attempt: Attempt, base: Endpoint) -> tuple[Endpoint, ...]:
    counting = [at for at in attempt.local.attachments if at.host == base.ip and counts(at)]
    if counting:
        await asyncio.sleep(OWN_NOISE)
        try:
            return foretold(await attempt.samples(base), counting[0].nat.assignment.step)
        except (ServiceError, NetworkError) as error:
            attempt.note(f"no prediction: {error}")
    return (await _reflexive(attempt, base),)


async def _reflexive(attempt: Attempt, base: Endpoint) -> Endpoint:
    try:
        return await attempt.reflexive(base)
    except (ServiceError, NetworkError) as error:
        # Most NATs preserve the port where they can (RFC 4787 section 4.2.1): the best guess without a server.
        known = next((at.reflexive for at in attempt.local.attachments if at.host == base.ip), None)
        attempt.note(f"{error}; assuming that our router preserves port {base.port}")
        return Endpoint(base.ip if known is None else known, base.port)
