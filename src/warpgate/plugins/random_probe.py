"""random_probe: the birthday technique, where one NAT gives each destination an external port that cannot be known.

The side behind that NAT *spreads*: many sockets, all of which send to one endpoint of the peer's. The other side
*searches*: from that endpoint it probes ports in random order, none twice, until one is a mapping of the spread
(`plan/birthday.py` has the arithmetic). Where both NATs do so, each to a few ports, both sides *meet*: each names one
port of its own and opens sockets towards the other's, until each has got the port it named. The initiator's one message
starts both:

    initiator spreads    OPENED at once; the responder searches when it arrives                    s, then probes
    initiator searches   OPEN; the responder spreads and answers OPENED with the range of ports    2 s, then probes
    both meet            MEET with a port; the responder answers MEET with one of its own          2 s, then checks

A side that counts its ports names one when it knows the other's, since the sockets that it opens then decide which.

The spread is primed like every punch: its first packets die before the peer's router, where they could claim tuples.
Routers suffer from this strategy, so it starts when nothing simpler can work or has; the core keeps the budgets.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from warpgate.errors import AddressError, AttemptFailed, NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile
from warpgate.net.link import Link
from warpgate.plan.birthday import (
    Guessing,
    Part,
    guessing,
    own_port_to_meet,
    sockets_for,
    sockets_to_meet,
    why_not,
)
from warpgate.plan.classify import MAX_GAP
from warpgate.plan.counting import being_measured, counts, foretold
from warpgate.plan.predict import LAST_PORT, PortRange, of_parity, ports_to_guess
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
# How long it may take until either side's NAT is known well enough.
KNOWING_PATIENCE = 5.0, 6.0
SAMPLING = 1.0
# How long the last probe may take to be answered.
LAST_HIT = 1.0, 2.0
# Two sides that meet have opened all their sockets so long after the message: they take up to 1 ms each.
MEETING_OPENS = 0.3
# Each socket checks so often: a packet may be lost.
MEETING_ROUNDS = 2
# The few sockets of a side that counts: how often each checks, and how far apart (s).
MEETING_REPEATS = 8
MEETING_REPEAT = 0.5
# What else begins in this tick takes ports of a count, too: it is let through first. Seconds.
OWN_NOISE = 0.005
# How often a fresh socket is tried during a search, and how long our router is left alone when it gets no mapping
# (at least; twice as long each time, 8 s at most). Seconds.
CARE_INTERVAL = 1.0
BACK_OFF = Backoff(1.0, 8.0)
# A server's answer that is so much later than the fastest one came to a repeated question (the first repetition leaves
# after 0.25 s): the router dropped the first. Seconds.
LATE = 0.2
# How often the spread waits for its router: then its sockets are tried, since those that do have mappings need it.
SPREAD_WAITS = 2
# A full table is noticed so late that this is sent in vain: two seconds at the rate that was halved then.
DOUBTFUL = 2 * 2.0

OPEN, OPENED, MEET, REFUSED = "open", "opened", "meet", "refused"


@dataclass(frozen=True, slots=True)
class Guess:
    """`target`: the endpoint of the searching side; `spread`: where the others are, any port from `low` to `high` whose
    `fixed` bits are those of `bits`. With a `step` their ports follow one another, `sockets` in a row.

    OPEN asks the peer to spread towards `target`; OPENED says that the sender does; MEET asks for checks to `target`,
    the sender's, from many sockets; REFUSED gives a `reason`.
    """

    kind: str
    target: str = ""
    spread: str = ""
    low: int = 0
    high: int = 0
    reason: str = ""
    fixed: int = 0
    bits: int = 0
    step: int = 0
    sockets: int = 0


class RandomProbe(Plugin):
    name: ClassVar[str] = "random_probe"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.UDP})
    message_type: ClassVar[type | None] = Guess

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        return why_not(local, remote)

    # -- initiating ----------------------------------------------------------------------------------------------

    async def initiate(self, attempt: Attempt) -> Link:
        found = attempt.try_found()
        return await race(
            {"checks": attempt.verified, "guessing": partial(self._initiate, attempt, found)}, "guessing"
        )

    async def _initiate(self, attempt: Attempt, found: bool) -> Link:
        if attempt.renewing:
            raise AttemptFailed("no search for a path in place of one that works")
        part = await _worth_guessing(attempt, found)
        if part.part is Part.SPREAD:
            target = _endpoint_of(part.theirs.reflexive_endpoint(Transport.UDP))
            spreading = beside(attempt, _spread(attempt, part, target))
            listening = beside(attempt, _answer(attempt, OPENED))  # returns by raising the refusal
            done, _ = await asyncio.wait({spreading, listening}, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        elif part.part is Part.SEARCH:
            target = _endpoint_of(part.mine.reflexive_endpoint(Transport.UDP))
            attempt.signal(Guess(OPEN, str(target)))
            attempt.note(f"asked the peer to open many sockets towards {target}")
            await _search(attempt, await _answer(attempt, OPENED))
        elif counts(part.mine):
            attempt.signal(Guess(MEET))
            answer = await _answer(attempt, MEET)
            await _meet_by_count(
                attempt, part, _parse(answer.target), signal_delay(attempt) + 2 * MEETING_OPENS
            )
        else:
            attempt.signal(Guess(MEET, str(_to_meet(attempt, part))))
            answer = await _answer(attempt, MEET)
            await _meet(attempt, part, _parse(answer.target), MEETING_OPENS)
        await asyncio.sleep(patient(attempt, *LAST_HIT))
        raise AttemptFailed("all probes are sent, and none hit")

    # -- responding ----------------------------------------------------------------------------------------------

    async def respond(self, attempt: Attempt) -> Link:
        """What was asked for; the initiator takes the link."""
        message = await attempt.receive()
        try:
            if not isinstance(message, Guess):
                raise AttemptFailed("a message that is none of ours")
            if message.kind == OPEN:
                await self._spread_for(attempt, message)
            elif message.kind == MEET:
                await self._meet_with(attempt, message)
            else:
                await _search(attempt, message)
        except AttemptFailed as error:
            attempt.signal(Guess(REFUSED, reason=str(error)[:200]))
            raise
        return await attempt.verified()

    async def _spread_for(self, attempt: Attempt, message: Guess) -> None:
        target = _parse(message.target)
        attempt.admit([target])
        part = await _measured(attempt, Part.SPREAD)
        if part is None or target.family is not part.mine.family:
            raise AttemptFailed(
                "our NAT is not known to map each destination to another port: many sockets would not help"
            )
        await _spread(attempt, part, target)

    async def _meet_with(self, attempt: Attempt, message: Guess) -> None:
        part = await _measured(attempt, Part.MEET)
        if part is None:
            raise AttemptFailed("our NAT is not known to map each destination to another of a few ports")
        wait = signal_delay(attempt) + 2 * MEETING_OPENS
        if counts(part.mine):
            await _meet_by_count(attempt, part, _parse(message.target), wait)
            return
        attempt.signal(Guess(MEET, str(_to_meet(attempt, part))))
        if not message.target:  # the peer counts: it can name its port when it knows ours
            message, wait = await _answer(attempt, MEET), MEETING_OPENS
        await _meet(attempt, part, _parse(message.target), wait)


async def _measured(attempt: Attempt, wanted: Part) -> Guessing | None:
    """The responder's part, if it is this one. What the initiator knows of us may be from before a restart: then it is
    waited for until we know as much.
    """

    def part() -> Guessing | None:
        found = guessing(attempt.local, attempt.remote)
        return found if found is not None and found.part is wanted else None

    def settled() -> bool:
        return part() is not None or all(
            _is_known(at.nat) for at in attempt.local.attachments if not at.host.is_loopback
        )

    await until(attempt, settled, patient(attempt, *KNOWING_PATIENCE))
    return part()


def _is_known(nat: NatProfile) -> bool:
    sampled = nat.assignment.kind is not Assignment.UNKNOWN
    return nat.mapping is not Mapping.UNKNOWN and (sampled or not nat.mapping.endpoint_dependent)


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
        left = (
            began + patience - attempt.now()
        )  # of the deadline: what is left of a pause may be lost in rounding
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


async def _answer(attempt: Attempt, kind: str) -> Guess:
    """The peer's; AttemptFailed with the reason when it will not."""
    while True:
        message = await attempt.receive()
        if isinstance(message, Guess) and message.kind == REFUSED:
            raise AttemptFailed(f"the peer refused: {message.reason}")
        if isinstance(message, Guess) and message.kind == kind:
            return message


async def _spread(attempt: Attempt, part: Guessing, target: Endpoint) -> None:
    """Open the sockets; tell the peer first, which needs longer to hear of it. Returns when the peer has searched."""
    attempt.admit([target])
    nat = await _sampled(attempt, part.mine)
    ports, assignment = ports_to_guess(nat), nat.assignment
    parity = 0 if assignment.parity else None
    if parity is not None:
        ports = of_parity(ports, parity)
    punch = attempt.random_punch()
    near = _endpoint_of(part.mine.host_endpoint(Transport.UDP))
    count = min(sockets_for(nat), punch.mappings_left)
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
            sockets=count if counted else 0,
        )
    )
    ttl, sure = attempt.priming_ttl(near), attempt.primes_surely(near)
    later = [(after, ttl if sure else further) for after, further in LATER]
    over = attempt.now() + attempt.config.timing.attempt_timeout  # the peer searches no longer
    care = _Care(attempt, punch, near)
    began = attempt.now()
    opened = await _open(attempt, punch, near, target, [((0.0, ttl),)] * count, parity)
    attempt.note(f"{opened} sockets towards {target}; the peer looks for them in {_in_words(ports)}")
    for after, hops in [*later, (ONCE_MORE, None)]:
        waited = await care.room(SPREAD_WAITS)
        await asyncio.sleep(began + after - attempt.now())
        if after < ONCE_MORE or care.lost:
            # The peer has probed meanwhile: its NAT lets in what comes from a port that was tried in vain.
            await punch.repeat(target, None if waited else hops)
    await asyncio.sleep(over - attempt.now())
    punch.close()
    if opened < count:
        raise AttemptFailed(f"only {opened} of {count} sockets could be opened: {punch.shortage}")


async def _open(
    attempt: Attempt,
    punch: RandomPunch,
    near: Endpoint,
    target: Endpoint,
    schedules: Sequence[Sequence[tuple[float, int | None]]],
    parity: int | None = None,
) -> int:
    """A socket for each schedule; how many there are. AttemptFailed when the system has none at all."""
    for schedule in schedules:
        await asyncio.sleep(0)  # a socket takes up to 1 ms, and the offer is about to leave
        if not punch.open_towards(near, target, schedule, parity):
            attempt.note(f"no more than {punch.sockets} of {len(schedules)} sockets: {punch.shortage}")
            if not punch.sockets:
                raise AttemptFailed(f"no sockets for guessing: {punch.shortage}")
            break
    return punch.sockets


def _to_meet(attempt: Attempt, part: Guessing) -> Endpoint:
    """One of our external ports, for the peer's sockets to aim at."""
    draw = random.Random(attempt.session).sample
    port = own_port_to_meet(part.mine.nat, attempt.taken_ports(part.mine.host), draw)
    return Endpoint(_endpoint_of(part.mine.reflexive_endpoint(Transport.UDP)).ip, port)


async def _meet(attempt: Attempt, part: Guessing, target: Endpoint, wait: float) -> None:
    """Sockets towards the port that the peer has named, as many as our NAT has ports: one of them gets the port that we
    have named, and then its checks, or the peer's, come through. `wait` (s): until the peer has opened its own.
    """
    attempt.admit([target])
    near = _endpoint_of(part.mine.host_endpoint(Transport.UDP))
    punch = attempt.random_punch()
    count = min(sockets_to_meet(part.mine.nat), punch.mappings_left)
    rate = attempt.config.budgets.random_probes_per_second
    checks = [[wait + (n + turn * count) / rate for turn in range(MEETING_ROUNDS)] for n in range(count)]
    schedules = [((0.0, attempt.priming_ttl(near)), *((after, None) for after in times)) for times in checks]
    opened = await _open(attempt, punch, near, target, schedules)
    attempt.note(f"{opened} sockets towards {target}: one of them should have the port that we named")
    await asyncio.sleep(wait + MEETING_ROUNDS * count / rate)
    punch.close()


async def _meet_by_count(attempt: Attempt, part: Guessing, target: Endpoint, wait: float) -> None:
    """A few sockets towards the port that the peer has named; they get the next ports of our count, one of which we
    name. `wait` (s): until the peer has opened its sockets towards that one.
    """
    attempt.admit([target])
    near = _endpoint_of(part.mine.host_endpoint(Transport.UDP))
    punch = attempt.random_punch()
    await asyncio.sleep(OWN_NOISE)
    try:
        seen = await attempt.samples(await attempt.open_udp(near))
    except (ServiceError, NetworkError) as error:
        raise AttemptFailed(f"no prediction: {error}") from None
    endpoints = foretold(seen, part.mine.nat.assignment.step)
    if not endpoints:
        raise AttemptFailed("our NAT does not count any more")
    later = [(wait + n * MEETING_REPEAT, None) for n in range(MEETING_REPEATS)]
    opened = await _open(
        attempt, punch, near, target, [((0.0, attempt.priming_ttl(near)), *later)] * len(endpoints)
    )
    named = endpoints[len(endpoints) // 2 - 1]
    attempt.signal(Guess(MEET, str(named)))
    attempt.note(f"{opened} sockets towards {target}, one of them as {named}")
    await asyncio.sleep(wait + MEETING_REPEATS * MEETING_REPEAT)
    punch.close()


def _in_words(ports: PortRange) -> str:
    among = f"ports {ports.low}-{ports.high}"
    return f"{ports.size} of {among}" if ports.fixed else among


class _Care:
    """What a punch does to our router, as far as that shows: whether a fresh socket gets a mapping, and how soon.

    Its table may be full, or it makes no more mappings a second: of ours, or of those of another node behind it, of
    which nothing else is seen from here. Where there is no mapping, nothing is sent for a while; where the first packet
    was lost, half as many a second, and an eighth more after each answer in time, so that two nodes share what there
    is. How long is drawn, so that two that have filled a table together do not go on together.
    """

    def __init__(self, attempt: Attempt, punch: RandomPunch, near: Endpoint) -> None:
        self._attempt = attempt
        self._punch = punch
        self._near = near
        self._rng = random.Random(attempt.session)
        self._fastest = math.inf
        self._failures = 0
        self.lost = False  # something that was sent, at any time

    async def ask(self) -> bool:
        """Whether there is a mapping for a fresh socket."""
        took = await self._punch.maps_anew(self._near)
        if took is None:
            self._failures += 1
        elif took > self._fastest + LATE:
            self._punch.go_on()
            self._slow_down()
            self._attempt.note(
                f"our router lost what a fresh socket sent first: {self._punch.rate:g} probes a second"
            )
        else:
            self._failures = 0
            self._punch.go_on()
            self._punch.speed_up()
            self._fastest = min(self._fastest, took)
        return took is not None

    async def rest(self) -> None:
        """After a failure."""
        self._punch.hold_back()
        self._slow_down()
        pause = BACK_OFF.after(self._failures)
        self._attempt.note(
            f"our router has no mapping for a fresh socket: leaving it alone for {pause:g} s or more"
        )
        await asyncio.sleep(pause * self._rng.uniform(1.0, 2.0))

    async def room(self, waits: int) -> bool:
        """Wait until there is a mapping, so many times at most; whether it was necessary."""
        for tried in range(waits):
            if await self.ask():
                return tried > 0
            await self.rest()
        return True

    def _slow_down(self) -> None:
        self.lost = True
        self._punch.slow_down()


async def _look_after_router(attempt: Attempt, near: Endpoint, punch: RandomPunch) -> None:
    """Hold the punch back while our router has no mapping for a fresh socket."""
    care = _Care(attempt, punch, near)
    while True:
        await asyncio.sleep(CARE_INTERVAL)
        while not await care.ask():
            await care.rest()


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
    base = await _searching_base(attempt, _parse(message.target))
    ports = PortRange(message.low, message.high, message.fixed, message.bits)
    if not 1 <= ports.low <= ports.high <= LAST_PORT or not ports.size or abs(message.step) > MAX_GAP:
        raise AttemptFailed(f"no ports lie from {ports.low} to {ports.high}")
    try:
        addresses = _addresses_of(attempt, Endpoint.of(message.spread, ports.low).ip)
    except AddressError as error:
        raise AttemptFailed(f"a message that is none of ours: {error}") from None
    ends = {ip: {Endpoint(ip, ports.low), Endpoint(ip, ports.high)} for ip in addresses}
    admitted = frozenset(attempt.admit([end for ip in addresses for end in ends[ip]]))
    addresses = tuple(ip for ip in addresses if ends[ip] <= admitted)
    if not addresses:
        raise AttemptFailed(f"ports {ports.low} to {ports.high} may not be searched")
    punch = attempt.random_punch()
    beside(attempt, _look_after_router(attempt, base, punch))
    # Drawn from the session id, which is random itself: another order each time, and the same where that is replayed.
    draw = random.Random(attempt.session).sample
    most = punch.mappings_left // len(addresses)
    if message.step:
        order = ports.drawn_of_a_count(draw, message.step, max(1, message.sockets))[:most]
    else:
        order = ports.drawn(draw, most)
    shown = "/".join(map(str, addresses))
    attempt.note(f"probing up to {len(order) * len(addresses)} of {_in_words(ports)} of {shown} from {base}")
    targets = [Endpoint(ip, port) for port in order for ip in addresses]
    probing = beside(attempt, _probe_all(punch, base, targets))
    listening = beside(attempt, _answer(attempt, REFUSED))  # returns by raising the refusal
    await asyncio.wait({probing, listening}, return_when=asyncio.FIRST_COMPLETED)
    (listening if listening.done() else probing).result()
    listening.cancel()
    punch.close()


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


def _parse(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except AddressError as error:
        raise AttemptFailed(f"a message that is none of ours: {error}") from None


def _endpoint_of(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise AttemptFailed("the endpoint is not known any more")
    return endpoint
