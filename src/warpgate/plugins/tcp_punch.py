"""tcp_punch: simultaneous open (RFC 9293 section 3.5) through two NATs. Usable after s + 2 R.

Both sides connect from their listening port, whose mapping is kept alive, in the same instant: the responder when the
offer arrives, the initiator after the time that the offer should need. With |skew| < r each SYN finds the other's
NAT open, so that not even a router that answers unsolicited SYNs with RST, or accepts them, sees one.

The listener stays on the port all the time, so a SYN that comes late is accepted instead of reset.

A later volley uses fresh ports on both sides and measured times: the initiator sends its ports, the responder answers
with its own. Where |skew| < r is out of reach, it takes an order instead: in the second volley the responder connects
at once, with a first SYN that dies behind its own router (see `Network.dial_tcp`), and the initiator's SYN then finds
that router open and the connection half made. In the third the initiator is the one who primes. In the fourth, for
those who are behind two routers, both fire when the answer should be there.

An earlier punch that was broken off leaves our router waiting for the answer to its SYN. A SYN of the peer's that comes
in by that before our next one has left is accepted by our listener, whose answer is none to the old SYN: Linux's router
drops it, and holds both up. A responder that has such a port says so, by a Punch without endpoints, and an initiator
goes on from fresh ports when its first volley has not come through by then.

Behind a NAT that gives each destination the next port of a count, a side samples the count by STUN over TCP and tells
the ports that its next SYN will leave from; when that should be heard both fire, the other side from its listening
port. Usable after s + 4 R when the initiator counts, s more when the responder does. Two sides that both count go to
fresh ports at once: each samples, tells, and sends its n-th SYN to the other's n-th port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from warpgate.errors import AttemptFailed, NetworkError, ServiceError, WarpgateError
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.net.network import TcpStream
from warpgate.net.race import RaceLost, first_of
from warpgate.plan.counting import (
    both_count,
    counts,
    foretold,
    in_aim,
    may_count,
    target_to_foretell,
)
from warpgate.plan.targets import pairs
from warpgate.plan.volley import (
    Face,
    Route,
    as_text,
    lag_behind_priming,
    primes,
    routes_again,
    routes_between,
    tcp_is_elsewhere,
)
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

# Long enough for the kernel's first SYN retransmission (1 s, RFC 6298) to pass a NAT that the other side opened late.
VOLLEY_PATIENCE = 1.6
# Where signals take long, packets do: SYNs and HELLOs cross within so many times the way of a signal.
VOLLEY_SIGNALS = 3.0
PREDICTIONS = 2  # that are listened to: an honest peer makes one
AGAIN_AFTER = 0.1  # the peer's SYN is out by then, unless its machine is busy or the estimate of a signal bad


class TcpPunch(Plugin):
    name: ClassVar[str] = "tcp_punch"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})
    message_type: ClassVar[type | None] = Punch

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        if remote.brokers or any(not pair.nearby for pair in pairs(local, remote, Transport.TCP)):
            return None  # with a broker the peer's answer may know more endpoints than its address does
        return "no TCP endpoint of the peer's outside our own network is known"

    # -- initiating ----------------------------------------------------------------------------------------------

    async def initiate(self, attempt: Attempt) -> Link:
        if not _only_fresh_ports(attempt):
            attempt.signal(Punch(1))
        fire_at = attempt.now() + signal_delay(attempt)
        tried: set[Route] = set()
        talk = Conversation(attempt)
        beside(attempt, talk.read())
        return await race(
            {
                "inbound": attempt.inbound,
                "volleys": partial(self._initiate_volleys, attempt, talk, fire_at, tried),
                "refreshed": partial(_follow_address, attempt, tried),
                "predicting": partial(_predict, attempt),
                "predicted": partial(_follow_predictions, attempt, talk),
            },
            "volleys",
        )

    async def _initiate_volleys(self, attempt: Attempt, talk: Conversation, fire_at: float, tried: set[Route]) -> Link:
        try:
            return await self._initiate_first(attempt, talk, fire_at, tried)
        except AttemptFailed as error:
            attempt.note(f"first volley: {error}")
        for volley in range(2, VOLLEYS + 1):
            faces = await _fresh(attempt)
            try:
                peers = await talk.exchange(volley, faces)
                return await _fire(attempt, routes_between(faces, peers), prime=primes(volley, initiator=True))
            except AttemptFailed as error:
                attempt.note(f"volley {volley}: {error}")
        raise AttemptFailed(f"{VOLLEYS} volleys, the later ones from fresh ports, and nothing came through")

    async def _initiate_first(self, attempt: Attempt, talk: Conversation, fire_at: float, tried: set[Route]) -> Link:
        """AttemptFailed when it is over, or as soon as `_only_fresh_ports` can do."""
        volley = beside(attempt, _first_volley(attempt, tried, fire_at))
        hopeless = beside(attempt, until(attempt, partial(_only_fresh_ports, attempt)))
        spoilt = beside(attempt, talk.volley())
        await asyncio.wait({volley, hopeless, spoilt}, return_when=asyncio.FIRST_COMPLETED)
        if spoilt.done():
            await asyncio.wait({volley}, timeout=signal_delay(attempt))
        hopeless.cancel()
        spoilt.cancel()
        if volley.done():
            return volley.result()
        volley.cancel()
        raise AttemptFailed("the listening ports will not do: going to fresh ones at once")

    # -- responding ----------------------------------------------------------------------------------------------

    async def respond(self, attempt: Attempt) -> Link:
        talk = Conversation(attempt)
        return await race(
            {
                "reading": talk.read,
                "volleys": partial(self._respond_volleys, attempt, talk),
                "predicting": partial(_predict, attempt),
                "predicted": partial(_follow_predictions, attempt, talk),
            },
            "reading",
        )

    async def _respond_volleys(self, attempt: Attempt, talk: Conversation) -> Link:
        """A volley that failed is followed by whatever the initiator asks for next."""
        volley: asyncio.Task[Link] | None = None
        latest = 0
        for _ in range(VOLLEYS):
            message = await self._next(attempt, talk, volley)
            if not isinstance(message, Punch):
                return message
            if message.volley <= latest:  # overtaken on its way
                continue
            latest = message.volley
            if volley is not None:
                volley.cancel()
            volley = beside(attempt, self._respond_volley(attempt, talk, message))
        if volley is None:
            raise AttemptFailed("nothing was asked for")
        return await volley

    async def _next(self, attempt: Attempt, talk: Conversation, volley: asyncio.Task[Link] | None) -> Punch | Link:
        """The link of the volley in progress, or the initiator's next message."""
        receiving = beside(attempt, talk.volley())
        if volley is not None:
            await asyncio.wait({receiving, volley}, return_when=asyncio.FIRST_COMPLETED)
            if volley.done():
                if (error := volley.exception()) is None:
                    receiving.cancel()
                    return volley.result()
                attempt.note(str(error))
        return await receiving

    async def _respond_volley(self, attempt: Attempt, talk: Conversation, message: Punch) -> Link:
        if not message.endpoints:
            tried: set[Route] = set()
            if _spoilt(attempt):
                attempt.signal(Punch(message.volley))
                attempt.note("our router may hold an earlier attempt by these ports: fresh ones are better")
            runners = {
                "volley": partial(_first_volley, attempt, tried, attempt.now()),
                "refreshed": partial(_follow_address, attempt, tried),
            }
            return await first_of(runners, Link.abort)
        peers = talk.asked(message)
        faces = await _fresh(attempt)
        talk.answer(message, faces)
        fire_at = attempt.now() + delay_told(attempt, message)
        peers = in_step(attempt, peers, faces)
        routes = routes_between(faces, peers)
        if primes(message.volley, initiator=False):
            try:
                return await _fire(attempt, routes, prime=True)
            except AttemptFailed as error:
                attempt.note(f"primed: {error}")
        await asyncio.sleep(fire_at + lag_behind_priming(message.volley) - attempt.now())
        return await _fire(attempt, routes)


def _only_fresh_ports(attempt: Attempt) -> bool:
    """The listening ports are not where the other side believes them to be, or carry another connection to it."""
    if not attempt.alone or attempt.renewing or both_count(attempt.local, attempt.remote) or _spoilt(attempt):
        return True
    return tcp_is_elsewhere(attempt.local) or tcp_is_elsewhere(attempt.remote)


def _spoilt(attempt: Attempt) -> bool:
    return any(attempt.half_open(pair.base, pair.remote) for pair in attempt.pairs(Transport.TCP) if not pair.nearby)


# -- the first volley --------------------------------------------------------------------------------------------


async def _first_volley(attempt: Attempt, tried: set[Route], fire_at: float) -> Link:
    """From the listening ports to what the peer's address lists, as far as not tried yet."""
    await asyncio.sleep(fire_at - attempt.now())
    candidates = in_aim(attempt.pairs(Transport.TCP), attempt.local, attempt.remote)
    routes = [(pair.base, pair.remote) for pair in candidates if not pair.nearby]
    fresh = [route for route in routes if route not in tried]
    tried.update(fresh)
    attempt.note(f"fired at {', '.join(str(remote) for _, remote in fresh) or 'nothing'}")
    if not fresh:  # what the peer says next may change that
        await asyncio.sleep(_patience(attempt))
    return await _fire(attempt, fresh, again=routes_again(fresh, attempt.local) if attempt.initiator else ())


async def _follow_address(attempt: Attempt, tried: set[Route]) -> Link:
    """The peer's endpoints have changed, or become known: it fires at us already."""
    while True:
        await attempt.remote_changed()
        try:
            return await _first_volley(attempt, tried, attempt.now())
        except AttemptFailed as error:
            attempt.note(f"after the peer's new address: {error}")


# -- predicting --------------------------------------------------------------------------------------------------


async def _predict(attempt: Attempt) -> Link:
    """Where our NAT counts and the peer's may filter by port: sample, tell, and connect when that should be heard.

    Not at once, or the peer's router could answer with RST: the peer's own SYN must have opened it.
    """
    await fingerprinted(attempt)
    for mine in attempt.local.attachments:
        target = target_to_foretell(attempt.pairs(Transport.TCP), mine, attempt.remote, certain=False)
        if may_count(mine) and target is not None:
            return await _fire_predicted(attempt, mine, target.base, target.remote)
    raise AttemptFailed("nothing to predict: no NAT of ours that counts, or none of the peer's that minds")


async def _fire_predicted(attempt: Attempt, mine: Attachment, near: Endpoint, target: Endpoint) -> Link:
    try:
        face = await _foretold_face(attempt, mine, near)
    except (ServiceError, NetworkError) as error:
        raise AttemptFailed(f"no prediction: {error}") from None
    delay = signal_delay(attempt)
    fire_at = attempt.now() + delay
    attempt.signal(Punch(PREDICTED, as_text([face]), delay))
    attempt.note(f"our NAT counts: connecting to {target} from {face.seen[0]} or soon after")
    await asyncio.sleep(fire_at - attempt.now())
    return await _fire(attempt, [(face.local, target)])


async def _follow_predictions(attempt: Attempt, talk: Conversation) -> Link:
    """The peer's next SYN leaves from one of the endpoints that it names: connect to all of them at once."""
    async for peers in talk.predictions(PREDICTIONS):
        bases = dict.fromkeys(pair.base for pair in attempt.pairs(Transport.TCP) if not pair.nearby)
        attempt.note(f"connecting to predicted endpoints: {', '.join(map(str, peers))}")
        try:
            return await _fire(
                attempt, [(base, peer) for base in bases for peer in peers if peer.family is base.family]
            )
        except WarpgateError as error:
            attempt.note(f"predicted endpoints: {error}")
    raise AttemptFailed("none of the predicted endpoints answered")


async def _foretold_face(attempt: Attempt, mine: Attachment, near: Endpoint) -> Face:
    """A fresh port behind a NAT that counts, and where its next connection will be seen. ServiceError."""
    seen = await attempt.samples_tcp(near)
    ports = foretold(seen, mine.nat.assignment.step)
    if not ports:
        raise ServiceError("our NAT does not count over TCP")
    return Face(seen[-1].local, ports)


async def _fire(attempt: Attempt, routes: list[Route], prime: bool = False, again: Sequence[Route] = ()) -> Link:
    """Connect along all routes in one tick, in this order, and along `again` a little later; AttemptFailed when none
    is through in time.
    """
    if not routes:
        raise AttemptFailed("no endpoint to connect to")
    late = attempt.now() + AGAIN_AFTER
    runners = {f"{base} -> {peer}": partial(_dial, attempt, peer, base, prime) for base, peer in routes}
    runners |= {f"{base} -> {peer}": partial(_dial, attempt, peer, base, False, late) for base, peer in again}
    patience = _patience(attempt)
    try:
        async with asyncio.timeout(patience):
            return await first_of(runners, Link.abort)
    except TimeoutError:
        raise AttemptFailed(f"no connection within {patience:.1f} s") from None
    except RaceLost as lost:
        raise AttemptFailed(str(lost)) from None


def _patience(attempt: Attempt) -> float:
    """Seconds for one volley, as slow as the path to the peer may be."""
    return patient(attempt, VOLLEY_PATIENCE, VOLLEY_SIGNALS)


async def _dial(attempt: Attempt, remote: Endpoint, local: Endpoint, prime: bool, not_before: float = 0.0) -> Link:
    """The responder returns none: several may come through, and the initiator says which is the one.

    It may say so before the responder knows: where the HELLO of one was lost, that of the other is proof enough for the
    initiator. So at the responder the end of a volley ends the dials, but no connection that is there.
    """
    if not_before:
        await asyncio.sleep(not_before - attempt.now())
    first_ttl = _priming_ttl(attempt, remote, local) if prime else None
    if attempt.initiator:
        return await attempt.dial(remote, local, first_ttl)
    proving = beside(attempt, _keep(attempt, await attempt.connect(remote, local, first_ttl)))
    await asyncio.wait({proving})
    proving.result()
    await asyncio.sleep(_patience(attempt))
    raise AttemptFailed("it was not chosen")


def _priming_ttl(attempt: Attempt, remote: Endpoint, local: Endpoint) -> int:
    """What is turned back at an outer NAT that both sides are behind has to open that one as well: dead before it, it
    would have to wait for its repetition, a second later. The peer's own router is beyond.
    """
    shared = any(remote.ip in at.outside for at in attempt.local.attachments)
    return attempt.priming_ttl(local) + (shared and not attempt.primes_surely(local))


async def _keep(attempt: Attempt, stream: TcpStream) -> None:
    """As soon as the peer has proved itself on it, which has time of its own."""
    attempt.keep(await attempt.adopt(stream))


async def _fresh(attempt: Attempt) -> list[Face]:
    """New ports on the interfaces that face the peer; we listen on them too."""
    faces = []
    for near in outward(attempt, Transport.TCP):
        try:
            face = await _fresh_face(attempt, near)
        except (ServiceError, NetworkError) as error:
            attempt.note(f"no fresh port on {near.ip}: {error}")
            continue
        try:
            await attempt.listen_tcp(face.local)
        except WarpgateError as error:
            attempt.note(f"not listening on {face.local}: {error}")
        faces.append(face)
    if not faces:
        raise AttemptFailed("no fresh port whose outside endpoint is known")
    return faces


async def _fresh_face(attempt: Attempt, near: Endpoint) -> Face:
    counting = [at for at in attempt.local.attachments if at.host == near.ip and counts(at)]
    if counting:
        try:
            return await _foretold_face(attempt, counting[0], near)
        except (ServiceError, NetworkError) as error:
            attempt.note(str(error))
    local, mapped = await attempt.reflexive_tcp(near)
    return Face(local, (mapped,))
