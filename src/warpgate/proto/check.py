"""Connectivity checks of one session, sans-I/O (RFC 8445 section 7, RFC 8489, consent after RFC 7675).

A `CheckAgent` owns the candidate pairs of one session: which checks are still to be sent on each, what was heard,
which pair was nominated, and whether the peer still consents. It knows no sockets, clocks or strategies: time and
ids are arguments, `plugin` is a label that it carries.

Rules, which the code below relies on:

* Every message carries WG-SESSION and is authenticated by MESSAGE-INTEGRITY-SHA256 under the session key. The role
  attribute (ICE-CONTROLLING or ICE-CONTROLLED) keeps our own checks, reflected to us, from counting as the peer's.
* The message says who wrote it; the source address of its datagram says nothing, as the peer itself may forge it to
  make us flood somebody else. So a pair is *validated* only by what the peer can't have without receiving at that
  very endpoint: the transaction id of a check that we sent there, or the nonce that went there (RFC 9000 section 8.2
  calls this path validation). The nonce is another one for each endpoint.
* A nomination counts only where it gives that nonce back. A recording of an earlier session, or one with a forged
  source, can be answered, but can never nominate.
* A pair is *verified* for the controlling side by an answer to its own check, or by a check of the peer's when our
  mapping is known not to depend on the destination (`trust_heard`): then our packets leave from the endpoint that
  the peer has just opened its NAT for. This saves the round trip that ICE spends; until the acknowledgement of the
  nomination has validated the pair, its owner sends no more than a few datagrams there.
* Only an answer to our own check is consent (RFC 7675 section 5.1): users' data, and checks that bring no answer,
  could be anybody's, or be sent by the peer on behalf of an address that it has left.
* Nomination is repeated until acknowledged, and checks are answered as long as the agent lives, so that the slower
  side always learns the outcome (references: "silence after the first receive").
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from warpgate.errors import ProtocolError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.model.wanted import ANYTHING, Wanted
from warpgate.proto.check_wire import CheckCodec, OpenedCheck
from warpgate.proto.machine import Transmit
from warpgate.proto.refusals import Refusals
from warpgate.proto.stun import Attribute, StunClass

# RFC 8489 section 6.2.1 wants 500 ms before the first retransmission over unknown paths; a nomination travels a
# path whose checks have just been answered, so the first repeats may come at a fast path's round trip. Until one is
# answered our side may send little by the path: with 30 % loss each way it is so for more than 0.65 s once in 100.
NOMINATION_OFFSETS = (0.0, 0.06, 0.12, 0.2, 0.3, 0.45, 0.65, 0.9, 1.2, 1.6, 2.4, 3.4, 4.6)
CLOSE_OFFSETS = (0.0, 0.1, 0.3, 0.7)
# While one is not answered: 20 tries till the time-out, so that 30 % loss each way ends none of 700,000 silences.
CONSENT_REPEAT = 0.75
DOUBT_REPEAT = 0.4  # while its machine says that nobody listens at the other end
LAST_ANSWER = 1.0  # how long the last repeat waits for its answer
MAX_PAIRS = 4096  # birthday probing uses at most 2048 a peer; a hostile peer can add only by valid checks
MAX_OUTSTANDING = 4096


class Phase(enum.Enum):
    """Where a session's checks stand."""

    CHECKING = "checking"
    NOMINATING = "nominating"  # controlling side only: not yet acknowledged
    SELECTED = "selected"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class PairVerified:
    """`remote`, as seen from the local socket `base`, is the peer and can be reached."""

    base: Endpoint
    remote: Endpoint
    plugin: str


@dataclass(frozen=True, slots=True)
class PeerHeard:
    """The first authenticated message of the peer arrived: it knows of this session."""


@dataclass(frozen=True, slots=True)
class Nominated:
    """The controlling peer chose this pair (controlled side only)."""

    base: Endpoint
    remote: Endpoint
    plugin: str


@dataclass(frozen=True, slots=True)
class NominationConfirmed:
    """The controlled peer acknowledged our nomination."""


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The controlled peer will not have this session, and says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class PathValidated:
    """The selected pair, chosen on trust, is validated now: it may carry anything."""


@dataclass(frozen=True, slots=True)
class CheckingEnded:
    """The selected pair is over: `reason` is a sentence; `by_peer` when the peer closed it."""

    reason: str
    by_peer: bool


CheckEvent = PairVerified | PeerHeard | PeerRefused | Nominated | NominationConfirmed | PathValidated | CheckingEnded


@dataclass(slots=True)
class _Pair:
    base: Endpoint
    remote: Endpoint
    plugin: str
    round: int = 0  # scheduled checks of earlier rounds are void
    nonce: bytes | None = None  # the peer's for our end of this pair, once it was heard there
    verified: bool = False  # we may nominate it
    validated: bool = False  # the peer receives there
    round_trip: float | None = None  # seconds from a check to its answer, of the last one that was answered


class _Due(NamedTuple):
    """A check to be sent; ordered by time, then by when it was asked for. Birthday probing has thousands of them."""

    at: float
    number: int
    pair: _Pair
    round: int
    ttl: int | None

    @property
    def void(self) -> bool:
        return self.round != self.pair.round


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Timing of one agent, seconds."""

    offsets: tuple[float, ...]
    consent_silence: float
    consent_timeout: float


class CheckAgent:
    """Feed `receive` and `handle_timeout`; drain `poll_transmit` and `poll_event`; wake at `poll_timeout`."""

    __slots__ = (
        "_codec",
        "_consented",
        "_due",
        "_events",
        "_give_up",
        "_heard",
        "_new_id",
        "_next_consent",
        "_outbox",
        "_outstanding",
        "_pairs",
        "_refusals",
        "_repeats",
        "_scheduled",
        "_settings",
        "_trust_heard",
        "_trusted",
        "controlling",
        "phase",
        "selected",
        "session",
    )

    def __init__(
        self,
        *,
        controlling: bool,
        session: bytes,
        key: bytes,
        secret: bytes,
        new_id: Callable[[], bytes],
        settings: CheckSettings,
        introduction: bytes | None = None,
        trust_heard: bool = False,
        mode: Mode = Mode.DATAGRAM,
        wanted: Wanted = ANYTHING,
    ) -> None:
        """`key`: the session's; `secret`: 32 random bytes, this side's alone and new for each session."""
        self.controlling = controlling
        self.session = session
        self.phase = Phase.CHECKING
        self.selected: tuple[Endpoint, Endpoint] | None = None
        self._codec = CheckCodec(controlling, session, key, secret, introduction, mode, wanted)
        self._heard = False
        self._trust_heard = trust_heard
        self._trusted: set[Endpoint] = set()
        self._new_id = new_id
        self._settings = settings
        self._pairs: dict[tuple[Endpoint, Endpoint], _Pair] = {}
        self._due: list[_Due] = []  # a heap
        self._scheduled = 0
        # By transaction id: the pair, whether it nominates, when it was sent.
        self._outstanding: dict[bytes, tuple[_Pair, bool, float]] = {}
        # Lists: an empty deque takes 760 bytes, and a pipe keeps its agent; both are drained after each step.
        self._outbox: list[Transmit] = []
        self._events: list[CheckEvent] = []
        self._repeats: list[float] = []  # when to send the nomination or the close again
        self._consented = 0.0  # when a check of ours on the selected pair was answered last
        self._next_consent: float | None = None
        self._give_up: float | None = None
        self._refusals: Refusals | None = None

    # -- what the owner asks for -------------------------------------------------------------------------------

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        plugin: str,
        now: float,
        offsets: Sequence[float] | None = None,
        ttl: int | None = None,
    ) -> None:
        """Schedule checks on a pair, at `now` + each offset; `ttl` limits how far they go (priming)."""
        if self.phase is not Phase.CHECKING:
            return
        pair = self._pair(base, remote, plugin)
        if pair is None or pair.verified:
            return
        for offset in self._settings.offsets if offsets is None else offsets:
            self._scheduled += 1
            heapq.heappush(self._due, _Due(now + offset, self._scheduled, pair, pair.round, ttl))
        self._send_due(now)

    def nominate(self, base: Endpoint, remote: Endpoint, now: float) -> None:
        """Choose a verified pair (controlling side): USE-CANDIDATE until acknowledged (RFC 8445 section 8.1.1)."""
        pair = self._pairs.get((base, remote))
        if not self.controlling or pair is None or not pair.verified or self.phase is not Phase.CHECKING:
            raise ProtocolError(f"cannot nominate {base} -> {remote} now")
        self.phase = Phase.NOMINATING
        self._select(pair, now)
        self._repeats = [now + offset for offset in NOMINATION_OFFSETS]
        self._send_repeats(now)

    def close(self, now: float) -> None:
        """Tell the peer that the selected pair is over; `CheckingEnded` follows when it knows, or soon."""
        if self.phase in (Phase.CLOSING, Phase.ENDED):
            return
        if self.selected is None:
            self._end("closed", by_peer=False)
            return
        self.phase = Phase.CLOSING
        self._next_consent = None
        self._repeats = [now + offset for offset in CLOSE_OFFSETS]
        self._send_repeats(now)

    def insist(self, now: float) -> None:
        """Say once more that the selected pair is over, if the peer is not known to know: we shall not be there to."""
        if self.phase is Phase.CLOSING and self.selected is not None:
            self._send_check(self._pairs[self.selected], None, now, Attribute.WG_CLOSE)

    def trust(self, base: Endpoint) -> None:
        """What is sent from `base` leaves from `base` itself (a relay): whoever was heard there can be reached."""
        self._trusted.add(base)

    def abandon(self, reason: str) -> None:
        """End without a word to the peer; `CheckingEnded` follows."""
        self._end(reason, by_peer=False)

    def ask(self, now: float) -> None:
        """There is a sign that the selected pair's other end may be gone: one check now, besides those that are due."""
        if self.phase is Phase.SELECTED and self.selected is not None:
            self._send_check(self._pairs[self.selected], None, now)

    def refused(self, now: float) -> None:
        """Nobody listens at the selected pair's other end, its machine says: consent is asked for. See `refusals`.

        Not to be told of a peer behind a router, which may say so of a mapping that the peer renews in a moment.
        """
        if self.selected is None or self.phase not in (Phase.NOMINATING, Phase.SELECTED):
            return
        if self._refusals is None:
            self._refusals = Refusals()
        self._refusals.heard(now)
        if self._refusals.believed(now):
            self._end(f"nobody listens at {self.selected[1]} any more", by_peer=False)
        elif self._next_consent is not None and self._next_consent > now + CONSENT_REPEAT:
            self._next_consent = now

    @property
    def undecided(self) -> bool:
        """Whether the choice is ours, and the peer has not acknowledged any yet."""
        return self.controlling and self.phase in (Phase.CHECKING, Phase.NOMINATING)

    def knows(self, base: Endpoint, remote: Endpoint) -> bool:
        """Whether the peer proved itself from `remote`."""
        pair = self._pairs.get((base, remote))
        return pair is not None and pair.nonce is not None

    @property
    def path_validated(self) -> bool:
        """Whether the peer is known to receive at the selected pair."""
        return self.selected is not None and self._pairs[self.selected].validated

    @property
    def round_trip(self) -> float | None:
        """Of the selected pair, in seconds, as its checks have measured it, each with an id of its own; None where only
        the peer has been heard by it so far.
        """
        return None if self.selected is None else self._pairs[self.selected].round_trip

    # -- the five verbs ------------------------------------------------------------------------------------------

    def receive(self, data: bytes, base: Endpoint, remote: Endpoint, now: float) -> None:
        """One STUN message of this session. DecodeError, AuthenticationError when it is not what it must be."""
        check = self._codec.open(data, remote)
        if not self._heard:
            self._heard = True
            self._events.append(PeerHeard())
        if check.message.cls is StunClass.REQUEST:
            self._request(check, base, remote, now)
        elif check.message.cls is StunClass.SUCCESS:
            self._response(check, remote, now)
        elif (error := check.message.error) and self.controlling and self.phase is Phase.CHECKING:
            self._events.append(PeerRefused(error.reason))

    def handle_timeout(self, now: float) -> None:
        """Send what is due, notice what has expired."""
        if self.phase is Phase.CHECKING:
            self._send_due(now)
        else:
            self._send_repeats(now)
        if self._give_up is not None and now >= self._give_up:
            never = "closed" if self.phase is Phase.CLOSING else "the peer never acknowledged the nomination"
            self._end(never, by_peer=False)
        if self._next_consent is not None and now >= self._next_consent:
            self._consent(now)

    def poll_transmit(self) -> Transmit | None:
        return self._outbox.pop(0) if self._outbox else None

    def poll_event(self) -> CheckEvent | None:
        return self._events.pop(0) if self._events else None

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called, None for never."""
        times = [at for at in (self._next_consent, self._give_up) if at is not None]
        if self._repeats:
            times.append(self._repeats[0])
        if self.phase is Phase.CHECKING:
            while self._due and self._due[0].void:
                heapq.heappop(self._due)
            times.extend(due.at for due in self._due[:1])
        return min(times, default=None)

    # -- receiving -----------------------------------------------------------------------------------------------

    def _request(self, check: OpenedCheck, base: Endpoint, remote: Endpoint, now: float) -> None:
        pair = self._pair(base, remote, check.plugin)
        if pair is None:
            return
        self._learn(pair, check.nonce)
        if check.echoed:
            self._validated(pair)
        if check.chooses and check.echoed:
            self._nominated(pair, check.plugin, now)
        chosen = check.chooses and self.selected == (base, remote)
        answer = self._codec.answer(check.message.transaction_id, remote, chosen=chosen)
        self._outbox.append(Transmit(answer, base, remote, None))
        if Attribute.WG_CLOSE in check.message:
            if self.selected == (base, remote):
                self._end("closed by the peer", by_peer=True)
        elif self.controlling and self.phase is Phase.CHECKING and not pair.verified:
            pair.plugin = check.plugin or pair.plugin  # its sending opened the way, whoever else had tried
            if self._trust_heard or base in self._trusted:
                self._verified(pair)
            else:  # a triggered check (RFC 8445 section 7.3.1.4)
                self._send_check(pair, None, now)

    def _nominated(self, pair: _Pair, label: str, now: float) -> None:
        if self.phase is not Phase.CHECKING:
            return  # a repetition, or a second choice: the first one stands
        self.phase = Phase.SELECTED
        pair.plugin = label or pair.plugin
        self._select(pair, now)
        self._events.append(Nominated(pair.base, pair.remote, pair.plugin))

    def _response(self, check: OpenedCheck, remote: Endpoint, now: float) -> None:
        pair, nominating, sent = self._outstanding.pop(check.message.transaction_id, (None, False, now))
        if pair is None or pair.remote != remote:  # RFC 8445 section 7.2.5.2.1: symmetric addresses only
            return
        news = self._learn(pair, check.nonce)
        pair.round_trip = now - sent
        self._validated(pair)
        if self.selected == (pair.base, pair.remote):
            self._consented = now
            self._refusals = None
        if self.phase is Phase.CLOSING:
            self._end("closed", by_peer=False)
        elif nominating and self.phase is Phase.NOMINATING:
            self._nomination_answered(pair, check.chooses, news, now)
        elif self.controlling and self.phase is Phase.CHECKING and not pair.verified:
            self._verified(pair)

    def _nomination_answered(self, pair: _Pair, chosen: bool, news: bool, now: float) -> None:
        if chosen:
            self.phase = Phase.SELECTED
            self._repeats.clear()
            self._give_up = None
            self._events.append(NominationConfirmed())
        elif news:  # we gave back a nonce for another endpoint than the one that we are seen at
            self._send_check(pair, None, now, Attribute.USE_CANDIDATE)

    def _learn(self, pair: _Pair, nonce: bytes | None) -> bool:
        """The peer's nonce for this pair; whether it is another one than before."""
        news = nonce is not None and nonce != pair.nonce
        if news:
            pair.nonce = nonce
        return news

    def _validated(self, pair: _Pair) -> None:
        if not pair.validated:
            pair.validated = True
            if self.selected == (pair.base, pair.remote):
                self._events.append(PathValidated())

    def _verified(self, pair: _Pair) -> None:
        pair.verified = True
        pair.round += 1
        self._events.append(PairVerified(pair.base, pair.remote, pair.plugin))

    # -- sending -------------------------------------------------------------------------------------------------

    def _send_due(self, now: float) -> None:
        while self._due and self._due[0].at <= now:
            due = heapq.heappop(self._due)
            if not due.void:
                self._send_check(due.pair, due.ttl, now)

    def _send_check(self, pair: _Pair, ttl: int | None, now: float, *flags: Attribute) -> None:
        transaction_id = self._new_id()
        data = self._codec.request(
            transaction_id, pair.plugin, pair.remote, *flags, echo=pair.nonce, introduce=not self._heard
        )
        if len(self._outstanding) >= MAX_OUTSTANDING:
            self._outstanding.pop(next(iter(self._outstanding)))
        self._outstanding[transaction_id] = (pair, Attribute.USE_CANDIDATE in flags, now)
        self._outbox.append(Transmit(data, pair.base, pair.remote, ttl))

    def _send_repeats(self, now: float) -> None:
        if self.selected is None:
            return
        pair = self._pairs[self.selected]
        what = Attribute.WG_CLOSE if self.phase is Phase.CLOSING else Attribute.USE_CANDIDATE
        while self._repeats and self._repeats[0] <= now:
            self._repeats.pop(0)
            self._send_check(pair, None, now, what)
            if not self._repeats:
                self._give_up = now + LAST_ANSWER

    def _consent(self, now: float) -> None:
        silence = now - self._consented
        if silence >= self._settings.consent_timeout:
            self._end(f"no answer from the peer for {silence:.0f} s", by_peer=False)
            return
        due = self._consented + self._settings.consent_silence
        if (now >= due or self._refusals is not None) and self.selected is not None:
            self._send_check(self._pairs[self.selected], None, now)
            due = now + (CONSENT_REPEAT if self._refusals is None else DOUBT_REPEAT)
        self._next_consent = due

    # -- small parts ---------------------------------------------------------------------------------------------

    def _pair(self, base: Endpoint, remote: Endpoint, plugin: str) -> _Pair | None:
        pair = self._pairs.get((base, remote))
        if pair is None and len(self._pairs) < MAX_PAIRS:
            pair = self._pairs[(base, remote)] = _Pair(base, remote, plugin)
        return pair

    def _select(self, pair: _Pair, now: float) -> None:
        self.selected = (pair.base, pair.remote)
        self._pairs = {self.selected: pair}  # a pipe lives long: it does not carry along what was tried before it
        self._outstanding = {key: asked for key, asked in self._outstanding.items() if asked[0] is pair}
        self._consented = now
        self._next_consent = now + self._settings.consent_silence
        self._due.clear()

    def _end(self, reason: str, by_peer: bool) -> None:
        if self.phase is not Phase.ENDED:
            self.phase = Phase.ENDED
            self._repeats.clear()
            self._next_consent = self._give_up = None
            self._events.append(CheckingEnded(reason, by_peer))
