"""What the two halves of random_probe say to each other, and what both the search and the meeting of two rest on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn

from warpgate.errors import AddressError, AttemptFailed
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Assignment, Mapping, NatProfile
from warpgate.plan.birthday import Guessing, Part, guessing
from warpgate.plugins.base import Attempt, RandomPunch, beside, patient, until

OPEN, OPENED, MEET, REFUSED = "open", "opened", "meet", "refused"
# How long it may take until either side's NAT is known well enough.
KNOWING_PATIENCE = 5.0, 6.0


@dataclass(frozen=True, slots=True)
class Guess:
    """`target`: the endpoint of the searching side; `spread`: where the others are, any port from `low` to `high` whose
    `fixed` bits are those of `bits`. With a `step` their ports follow one another, `sockets` in a row.

    OPEN asks the peer to spread towards `target`; OPENED says that the sender does; MEET asks for checks to `target`,
    the sender's, from many sockets, and once more to others when those were in vain; REFUSED gives a `reason`.
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


class Anew(AttemptFailed):
    """The initiator begins once more with this message: one side has another address outside than it had."""

    def __init__(self, message: Guess) -> None:
        super().__init__("the peer begins anew")
        self.message = message


async def answer(attempt: Attempt, kind: str) -> Guess:
    """The peer's; AttemptFailed with the reason when it will not, Anew when it begins anew."""
    while True:
        message = await attempt.receive()
        if isinstance(message, Guess) and message.kind == REFUSED:
            raise AttemptFailed(f"the peer refused: {message.reason}")
        if isinstance(message, Guess) and message.kind == kind:
            return message
        if isinstance(message, Guess) and message.kind in (OPEN, OPENED):
            raise Anew(message)


async def elsewhere(attempt: Attempt, part: Guessing) -> None:
    """Returns when either side is seen at an address outside that is none of those it had."""
    known = (*part.mine.outside, *part.theirs.outside, None)

    def moved(node: NodeAddress, attachment: Attachment) -> bool:
        return any(at.host == attachment.host and at.reflexive not in known for at in node.attachments)

    await until(attempt, lambda: moved(attempt.local, part.mine) or moved(attempt.remote, part.theirs))


async def refusal(attempt: Attempt) -> NoReturn:
    """AttemptFailed when the peer will not, or will not go on."""
    while True:
        await answer(attempt, OPENED)


async def until_either(attempt: Attempt, ours: Coroutine[Any, Any, None], other: Coroutine[Any, Any, object]) -> None:
    """Until our part is over, or `other` is, such as listening to a peer that may refuse; both have ended then."""
    tasks = [beside(attempt, other), beside(attempt, ours)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await stop(*tasks)


async def stop(*tasks: asyncio.Task[Any]) -> None:
    """Returns when they have ended, and nothing of theirs disturbs what begins then."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def measured(attempt: Attempt, wanted: Part) -> Guessing | None:
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


async def open_sockets(
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


def parse(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except AddressError as error:
        raise AttemptFailed(f"a message that is none of ours: {error}") from None


def endpoint_of(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise AttemptFailed("the endpoint is not known any more")
    return endpoint
