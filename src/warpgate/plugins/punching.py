"""What the two punches say to each other, over UDP and over TCP alike: volleys that both halves send at once, and
predictions of ports.

The initiator's first volley is from ports that the addresses list. Each further one is from fresh ports: the initiator
sends theirs, the responder answers with its own. A prediction belongs to no volley, and may come at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NoReturn

from warpgate.errors import AddressError, AttemptFailed, ProtocolError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.plan.counting import both_count, crosswise, one_count
from warpgate.plan.volley import Face, as_text, parse_endpoints, with_pool
from warpgate.plugins.base import Attempt, signal_delay

VOLLEYS = 4
# The volley number of predicted endpoints: they belong to the first volley's ports on the other side.
PREDICTED = 0
# No broker that still serves is slower; a peer that says more is not believed.
LONGEST_DELAY = 2.0


@dataclass(frozen=True, slots=True)
class Punch:
    """`endpoints`: reflexive endpoints of fresh ports as text; none for the first volley (the address has them).
    Of volley 0: one of them is where the receiver's listening port sees the sender, or its next SYN, likeliest first.

    `delay`: the sender's best estimate of a signal's one-way time in seconds, negative when it has none.
    """

    volley: int
    endpoints: tuple[str, ...] = ()
    delay: float = -1.0


class Conversation:
    """What the other half says, predictions apart from volleys: those are acted on whatever volley is going on.

    Whoever makes one has `read` run, beside the rest of its half.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._volleys: asyncio.Queue[Punch | AttemptFailed] = asyncio.Queue()
        self._predictions: asyncio.Queue[Punch] = asyncio.Queue()

    async def read(self) -> NoReturn:
        """Raises AttemptFailed at a message that is none of ours, and so does then `volley`."""
        while True:
            try:
                message = await self._attempt.receive()
                if not isinstance(message, Punch):
                    raise AttemptFailed("a message that is none of ours")
            except (ProtocolError, AttemptFailed) as error:
                failure = AttemptFailed(str(error))
                self._volleys.put_nowait(failure)
                raise failure from None
            if message.volley == PREDICTED:
                self._predictions.put_nowait(message)
            else:
                self._volleys.put_nowait(message)

    async def volley(self) -> Punch:
        """The next message about one."""
        message = await self._volleys.get()
        if isinstance(message, AttemptFailed):
            raise message
        return message

    async def predictions(self, most: int) -> AsyncIterator[list[Endpoint]]:
        """The endpoints of so many predictions, those that may be tried."""
        for _ in range(most):
            try:
                yield self._targets(await self._predictions.get())
            except (AddressError, AttemptFailed) as error:
                self._attempt.note(f"predicted endpoints refused: {error}")

    async def exchange(self, volley: int, faces: Sequence[Face]) -> list[Endpoint]:
        """Initiator: tell the fresh ports of a volley; the peer's. AddressError; AttemptFailed when none may be tried,
        which is the end of this volley.
        """
        delay = self._attempt.signal_delay
        self._tell(Punch(volley, as_text(faces), -1.0 if delay is None else delay))
        while (answer := await self.volley()).volley != volley:
            pass  # to an earlier one, which is over
        return self._targets(answer)

    def asked(self, message: Punch) -> list[Endpoint]:
        """Responder: the fresh ports that a volley is to go to. AddressError; AttemptFailed when none may be tried: the
        initiator is told, and goes on to its next volley.
        """
        try:
            return self._targets(message)
        except AttemptFailed:
            self.answer(message, ())
            raise

    def answer(self, message: Punch, faces: Sequence[Face]) -> None:
        """Responder: tell ours."""
        self._tell(Punch(message.volley, as_text(faces)))

    def _tell(self, message: Punch) -> None:
        self._attempt.signal(message)
        self._attempt.note(f"volley {message.volley} from fresh ports: {', '.join(message.endpoints)}")

    def _targets(self, message: Punch) -> list[Endpoint]:
        named = parse_endpoints(message.endpoints)
        return self._attempt.admit(with_pool(named, self._attempt.remote))


def in_step(attempt: Attempt, peers: list[Endpoint], faces: Sequence[Face]) -> list[Endpoint]:
    """Responder: where to go and in which order, so that two sides that count send their n-th to the other's n-th."""
    if not both_count(attempt.local, attempt.remote):
        return peers
    for face in faces:
        step = next((at.nat.assignment.step for at in attempt.local.attachments if at.host == face.local.ip), 0)
        if aims := one_count(peers, face.seen, step):
            attempt.note(f"one NAT counts for both sides: the peer's next port is {aims[0]}")
            return attempt.admit(aims)
    return crosswise(peers)


def delay_told(attempt: Attempt, message: Punch) -> float:
    """The one-way time of a signal, s: what the peer says of it, if that can be true."""
    return message.delay if 0.0 <= message.delay <= LONGEST_DELAY else signal_delay(attempt)
