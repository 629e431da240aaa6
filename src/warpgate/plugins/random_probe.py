"""random_probe: the birthday technique, where one NAT gives each destination an external port that cannot be known.

The side behind that NAT *spreads*: many sockets, all of which send to one endpoint of the peer's. The other side
*searches*: from that endpoint it probes ports in random order, none twice, until one is a mapping of the spread
(`plan/birthday.py` has the arithmetic). Where both NATs do so, each to a few ports, both sides *meet* (`meeting.py`).
The initiator's one message starts both:

    initiator spreads    OPENED at once; the responder searches when it arrives                    s, then probes
    initiator searches   OPEN; the responder spreads and answers OPENED with the range of ports    2 s, then probes
    both meet            MEET with a port; the responder answers MEET with one of its own          2 s, then checks

When either side is seen at another address outside meanwhile, as a router is after a new dial-in, all that was sent was
in vain: the initiator begins anew with what is known then.

The spread is primed like every punch: its first packets die before the peer's router, where they could claim tuples.
Routers suffer from this strategy, so it starts when nothing simpler can work or has; the core keeps the budgets.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import ClassVar, NoReturn

from warpgate.errors import AddressError, AttemptFailed
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.nat import Assignment, Filtering, NatProfile
from warpgate.net.link import Link
from warpgate.plan.birthday import (
    Guessing,
    Part,
    guessing,
    sockets_for,
    why_not,
)
from warpgate.plan.classify import MAX_GAP
from warpgate.plan.counting import being_measured
from warpgate.plan.predict import FIRST_PORT, LAST_PORT, PortRange, of_parity, ports_to_guess
from warpgate.plugins.base import (
    MEASURING,
    Attempt,
    Plugin,
    RandomPunch,
    beside,
    news,
    patient,
    race,
    signal_delay,
    until,
)
from warpgate.plugins.guesses import (
    KNOWING_PATIENCE,
    MEET,
    OPEN,
    OPENED,
    REFUSED,
    Anew,
    Guess,
    answer,
    elsewhere,
    endpoint_of,
    measured,
    open_sockets,
    parse,
    refusal,
    stop,
    until_either,
)
from warpgate.plugins.meeting import answer_meeting, initiate_meeting
from warpgate.plugins.router_care import RouterCare, look_after_router

# A carrier's NAT may be further away than the priming goes: later packets go further, those with full TTL last, since
# they may claim tuples on the peer's router. (Seconds after the priming, TTL.) Where it was measured how far is enough,
# none goes further.
LATER = ((1.0, 5), (6.0, None))
# Once more where our router lost some of them. (Seconds after the priming.)
ONCE_MORE = 12.0
# Plain punches are done after a signal and a round trip, which is about as long as one over a broker; then an early
# repeat of a lost packet.
SIMPLER_SIGNALS = 3
SIMPLER_REPEAT = 0.05
# udp_punch predicts a NAT that counts, and passes a filter that does not look at ports. Guessing takes over when others
# behind the NAT make the first hopeless, or the filter was measured wrongly (a port with flows of an earlier program).
LIKELY_PATIENCE = 3.0, 4.0  # seconds, and signals where those are slow
SAMPLING = 1.0
# One, and what is begun anew because of another address outside.
SEARCHES = 3
# How long the last probe may take to be answered.
LAST_HIT = 1.0, 2.0
# How often the spread waits for its router: then its sockets are tried, since those that do have mappings need it.
SPREAD_WAITS = 2
# A full table is noticed so late that this is sent in vain: two seconds at the rate that was halved then.
DOUBTFUL = 2 * 2.0


class RandomProbe(Plugin):
    name: ClassVar[str] = "random_probe"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.UDP})
    searches: ClassVar[bool] = True
    message_type: ClassVar[type | None] = Guess

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        return why_not(local, remote)

    # -- initiating ----------------------------------------------------------------------------------------------

    async def initiate(self, attempt: Attempt) -> Link:
        found = attempt.try_found()
        beside(attempt, _try_found_meanwhile(attempt))
        return await race({"checks": attempt.verified, "guessing": partial(self._initiate, attempt, found)}, "guessing")

    async def _initiate(self, attempt: Attempt, found: bool) -> Link:
        if attempt.renewing:
            raise AttemptFailed("no search for a path in place of one that works")
        part = await _worth_guessing(attempt, found)
        for _ in range(SEARCHES - 1):
            searching, moved = beside(attempt, self._begin(attempt, part)), beside(attempt, elsewhere(attempt, part))
            await asyncio.wait({searching, moved}, return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
            if searching.done():
                searching.result()
            await stop(searching)
            attempt.note("one side has another address outside: beginning anew")
            part = await _worth_guessing(attempt, found=False)
        await self._begin(attempt, part)

    async def _begin(self, attempt: Attempt, part: Guessing) -> NoReturn:
        """AttemptFailed when all was in vain."""
        if part.part is Part.SPREAD:
            target = endpoint_of(part.theirs.reflexive_endpoint(Transport.UDP))
            await until_either(attempt, _spread(attempt, part, target), refusal(attempt))
        elif part.part is Part.SEARCH:
            target = endpoint_of(part.mine.reflexive_endpoint(Transport.UDP))
            attempt.signal(Guess(OPEN, str(target)))
            attempt.note(f"asked the peer to open many sockets towards {target}")
            while (opened := await answer(attempt, OPENED)).target != str(target):
                pass  # to what was asked before
            await until_either(attempt, _search(attempt, opened), refusal(attempt))
        else:
            await initiate_meeting(attempt, part)
        await asyncio.sleep(patient(attempt, *LAST_HIT))
        raise AttemptFailed("all probes are sent, and none hit")

    # -- responding ----------------------------------------------------------------------------------------------

    async def respond(self, attempt: Attempt) -> Link:
        """What was asked for; the initiator takes the link."""
        message = await attempt.receive()
        try:
            if not isinstance(message, Guess):
                raise AttemptFailed("a message that is none of ours")
            for _ in range(SEARCHES):
                try:
                    await self._act(attempt, message)
                    break
                except Anew as anew:
                    message = anew.message
        except AttemptFailed as error:
            attempt.signal(Guess(REFUSED, reason=str(error)[:200]))
            raise
        return await attempt.verified()

    async def _act(self, attempt: Attempt, message: Guess) -> None:
        if message.kind == MEET:
            await answer_meeting(attempt, message)
        else:
            ours = self._spread_for if message.kind == OPEN else _search
            await until_either(attempt, ours(attempt, message), answer(attempt, REFUSED))

    async def _spread_for(self, attempt: Attempt, message: Guess) -> None:
        target = parse(message.target)
        attempt.admit([target])
        part = await measured(attempt, Part.SPREAD)
        if part is None or target.family is not part.mine.family:
            raise AttemptFailed(
                "our NAT is not known to map each destination to another port: many sockets would not help"
            )
        await _spread(attempt, part, target)


async def _try_found_meanwhile(attempt: Attempt) -> NoReturn:
    """Of several searches one is over first: streams go by the pair that it has found."""
    while True:
        await attempt.knowledge_changed()
        attempt.try_found()


async def _worth_guessing(attempt: Attempt, found: bool) -> Guessing:
    """Waits until nothing simpler can be hoped for. AttemptFailed when it does not become clear that this can.

    `found`: pairs found before are being tried, which is simpler, too.
    """
    began = attempt.now()
    while True:
        part = guessing(attempt.local, attempt.remote)
        if part is not None and part.certain and not found:
            attempt.note("nothing simpler can work")
            return part
        patience = patient(attempt, *KNOWING_PATIENCE) if part is None else _patience(attempt, part)
        left = began + patience - attempt.now()  # of the deadline: what is left of a pause may be lost in rounding
        if left <= 0:
            break
        await news(attempt, left)
    if part is None:
        raise AttemptFailed("neither NAT is known to map each destination to another port")
    attempt.note(f"nothing simpler worked in {patience:.2f} s")
    return part


def _patience(attempt: Attempt, part: Guessing) -> float:
    searching = part.theirs if part.part is Part.SPREAD else part.mine
    sequential = part.spreading.nat.assignment.kind is Assignment.SEQUENTIAL
    if sequential or searching.nat.filtering in (Filtering.EIF, Filtering.ADF):
        return patient(attempt, *LIKELY_PATIENCE)
    simpler = SIMPLER_SIGNALS * signal_delay(attempt) + SIMPLER_REPEAT
    # Our own NAT may turn out to be the one that has to spread, or that has to meet.
    return max(simpler, MEASURING) if being_measured(attempt.local) else simpler


async def _spread(attempt: Attempt, part: Guessing, target: Endpoint) -> None:
    """Open the sockets; tell the peer first, which needs longer to hear of it. Returns when the peer has searched."""
    attempt.admit([target])
    nat = await _sampled(attempt, part.mine)
    ports, assignment = ports_to_guess(nat), nat.assignment
    parity = 0 if assignment.parity else None
    if parity is not None:
        ports = of_parity(ports, parity)
    near = endpoint_of(part.mine.host_endpoint(Transport.UDP))
    with closing(await attempt.random_punch()) as punch:
        count = await punch.plan(near, target, sockets_for(nat))
        counted = assignment.kind is Assignment.PER_ADDRESS
        attempt.signal(
            Guess(
                OPENED,
                str(target),
                str(part.mine.reflexive),
                ports.low,
                ports.high,
                fixed=ports.fixed,
                bits=ports.bits,
                step=assignment.step if counted else 0,
                sockets=sockets_for(nat) if counted else 0,
            )
        )
        ttl, sure = attempt.priming_ttl(near), attempt.primes_surely(near)
        later = [(after, ttl if sure else further) for after, further in LATER]
        over = attempt.now() + attempt.config.timing.attempt_timeout  # the peer searches no longer
        care = RouterCare(attempt, punch, near)
        began = attempt.now()
        opened = await open_sockets(attempt, punch, near, target, [((0.0, ttl),)] * count, parity)
        attempt.note(f"{opened} sockets towards {target}; the peer looks for them in {_in_words(ports)}")
        for after, hops in [*later, (ONCE_MORE, None)]:
            waited = await care.room(SPREAD_WAITS)
            await asyncio.sleep(began + after - attempt.now())
            if after < ONCE_MORE or care.lost:
                # The peer has probed meanwhile: its NAT lets in what comes from a port that was tried in vain.
                await punch.repeat(target, None if waited else hops)
        await asyncio.sleep(over - attempt.now())
        if opened < count:
            raise AttemptFailed(f"only {opened} of {count} sockets could be opened: {punch.shortage}")


def _in_words(ports: PortRange) -> str:
    among = f"ports {ports.low}-{ports.high}"
    return f"{ports.size} of {among}" if ports.fixed else among


async def _sampled(attempt: Attempt, mine: Attachment) -> NatProfile:
    """Our NAT, as soon as it is known in which ports our sockets will be, or after a second: a block is searched sixty
    times faster than all ports.
    """

    def nat() -> NatProfile:
        return next((at.nat for at in attempt.local.attachments if at.host == mine.host), mine.nat)

    await until(attempt, lambda: nat().assignment.kind is not Assignment.UNKNOWN, SAMPLING)
    return nat()


async def _search(attempt: Attempt, message: Guess) -> None:
    """Probe the ports in random order, none twice, as long as the budget lasts."""
    base = await _searching_base(attempt, parse(message.target))
    # Below are others' services, also where the peer says that it listens on one of these ports itself.
    low = max(FIRST_PORT, message.low)
    ports = PortRange(low, message.high, message.fixed, message.bits)
    if not 1 <= message.low <= low <= ports.high <= LAST_PORT or not ports.size or abs(message.step) > MAX_GAP:
        raise AttemptFailed(f"no ports lie from {message.low} to {message.high}")
    try:
        addresses = _addresses_of(attempt, Endpoint.of(message.spread, ports.low).ip)
    except AddressError as error:
        raise AttemptFailed(f"a message that is none of ours: {error}") from None
    ends = {ip: {Endpoint(ip, ports.low), Endpoint(ip, ports.high)} for ip in addresses}
    admitted = frozenset(attempt.admit([end for ip in addresses for end in ends[ip]]))
    addresses = tuple(ip for ip in addresses if ends[ip] <= admitted)
    if not addresses:
        raise AttemptFailed(f"ports {ports.low} to {ports.high} may not be searched")
    with closing(await attempt.random_punch()) as punch:
        # Drawn from the session id, which is random itself: another order each time, the same where that is replayed.
        draw = random.Random(attempt.session).sample
        most = punch.mappings_left // len(addresses)
        if message.step:
            order = ports.drawn_of_a_count(draw, message.step, max(1, message.sockets))[:most]
        else:
            order = ports.drawn(draw, most)
        shown = "/".join(map(str, addresses))
        attempt.note(f"probing up to {len(order) * len(addresses)} of {_in_words(ports)} of {shown} from {base}")
        targets = [Endpoint(ip, port) for port in order for ip in addresses]
        probing = _probe_all(punch, base, targets)
        await until_either(attempt, probing, look_after_router(attempt, base, punch))


async def _probe_all(punch: RandomPunch, base: Endpoint, targets: Sequence[Endpoint]) -> None:
    """What was sent when our router had no mapping for it is sent again in the end."""
    waiting = deque(targets)
    sent: list[Endpoint] = []
    held = punch.times_held
    while waiting:
        target = waiting.popleft()
        await punch.probe(base, target)
        sent.append(target)
        if punch.times_held > held:
            held = punch.times_held
            doubtful = sent[-int(DOUBTFUL * punch.rate) :]
            waiting.extend(doubtful)
            del sent[-len(doubtful) :]


def _addresses_of(attempt: Attempt, ip: IPAddress) -> tuple[IPAddress, ...]:
    """This one and what its NAT gives mappings as well."""
    pools = [at.outside for at in attempt.remote.attachments if at.reflexive == ip]
    return tuple(dict.fromkeys((ip, *(other for pool in pools for other in pool))))


async def _searching_base(attempt: Attempt, target: Endpoint) -> Endpoint:
    """Our socket that the outside sees as `target`; after a restart that is seen again before long."""

    def base() -> Endpoint | None:
        for at in attempt.local.attachments:
            own = at.host_endpoint(Transport.UDP)
            if own is not None and target in (own, at.reflexive_endpoint(Transport.UDP)):
                return own
        return None

    def settled() -> bool:
        own = [at for at in attempt.local.attachments if not at.host.is_loopback]
        return base() is not None or all(at.reflexive_endpoint(Transport.UDP) is not None for at in own)

    await until(attempt, settled, patient(attempt, *KNOWING_PATIENCE))
    found = base()
    if found is None:
        raise AttemptFailed(f"{target} is no endpoint of ours")
    return found
