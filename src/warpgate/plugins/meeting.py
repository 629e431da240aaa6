"""How two NATs meet that both map each destination to another port, of which each has few, or counts.

Each side names one port of its own and opens sockets towards the other's, until each has got the port it named. A side
that counts its ports names one when it knows the other's, since the sockets that it opens then decide which.

A router that still holds that port for the same destination, since an attempt of half a minute ago, gives it to none of
these sockets; nobody can know. So when all have checked in vain, the initiator names another port, and so does the
responder: once, as it costs the routers as much again.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import closing

from warpgate.errors import AttemptFailed, NetworkError, ServiceError
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.plan.birthday import Guessing, Part, own_port_to_meet, sockets_to_meet
from warpgate.plan.counting import counts, foretold
from warpgate.plugins.base import Attempt, RandomPunch, beside, signal_delay
from warpgate.plugins.guesses import MEET, Guess, answer, endpoint_of, measured, open_sockets, parse, stop, until_either
from warpgate.plugins.router_care import CARE_INTERVAL

MEETINGS = 2
# How often the initiator may begin anew, where a side is seen to have another address outside.
MOVES = 2
# Two sides that meet have opened all their sockets so long after the message: they take up to 1 ms each.
MEETING_OPENS = 0.3
# The few sockets of a side that counts: how often each checks, and how far apart (s).
MEETING_REPEATS = 8
MEETING_REPEAT = 0.5
# What else begins in this tick takes ports of a count, too: it is let through first. Seconds.
OWN_NOISE = 0.005


async def initiate_meeting(attempt: Attempt, part: Guessing) -> None:
    """Returns when all was in vain."""
    with closing(await attempt.random_punch(alone=True)) as punch:
        await _initiate(attempt, part, punch)


async def _initiate(attempt: Attempt, part: Guessing, punch: RandomPunch) -> None:
    meeting = _Meeting(attempt, part, punch)
    counting = counts(part.mine)
    for turn in range(MEETINGS):
        attempt.signal(Guess(MEET) if counting else meeting.named())
        target = parse((await answer(attempt, MEET)).target)
        last = turn + 1 == MEETINGS
        if counting:
            trying = beside(attempt, meeting.by_count(target, signal_delay(attempt) + 2 * MEETING_OPENS))
        else:
            trying = beside(attempt, meeting.by_all(target, MEETING_OPENS))
        try:
            await asyncio.wait({trying}, timeout=None if last else _in_vain_after(attempt, part))
            if trying.done():
                trying.result()
        finally:
            await stop(trying)
        if not last:
            attempt.note("not by these ports: both sides name others")


async def answer_meeting(attempt: Attempt, message: Guess) -> None:
    """The responder's half: what is asked for, and what is asked for when that was in vain."""
    part = await measured(attempt, Part.MEET)
    if part is None:
        raise AttemptFailed("our NAT is not known to map each destination to another of a few ports")
    with closing(await attempt.random_punch(alone=True)) as punch:
        await _answer(attempt, message, _Meeting(attempt, part, punch))


async def _answer(attempt: Attempt, message: Guess, meeting: _Meeting) -> None:
    turns, moves = MEETINGS, MOVES
    while turns:
        wait = signal_delay(attempt) + 2 * MEETING_OPENS
        if counts(meeting.part.mine):
            trying = beside(attempt, meeting.by_count(parse(message.target), wait))
        else:
            attempt.signal(meeting.named())
            if not message.target:  # the peer counts: it can name its port when it knows ours
                message, wait = await answer(attempt, MEET), MEETING_OPENS
            trying = beside(attempt, meeting.by_all(parse(message.target), wait))
        turns -= 1
        following = beside(attempt, answer(attempt, MEET))
        await asyncio.wait({trying, following}, return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            trying.result()
        if await meeting.moved() and moves:
            turns, moves = MEETINGS, moves - 1
        if not turns:
            await trying
            return
        message = await following
        await stop(trying)


def _in_vain_after(attempt: Attempt, part: Guessing) -> float:
    """Seconds until each socket of both sides has checked once, and an answer would be there."""
    most = max(0 if counts(side) else sockets_to_meet(side.nat) for side in (part.mine, part.theirs))
    checked = most / attempt.config.budgets.random_probes_per_second
    return 2 * MEETING_OPENS + checked + 3 * signal_delay(attempt)


async def _watch(punch: RandomPunch, near: Endpoint) -> None:
    """Whether our router has another address than it had: a server's answer to a fresh socket tells."""
    while True:
        await asyncio.sleep(CARE_INTERVAL)
        await punch.maps_anew(near)


class _Meeting:
    """One side's part; the ports that it has named."""

    def __init__(self, attempt: Attempt, part: Guessing, punch: RandomPunch) -> None:
        self._attempt = attempt
        self._punch = punch
        self.part = part
        self._near = endpoint_of(part.mine.host_endpoint(Transport.UDP))
        self._draw = random.Random(attempt.session).sample
        self._named: set[int] = set()

    async def moved(self) -> bool:
        """Whether a side has another address outside by now: that is gone by from here on."""
        before, now = self.part, await measured(self._attempt, Part.MEET)
        self.part = before if now is None else now
        return any(
            one.reflexive != other.reflexive
            for one, other in ((before.mine, self.part.mine), (before.theirs, self.part.theirs))
        )

    def named(self) -> Guess:
        """One more of our external ports, for the peer's sockets to aim at."""
        mine = self.part.mine
        taken = self._attempt.taken_ports(mine.host) | self._named
        port = own_port_to_meet(mine.nat, taken, self._draw)
        self._named.add(port)
        return Guess(MEET, str(Endpoint(endpoint_of(mine.reflexive_endpoint(Transport.UDP)).ip, port)))

    async def by_all(self, target: Endpoint, wait: float) -> None:
        """Sockets towards the port that the peer has named, as many as our NAT has ports: one of them gets the port
        that we have named, and then its checks, or the peer's, come through. `wait` (s): until the peer has opened its
        own.

        Each checks twice: a packet may be lost.
        """
        attempt, punch = self._attempt, self._punch
        attempt.admit([target])
        count = await punch.plan(self._near, target, sockets_to_meet(self.part.mine.nat))
        rate = attempt.config.budgets.random_probes_per_second
        ttl = attempt.priming_ttl(self._near)
        schedules = [((0.0, ttl), (wait + n / rate, None)) for n in range(count)]
        opened = await open_sockets(attempt, punch, self._near, target, schedules)
        attempt.note(f"{opened} sockets towards {target}: one of them should have the port that we named")
        await until_either(attempt, asyncio.sleep(wait + count / rate), _watch(punch, self._near))
        await punch.repeat(target, None)

    async def by_count(self, target: Endpoint, wait: float) -> None:
        """A few sockets towards the port that the peer has named; they get the next ports of our count, one of which we
        name. `wait` (s): until the peer has opened its sockets towards that one.
        """
        attempt, near, punch = self._attempt, self._near, self._punch
        attempt.admit([target])
        await asyncio.sleep(OWN_NOISE)
        try:
            seen = await attempt.samples(await attempt.open_udp(near))
        except (ServiceError, NetworkError) as error:
            raise AttemptFailed(f"no prediction: {error}") from None
        endpoints = foretold(seen, self.part.mine.nat.assignment.step)
        if not endpoints:
            raise AttemptFailed("our NAT does not count any more")
        later = [(wait + n * MEETING_REPEAT, None) for n in range(MEETING_REPEATS)]
        count = await punch.plan(near, target, len(endpoints))
        schedules = [((0.0, attempt.priming_ttl(near)), *later)] * count
        opened = await open_sockets(attempt, punch, near, target, schedules)
        named = endpoints[len(endpoints) // 2 - 1]
        attempt.signal(Guess(MEET, str(named)))
        attempt.note(f"{opened} sockets towards {target}, one of them as {named}")
        over = wait + MEETING_REPEATS * MEETING_REPEAT
        await until_either(attempt, asyncio.sleep(over), _watch(punch, near))
