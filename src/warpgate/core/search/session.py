"""One session: what the initiator and the responder of one attempt share.

Messages of the peer's plugins, inbound TCP links and verified UDP pairs arrive here and wait, by plugin, for the
plugin that wants them. The session owns everything opened for it; `close` leaves only what the winner took along.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, Protocol, TypeVar

from warpgate.core.connection.errand import A_PIPE, Errand
from warpgate.core.pipes.tls import TlsEnds
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.links import TcpLink, UdpLink
from warpgate.core.search.outbox import Outbox
from warpgate.core.search.ports import FoundBefore, SessionPorts
from warpgate.core.search.quic_ahead import QuicAhead
from warpgate.core.search.relays import SessionRelays
from warpgate.core.udp.demultiplexer import SessionChecks
from warpgate.errors import AttemptFailed
from warpgate.events import ClocksDiffer, LinkVerified, PeerPlaced, PeerTwinned, PluginNoted, SignalSent
from warpgate.model.address import NodeAddress
from warpgate.model.broker import BrokerRef
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.identity import node_id_of
from warpgate.model.text import printable
from warpgate.model.wanted import ANYTHING, Wanted
from warpgate.plan.patience import LONGEST_SIGNAL, patience_of, round_trip_of
from warpgate.plan.relay import Hope, direct_hope
from warpgate.plan.targets import names_a_stranger, refusal
from warpgate.proto.check import (
    CheckAgent,
    CheckEvent,
    CheckSettings,
    Nominated,
    PairVerified,
    PeerHeard,
    PeerRefused,
)
from warpgate.proto.gate import WINDOW
from warpgate.proto.hello import Role
from warpgate.proto.signals import MAX_REASON, PluginMessage, Signal, SignalKind

T = TypeVar("T")
# A plugin that does not read its messages or links is not waited for; a hostile peer fills no more than this.
BACKLOG = 32
# A message is not repeated before its answer should have come, twice over.
SIGNAL_ROUND_TRIPS = 2
# A TCP or QUIC handshake over a relay: there and back takes two signals, and something may be lost.
HELLO_SIGNALS = 4


class Mailbox(Generic[T]):
    """Bounded queues by plugin name; what does not fit is handed to `discard`."""

    def __init__(self, discard: Callable[[T], None]) -> None:
        self._discard = discard
        self._queues: dict[str, asyncio.Queue[T]] = {}

    def queue(self, plugin: str) -> asyncio.Queue[T]:
        return self._queues.setdefault(plugin, asyncio.Queue(BACKLOG))

    def put(self, plugin: str, item: T) -> None:
        if plugin not in self._queues and len(self._queues) >= BACKLOG:
            self._discard(item)
            return
        try:
            self.queue(plugin).put_nowait(item)
        except asyncio.QueueFull:
            self._discard(item)

    def clear(self) -> None:
        for queue in self._queues.values():
            while not queue.empty():
                self._discard(queue.get_nowait())


class SessionOwner(Protocol):
    """Who began a session, the initiator or the host of a peer's, and decides about it."""

    def check_event(self, event: CheckEvent) -> None:
        """What the session's checks tell, until a pipe takes them over."""

    def knowledge_changed(self) -> None:
        """More, or something else, is known of the peer or of ourselves."""

    def refused(self, reason: str) -> None:
        """The peer will not have this session."""

    def keep_link(self, link: TcpLink) -> bool:
        """Whether a proved link is taken, to wait until it is nominated."""

    def tcp_may_come(self) -> bool:
        """Whether a TCP link is still hoped for."""


class Session:
    """State of one attempt on one side, from its first sign to the pipe or the failure.

    What the peer is known by (`remote`, `token`, the measured delay of a signal) is what its last fresh signal said;
    `seen_sequences` and `heard_at` are what we acknowledge of it. Checks, sockets and links that were opened for the
    attempt are ours until `close`, but for those that a pipe has taken along: the checks by `SessionChecks.hand_over`,
    a socket by `SessionPorts.keep`. `flight` goes with the first offer and checks. Nothing of a pipe leads back here.
    """

    def __init__(
        self,
        equipment: Equipment,
        owner: SessionOwner,
        session_id: bytes,
        peer_key: bytes,
        key: bytes,
        *,
        initiator: bool,
        mode: Mode,
        remote: NodeAddress | None,
        secure: bool = False,
        wanted: Wanted = ANYTHING,
        errand: Errand = A_PIPE,
    ) -> None:
        """`key`: the session's, of `Identity.session_key`. `secure`: the initiator wants TLS on TCP. `wanted`: of the
        responder. `errand`: of an initiator that looks for a path.
        """
        self.equipment = equipment
        self.context = context = equipment.context
        self._owner = owner
        self.id = session_id
        self.peer_key = peer_key
        self.peer = node_id_of(peer_key)
        self.initiator, self.mode, self.secure = initiator, mode, secure
        self.wanted, self._errand, self.flight = wanted, errand, errand.flight
        self.ahead: QuicAhead | None = None
        self._instance_heard = self._warned = False  # of the wanted one by a signal; of a twin of the peer's
        self.remote = remote if remote is not None else NodeAddress(peer_key, (), ())
        self.key = key
        self.started = context.now()
        self.messages: Mailbox[bytes] = Mailbox(lambda _: None)
        self.inbound: Mailbox[TcpLink] = Mailbox(TcpLink.abort)
        self.verified: Mailbox[UdpLink] = Mailbox(UdpLink.abort)
        self.running: list[str] = []  # plugins at work: links of others are theirs to take
        self.remote_version = 0
        self._remote_changed = context.new_future()
        self._news = context.new_future()
        self.measured_delay: float | None = None
        self._measured_surely = False
        self.answered = False  # whether anything came from the peer that proves its key
        self.offers = 0  # of our signals, how many left to a broker at once
        self.first_offer_at: float | None = None
        self.setbacks: dict[str, list[str]] = {}  # by plugin: which of its ways have failed so far
        self.token = b""  # what the peer gave us to show that our offers are no recordings
        self.heard_at: float | None = None
        self.first_heard_at = 0.0
        self.seen_sequences: set[int] = set()
        self._checks: SessionChecks | None = None
        self.ports = SessionPorts(equipment)
        self.found = FoundBefore(self)
        self._nonces: set[bytes] = set()
        self.relays = SessionRelays(self)
        self.stack = contextlib.ExitStack()
        self.stack.callback(self.relays.close)
        self.stack.callback(equipment.found.watch(self._say_news))
        self.pace = equipment.pace(peer_key)
        self.outbox = Outbox(self._post, self._repeats, partial(self.note, "signals"), self.pace)
        self.stack.callback(self.outbox.close)

    @property
    def invited(self) -> bool:
        """Whether our user asked for this peer: a search for one that came says no."""
        return self.initiator and self._errand.invited

    @property
    def seeker(self) -> bytes:
        """The peer's process that looks for a path: by one search at a time. b"": it wants a pipe, of which there may
        be several at once.
        """
        return self.remote.instance if self.mode is Mode.PATH else b""

    @property
    def renewing(self) -> bool:
        """Whether a path is to be replaced whose mappings are old."""
        return self._errand.renews

    # -- saying --------------------------------------------------------------------------------------------------

    def note(self, plugin: str, text: str) -> None:
        self.context.emit(PluginNoted(self.id.hex(), plugin, self.context.now(), text))

    def _post(self, sequence: int, messages: tuple[PluginMessage, ...]) -> None:
        kind = SignalKind.OFFER if self.initiator else SignalKind.ANSWER
        context, equipment = self.context, self.equipment
        signal = Signal(
            kind=kind,
            session=self.id,
            sequence=sequence,
            acknowledges=self.acknowledges,
            time=max(0.0, context.wall_clock() + equipment.clocks.get(self.peer_key, 0.0)),
            address=context.address.encode(),
            messages=messages,
            known=self.remote.plan_digest(context.address) if self.initiator else b"",
            held=-1.0 if self.heard_at is None else context.now() - self.heard_at,
            mode=self.mode.value,
            secure=self.secure,
            token=self.token,
            wanted=self.wanted.encode() if self.initiator else b"",
            reason="" if self.initiator else context.instances.warning[:MAX_REASON],
            connection=self._errand.connection,
            flight=self.flight if self.heard_at is None else (),
        )
        brokers = self.brokers
        if not brokers:
            raise AttemptFailed("the peer's address names no broker, so it cannot be signalled")
        count = equipment.publish(self.peer_key, signal, brokers)
        if count:
            self.offers += 1
            self.first_offer_at = context.now() if self.first_offer_at is None else self.first_offer_at
        context.emit(SignalSent(kind.name.lower(), self.id.hex(), self.peer, sequence, count))

    def correct(self, known: bytes) -> None:
        """Tell the peer our address where it works with another one: `known` is the plan digest of that.

        At once if it aims at wrong endpoints, or if no direct link can come of what it does. Otherwise the first volley
        is given the time to succeed, which makes the signal needless.
        """
        own, context = self.context.address, self.context
        self._say_news()
        if known == own.plan_digest(self.remote):
            return
        hopeless = direct_hope(own, self.remote, Transport, context.around).hope is Hope.NONE
        at_once = hopeless or own.moved_since(known)
        self.outbox.schedule(0.0 if at_once else context.config.timing.correction_delay)

    @property
    def role(self) -> Role:
        return Role.INITIATOR if self.initiator else Role.RESPONDER

    @property
    def tls_ends(self) -> TlsEnds:
        """Who may be at the ends of TLS on this session's link."""
        return TlsEnds(self.context.identity, self.peer_key, self.id, client=self.initiator)

    @property
    def acknowledges(self) -> int:
        """The peer's highest sequence before which none is missing."""
        highest = 0
        while highest + 1 in self.seen_sequences:
            highest += 1
        return highest

    @property
    def brokers(self) -> tuple[BrokerRef, ...]:
        """Where the peer is signalled. What answers a stranger's offer goes over our own brokers, where it came from,
        and what looks for a peer that our user did not ask for goes to those of its brokers that are ours as well: or
        anybody could make us connect to a host of its choice.
        """
        own, theirs = self.equipment.channel.brokers, self.remote.brokers
        if not self.initiator:
            return own
        if self.invited:
            return theirs
        ours = {broker.url for broker in own}
        return tuple(broker for broker in theirs if broker.url in ours)

    @property
    def signal_delay(self) -> float | None:
        """Estimated one-way time of a signal to the peer, seconds: as far as the peer's word for it is taken."""
        delay = self.measured_delay
        if delay is None:
            delay = self.equipment.channel.one_way(self.remote.brokers)
        return None if delay is None else min(delay, LONGEST_SIGNAL)

    @property
    def round_trip(self) -> float | None:
        """Seconds that packets to the peer and back may take, as far as that is known before there is a path."""
        return round_trip_of(self.signal_delay, self.equipment.discovery.round_trip)

    def patience(self, least: float, signals: float) -> float:
        """Seconds to wait for something of the peer's: `least`, or what so many signals take where ways are slow."""
        return patience_of(least, signals, self.round_trip)

    @property
    def hello_patience(self) -> float:
        """Until a handshake of two ways there and back is over, on a link of this session's."""
        return self.patience(self.context.config.budgets.hello_patience, HELLO_SIGNALS)

    # -- hearing -------------------------------------------------------------------------------------------------

    def take_signal(self, signal: Signal, remote: NodeAddress) -> tuple[str, ...]:
        """Accept a fresh envelope of the peer's; returns the plugins it has messages for, in order."""
        if not self._of_the_wanted(remote):
            return ()
        self._heard()
        if self.initiator and signal.reason and not self._warned:
            self._warned = True
            self.context.emit(PeerTwinned(self.id.hex(), self.peer, signal.reason))
        if signal.acknowledges:
            self._measure(signal)
            self.outbox.acknowledged(signal.acknowledges)
        if signal.sequence:
            if signal.sequence in self.seen_sequences:
                self.outbox.acknowledge(0.0)
                return ()
            self.seen_sequences.add(signal.sequence)
            self.heard_at = self.context.now()
            self.first_heard_at = self.first_heard_at or self.heard_at
            self.outbox.acknowledge(self.context.config.timing.answer_delay)
        if remote.reach_digest != self.remote.reach_digest:
            self._take_remote(remote)
        elif remote != self.remote:
            self.remote = remote  # it may have learnt more of its NATs
            self.say_placed()
        self.relays.let_in()
        for message in signal.messages:
            self.messages.put(message.name, message.body)
        self._say_news()
        return tuple(dict.fromkeys(message.name for message in signal.messages))

    def _of_the_wanted(self, remote: NodeAddress) -> bool:
        """Several processes of the peer's key may answer. From the first that does on, one is meant; but whoever was
        named comes before others, who answer only where it is known to be gone.
        """
        if not self.initiator or not remote.instance:
            return True
        if remote.instance != self.wanted.instance:
            if self._instance_heard:
                return False
            self.wanted = replace(self.wanted, instance=remote.instance)
        self._instance_heard = True
        return True

    def news_in(self, signal: Signal, remote: NodeAddress) -> bool:
        """Whether `take_signal` would make plugins do something: it brings messages, or endpoints, not seen yet."""
        moved = remote.reach_digest != self.remote.reach_digest
        return moved or bool(signal.messages and signal.sequence not in self.seen_sequences)

    def _take_remote(self, remote: NodeAddress) -> None:
        """A fresher address of the peer's; signals may overtake each other, but hardly within one attempt."""
        self.remote = remote
        self.remote_version += 1
        changed, self._remote_changed = self._remote_changed, self.context.new_future()
        changed.set_result(None)
        self.say_placed()

    def say_placed(self) -> None:
        if self.initiator:
            self.context.emit(PeerPlaced(self.id.hex(), self.peer, self.remote.to_text()))

    def _say_news(self) -> None:
        """More, or something else, is known of the peer or of ourselves."""
        news, self._news = self._news, self.context.new_future()
        news.set_result(None)
        self._owner.knowledge_changed()

    async def knowledge_changed(self) -> None:
        await asyncio.shield(self._news)

    async def remote_newer_than(self, version: int) -> int:
        """Wait until `remote_version` is above `version`; returns it."""
        while self.remote_version <= version:
            await asyncio.shield(self._remote_changed)
        return self.remote_version

    def _repeats(self) -> Sequence[float]:
        """When a signal is repeated, seconds after the first: once in any case."""
        soonest = SIGNAL_ROUND_TRIPS * 2 * (self.signal_delay or 0.0)
        offsets = self.context.config.timing.offer_offsets
        return [offset for offset in offsets if offset >= soonest] or offsets[-1:]

    def _measure(self, signal: Signal) -> None:
        """From a message that was repeated the first copy counts, until there is a better one: brokers delay more than
        they lose, and where a repetition always comes before the acknowledgement, it is all there is.
        """
        sent = self.outbox.sent_at(signal.acknowledges)
        certain = not self.outbox.repeated(signal.acknowledges)
        if sent is None or signal.held < 0 or self._measured_surely:
            return
        if self.measured_delay is None or certain:
            self.measured_delay = max(0.0, self.context.now() - sent - signal.held) / 2
            self._measured_surely = certain

    def tcp_may_come(self) -> bool:
        return not self.secure and self._owner.tcp_may_come()

    def keep_link(self, link: TcpLink) -> bool:
        return self._owner.keep_link(link)

    def take_refusal(self, reason: str) -> None:
        """The peer will not have this session."""
        self.note("signals", f"the peer refused: {reason}")
        self._owner.refused(reason)

    def take_challenge(self, signal: Signal) -> None:
        """The peer can't tell our offer from a recording: say it again at once, by its clock and with its token."""
        self.answered = True
        ahead = signal.time - self.context.wall_clock()
        self.equipment.clocks[self.peer_key] = ahead
        if abs(ahead) > WINDOW:
            self.context.emit(ClocksDiffer(self.peer, ahead))
        if signal.token != self.token:
            self.token = signal.token
            self.outbox.repeat_all()

    def peer_heard(self) -> None:
        """The peer spoke under the session key: it has our first offer (or needs none)."""
        self._heard()
        self.outbox.acknowledged(1)

    def _heard(self) -> None:
        self.answered = True
        self.pace.heard_at = self.context.now()

    def fresh_nonce(self, nonce: bytes) -> bool:
        """False for a HELLO that was seen before in this session."""
        if nonce in self._nonces or len(self._nonces) >= 4 * BACKLOG:
            return False
        self._nonces.add(nonce)
        return True

    def add_inbound(self, link: TcpLink) -> None:
        """A TCP link that the peer dialled, already proved."""
        self.peer_heard()
        self.say_verified(link)
        self.equipment.unchosen.add(self.id, link, ours=self.initiator)
        self.inbound.put(self._taker(link.plugin), link)

    def _taker(self, plugin: str) -> str:
        return plugin if plugin in self.running or not self.running else self.running[0]

    def say_verified(self, link: TcpLink | UdpLink) -> None:
        self.answered = True
        self.context.emit(
            LinkVerified(
                self.id.hex(),
                link.plugin,
                self.context.now(),
                link.transport.value,
                str(link.local),
                str(link.remote),
            )
        )

    # -- checks --------------------------------------------------------------------------------------------------

    @property
    def checks(self) -> SessionChecks:
        """This session's connectivity checks, set up on first use."""
        if self._checks is None:
            context, timing = self.context, self.context.config.timing
            silence = min(timing.consent_silence, self.equipment.discovery.forgotten_after or math.inf)
            agent = CheckAgent(
                controlling=self.initiator,
                session=self.id,
                key=self.key,
                secret=context.random_bytes(32),
                new_id=lambda: context.random_bytes(12),
                settings=CheckSettings(timing.check_offsets, silence, timing.consent_timeout),
                introduction=context.identity.public_key if self.initiator else None,
                trust_heard=context.heard_is_reachable,
                mode=self.mode,
                wanted=self.wanted,
            )
            udp = self.equipment.udp
            self._checks = SessionChecks(udp, agent, self.peer_key, self._check_event)
            udp.sessions[self.id] = self._checks
            if self.flight:
                self._checks.greet(self.flight)
        return self._checks

    def begin_quic(self) -> None:
        """At the initiator of a stream that UDP may carry."""
        self.ahead = ahead = QuicAhead(self.equipment, self.peer_key, self.id)
        self.flight = ahead.flight
        self.stack.callback(ahead.close)

    def knows(self, base: Endpoint, remote: Endpoint) -> bool:
        """Whether the peer has proved itself to our socket `base` from `remote`."""
        return self._checks is not None and self._checks.agent.knows(base, remote)

    def _check_event(self, event: CheckEvent) -> None:
        if isinstance(event, PeerHeard):
            self.peer_heard()
        elif isinstance(event, PeerRefused):
            self.take_refusal(printable(event.reason))
        elif isinstance(event, PairVerified | Nominated):
            link = self.udp_link(event)
            self.say_verified(link)
            if isinstance(event, Nominated):
                self.equipment.random_punches.take(event.base, self)
            else:
                self._take_verified(link)
        self._owner.check_event(event)

    def udp_link(self, event: PairVerified | Nominated) -> UdpLink:
        relayed = self.relays.carry(event.plugin, event.base, event.remote)
        return UdpLink(self.checks, event.base, event.remote, event.plugin, relayed=relayed)

    def _take_verified(self, link: UdpLink) -> None:
        # QUIC is told apart by its connection ids: streams and paths share a pair.
        if self.mode is not Mode.DATAGRAM or self.equipment.udp.claim(self.checks, link.local, link.remote):
            self.equipment.random_punches.take(link.local, self)
            self.verified.put(self._taker(link.plugin), link)
        else:
            self.note(link.plugin, f"{link.local} -> {link.remote} carries another pipe already")

    def refuse_target(self, endpoint: Endpoint) -> str | None:
        """Why the peer may not have this endpoint tried, or None."""
        if names_a_stranger(endpoint, self.remote):
            return f"{endpoint} is not one of the peer's own addresses"
        return refusal(endpoint, self.context.address, self.remote, self.context.around, self.invited)

    def close(self) -> None:
        """Drop everything that no pipe took along; idempotent."""
        self.equipment.udp.retire(self.id)
        self.equipment.unchosen.forget(self.id)
        self.stack.close()
        self.inbound.clear()
        self.verified.clear()
        if self._checks is not None and self._checks.agent.selected is None:
            self.equipment.udp.forget(self._checks)
        self.ports.close()  # but where others have flows
