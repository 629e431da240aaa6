"""random_probe: the birthday technique, where one NAT gives each destination an external port that cannot be known.

The side behind that NAT *spreads*: many sockets, all of which send to one endpoint of the peer's. The other side
*searches*: from that endpoint it probes ports in random order, none twice, until one is a mapping of the spread
(`plan/birthday.py` has the arithmetic). The initiator's one message starts both:

    initiator spreads    OPENED at once; the responder searches when it arrives                    s, then probes
    initiator searches   OPEN; the responder spreads and answers OPENED with the range of ports    2 s, then probes

The spread is primed like every punch: its first packets die before the peer's router, where they could claim tuples.
Routers suffer from this strategy, so it starts when nothing simpler can work or has; the core keeps the budgets.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from warpgate.errors import AddressError, AttemptFailed, NetworkError
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.nat import Assignment, Filtering, NatProfile
from warpgate.net.link import Link
from warpgate.net.race import RaceLost, first_of
from warpgate.plan.birthday import Guessing, Part, guessing, sockets_for, why_not
from warpgate.plan.predict import PortRange, ports_to_guess
from warpgate.plan.volley import PRIMING_TTL
from warpgate.plugins.base import Attempt, Plugin, signal_delay

# A carrier's NAT may be further away than the priming goes: later packets go further, those with full TTL last, since
# they may claim tuples on the peer's router. (Seconds after the priming, TTL.)
LATER = ((1.0, 5), (6.0, None))
# Plain punches are done after a signal and a round trip, which is about as long as one over a broker; then an early
# repeat of a lost packet.
SIMPLER_SIGNALS = 3
SIMPLER_REPEAT = 0.05
# udp_punch predicts a NAT that counts, and passes a filter that does not look at ports. Guessing takes over when others
# behind the NAT make the first hopeless, or the filter was measured wrongly (a port with flows of an earlier program).
LIKELY_PATIENCE = 3.0
# How long it may take until either side's NAT is known well enough.
KNOWING_PATIENCE = 5.0
KNOWING_STEP = 0.05
SAMPLING_STEPS = 20
# How long the last probe may take to be answered.
LAST_HIT = 1.0

OPEN, OPENED, REFUSED = "open", "opened", "refused"


@dataclass(frozen=True, slots=True)
class Guess:
    """`target`: the endpoint of the searching side; `spread`: where the others are, any port from `low` to `high`.

    OPEN asks the peer to spread towards `target`; OPENED says that the sender does; REFUSED gives a `reason`.
    """

    kind: str
    target: str = ""
    spread: str = ""
    low: int = 0
    high: int = 0
    reason: str = ""


class RandomProbe(Plugin):
    name: ClassVar[str] = "random_probe"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.UDP})
    message_type: ClassVar[type | None] = Guess

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        return why_not(local, remote)

    # -- initiating ----------------------------------------------------------------------------------------------

    async def initiate(self, attempt: Attempt) -> Link:
        part = await _worth_guessing(attempt)
        try:
            return await first_of(
                {"checks": attempt.verified, "guessing": partial(self._initiate, attempt, part)},
                Link.abort,
                leader="guessing",
            )
        except RaceLost as lost:
            raise AttemptFailed(str(lost)) from None

    async def _initiate(self, attempt: Attempt, part: Guessing) -> Link:
        if part.part is Part.SPREAD:
            target = _endpoint_of(part.theirs.reflexive_endpoint(Transport.UDP))
            spreading = asyncio.ensure_future(_spread(attempt, part, target))
            attempt.stack.callback(spreading.cancel)
            listening = asyncio.ensure_future(_answer(attempt))  # returns by raising the refusal
            attempt.stack.callback(listening.cancel)
            done, _ = await asyncio.wait({spreading, listening}, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        else:
            target = _endpoint_of(part.mine.reflexive_endpoint(Transport.UDP))
            attempt.signal(Guess(OPEN, str(target)))
            attempt.note(f"asked the peer to open many sockets towards {target}")
            await _search(attempt, await _answer(attempt))
        await asyncio.sleep(LAST_HIT)
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
            else:
                await _search(attempt, message)
        except AttemptFailed as error:
            attempt.signal(Guess(REFUSED, reason=str(error)[:200]))
            raise
        return await attempt.verified()

    async def _spread_for(self, attempt: Attempt, message: Guess) -> None:
        target = _parse(message.target)
        attempt.check_targets([target])
        part = guessing(attempt.local, attempt.remote)
        if part is None or part.part is not Part.SPREAD or target.family is not part.mine.family:
            raise AttemptFailed(
                "our NAT is not known to map each destination to another port: many sockets would not help"
            )
        await _spread(attempt, part, target)


async def _worth_guessing(attempt: Attempt) -> Guessing:
    """Waits until nothing simpler can be hoped for. AttemptFailed when it does not become clear that this can."""
    delay = signal_delay(attempt)
    began = attempt.now()
    while (waited := attempt.now() - began) < KNOWING_PATIENCE:
        part = guessing(attempt.local, attempt.remote)
        if part is not None and (part.certain or waited >= _patience(part, delay)):
            attempt.note(
                "nothing simpler can work" if part.certain else f"nothing simpler worked in {waited:.2f} s"
            )
            return part
        await asyncio.sleep(KNOWING_STEP)
    raise AttemptFailed("neither NAT is known to map each destination to another port")


def _patience(part: Guessing, delay: float) -> float:
    searching = part.theirs if part.part is Part.SPREAD else part.mine
    sequential = part.spreading.nat.assignment.kind is Assignment.SEQUENTIAL
    if sequential or searching.nat.filtering in (Filtering.EIF, Filtering.ADF):
        return LIKELY_PATIENCE
    return SIMPLER_SIGNALS * delay + SIMPLER_REPEAT


async def _answer(attempt: Attempt) -> Guess:
    """The peer's OPENED; AttemptFailed with the reason when it will not."""
    while True:
        message = await attempt.receive()
        if isinstance(message, Guess) and message.kind == REFUSED:
            raise AttemptFailed(f"the peer refused: {message.reason}")
        if isinstance(message, Guess) and message.kind == OPENED:
            return message


async def _spread(attempt: Attempt, part: Guessing, target: Endpoint) -> None:
    """Open the sockets; tell the peer first, which needs longer to hear of it."""
    attempt.check_targets([target])
    ports = ports_to_guess(await _sampled(attempt, part.mine))
    punch = attempt.random_punch()
    near = _endpoint_of(part.mine.host_endpoint(Transport.UDP))
    count = min(sockets_for(ports), punch.mappings_left)
    attempt.signal(Guess(OPENED, str(target), str(part.mine.reflexive), ports.low, ports.high))
    rate = attempt.config.budgets.random_probes_per_second
    opened = 0
    try:
        for opened in range(count):
            await asyncio.sleep(0)  # a socket takes up to 1 ms, and the offer is about to leave
            later = ((after + opened / rate, ttl) for after, ttl in LATER)
            punch.open_towards(near, target, ((0.0, PRIMING_TTL), *later))
    except NetworkError as error:
        attempt.note(f"no more than {opened} sockets: {error}")
    attempt.note(
        f"{count} sockets towards {target}; the peer looks for them in ports {ports.low}-{ports.high}"
    )
    await asyncio.sleep(attempt.config.timing.attempt_timeout)  # the peer searches no longer
    punch.close()


async def _sampled(attempt: Attempt, mine: Attachment) -> NatProfile:
    """Our NAT, as soon as it is known in which ports our sockets will be, or after a second: a block is searched sixty
    times faster than all ports.
    """
    nat = mine.nat
    for _ in range(SAMPLING_STEPS):
        nat = next((at.nat for at in attempt.local.attachments if at.host == mine.host), nat)
        if nat.assignment.kind is not Assignment.UNKNOWN:
            break
        await asyncio.sleep(KNOWING_STEP)
    return nat


async def _search(attempt: Attempt, message: Guess) -> None:
    """Probe the ports in random order, none twice, as long as the budget lasts."""
    base = _searching_base(attempt, _parse(message.target))
    ports = PortRange(message.low, message.high)
    if ports.size < 1:
        raise AttemptFailed(f"no ports lie from {ports.low} to {ports.high}")
    try:
        ends = [Endpoint.of(message.spread, port) for port in (ports.low, ports.high)]
    except AddressError as error:
        raise AttemptFailed(f"a message that is none of ours: {error}") from None
    attempt.check_targets(ends)
    punch = attempt.random_punch()
    # Drawn from the session id, which is random itself: another order each time, and the same where that is replayed.
    rng = random.Random(attempt.session)
    order = rng.sample(range(ports.low, ports.high + 1), min(ports.size, punch.mappings_left))
    attempt.note(
        f"probing up to {len(order)} of ports {ports.low}-{ports.high} of {message.spread} from {base}"
    )
    for port in order:
        await punch.probe(base, Endpoint(ends[0].ip, port))
    punch.close()


def _searching_base(attempt: Attempt, target: Endpoint) -> Endpoint:
    """Our socket that the outside sees as `target`."""
    for at in attempt.local.attachments:
        base = at.host_endpoint(Transport.UDP)
        if base is not None and target in (base, at.reflexive_endpoint(Transport.UDP)):
            return base
    raise AttemptFailed(f"{target} is no endpoint of ours")


def _parse(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except AddressError as error:
        raise AttemptFailed(f"a message that is none of ours: {error}") from None


def _endpoint_of(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise AttemptFailed("the endpoint is not known any more")
    return endpoint
