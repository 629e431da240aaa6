"""Envelopes in: from bytes that anybody may have published to the session they belong to."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from warpgate.core.search.equipment import Equipment
from warpgate.core.search.rations import Ration, offering
from warpgate.core.search.responder import NotMeant, Overloaded, Responder, SessionOver, Unsure
from warpgate.core.search.sessions import Sessions
from warpgate.core.search.twins import Twins
from warpgate.errors import AuthenticationError, ProtocolError, WarpgateError
from warpgate.events import ClocksDiffer, SignalReceived, SignalRefused
from warpgate.model.identity import node_id_of
from warpgate.proto.envelope import Opened, open_envelope
from warpgate.proto.gate import GLOBAL_BURST, GLOBAL_RATE, WINDOW, Duplicate, EnvelopeGate, Stale
from warpgate.proto.instances import PATIENCE
from warpgate.proto.signals import MAX_REASON, Signal, SignalKind

# Sessions whose offers wait until it is known for whom they are; what is beyond comes again.
HELD = 64


class SignalReader:
    """Opens, checks and routes envelopes. What is refused is counted by its event and otherwise forgotten."""

    def __init__(self, equipment: Equipment, sessions: Sessions, responder: Responder, twins: Twins) -> None:
        self._equipment = equipment
        self._context = context = equipment.context
        self._sessions = sessions
        self._responder = responder
        self._twins = twins
        self._held: set[bytes] = set()
        self._gate = EnvelopeGate(context.now())
        # A half is left to strangers: who opens pipes all the time has marks all the time.
        self._marked = Ration(GLOBAL_RATE / 2, GLOBAL_BURST / 2, context.now())
        # To sign, seal and publish costs more than to open. Apart: who may not come in uses up no challenges.
        budgets = context.config.budgets
        self._answers = {
            kind: Ration(budgets.offers_per_second, budgets.offers_at_once, context.now())
            for kind in (SignalKind.REFUSAL, SignalKind.CHALLENGE)
        }

    def receive(self, data: bytes) -> None:
        """Never raises: the sender may be anybody."""
        context = self._context
        sender = "?"
        try:
            self._gate.admit_bytes(len(data), context.now(), marked=self._is_marked(data))
            opened = open_envelope(context.identity, data)
            sender = node_id_of(opened.sender)
            self._gate.admit(opened, context.now())
            self._route(opened, sender)
        except Duplicate:
            return  # the same envelope over another broker
        except ProtocolError as error:
            context.emit(SignalRefused(sender, str(error)))

    def _is_marked(self, data: bytes) -> bool:
        """Whether it has its turn before those of strangers."""
        acquainted = self._context.acquainted
        peer = acquainted.marks.take(data)
        place = None if peer is None else acquainted.place_of(peer)
        return peer is not None and self._marked.take(self._context.now(), True, place or peer)

    def _route(self, opened: Opened, sender: str) -> None:
        signal = opened.signal
        kind = signal.kind.name.lower()
        self._context.emit(SignalReceived(kind, signal.session.hex(), sender, signal.sequence))
        if signal.kind is SignalKind.OFFER:
            self._offer(opened)
            return
        if signal.kind is SignalKind.TWIN:
            if opened.sender != self._context.identity.public_key:
                raise AuthenticationError("somebody else's word about who has this key")
            self._twins.receive(opened)
            return
        session = self._sessions.get(signal.session)
        if session is None or not session.initiator:
            return  # late: the attempt is over
        if session.peer_key != opened.sender:
            raise AuthenticationError("an answer to somebody else's offer")
        if signal.kind is SignalKind.REFUSAL:
            session.take_refusal(signal.reason)
        elif signal.kind is SignalKind.CHALLENGE:
            session.take_challenge(signal)
        else:
            session.take_signal(signal, opened.address)

    def _offer(self, opened: Opened) -> None:
        if not self._context.config.accept and not self._responder.expects(opened):
            return  # another process of the same identity may be the one that is meant
        try:
            self._responder.offer(opened)
        except Stale:
            ahead = opened.signal.time - self._context.wall_clock()
            if abs(ahead) > WINDOW:
                self._context.emit(ClocksDiffer(node_id_of(opened.sender), ahead))
            self._answer(opened, SignalKind.CHALLENGE, token=self._responder.token(opened))
        except Unsure:
            self._hold(opened)
        except (Overloaded, NotMeant):
            raise  # neither refused nor acknowledged: an honest peer says it again
        except AuthenticationError as error:
            self._answer(opened, SignalKind.REFUSAL, reason=str(error)[:MAX_REASON])
            told = not isinstance(error, SessionOver)  # of a pipe that there was: nobody is kept out
            self._context.emit(SignalRefused(node_id_of(opened.sender), str(error), told))

    def _hold(self, opened: Opened) -> None:
        """Look at it again when those who may be meant have had their time to say that they are there."""
        session = opened.signal.session
        if session not in self._held and len(self._held) < HELD:
            task = self._context.tasks.spawn("an offer for another process", self._look_again(opened))
            if task is not None:
                self._held.add(session)
                task.add_done_callback(lambda _: self._held.discard(session))

    async def _look_again(self, opened: Opened) -> None:
        await asyncio.sleep(PATIENCE)
        try:
            self._offer(opened)
        except ProtocolError as error:
            self._context.emit(SignalRefused(node_id_of(opened.sender), str(error)))

    def _answer(self, opened: Opened, kind: SignalKind, *, reason: str = "", token: bytes = b"") -> None:
        """Unless there are too many just now: an honest peer says its offer again."""
        context = self._context
        crowds = offering(context, opened)
        if not self._answers[kind].take(context.now(), context.knows(opened.sender), *crowds):
            return
        signal = Signal(
            kind=kind,
            session=opened.signal.session,
            sequence=1,
            acknowledges=opened.signal.sequence if kind is SignalKind.REFUSAL else 0,
            time=context.wall_clock(),
            address=context.address.encode(),
            mode=opened.signal.mode,
            reason=reason,
            token=token,
        )
        with suppress(WarpgateError):
            self._equipment.publish(opened.sender, signal, self._equipment.channel.brokers)
