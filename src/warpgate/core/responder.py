"""The responding side: sessions that others began, by an offer, a HELLO or a first check.

A responder dials and probes on a peer's word, so all of it is bounded: sessions at once, offers per peer, targets by
policy. It hands out a pipe only for the one link that the initiator nominates; everything else ends with the session.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

from warpgate.core.attempt import PluginAttempt
from warpgate.core.engine import Engine
from warpgate.core.hub import CheckSession, Port, UdpHub
from warpgate.core.links import TcpLink, UdpLink
from warpgate.core.pipe import Pipe
from warpgate.core.pipes import PipeMaker
from warpgate.core.quic_flow import QuicFlow
from warpgate.core.quic_link import QuicLink
from warpgate.core.session import Session
from warpgate.core.tasks import Tasks
from warpgate.errors import AuthenticationError, DecodeError, NetworkError, ProtocolError, WarpgateError
from warpgate.events import PluginEnded, PluginStarted, SignalRefused, StrangerRefused, TargetsRefused
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.identity import node_id_of
from warpgate.plan.cascade import CARRIERS
from warpgate.plan.targets import refusals
from warpgate.plugins.base import Plugin
from warpgate.proto.check import CheckEvent, CheckingEnded, Nominated
from warpgate.proto.check_wire import introduction_of
from warpgate.proto.envelope import Opened
from warpgate.proto.gate import TokenBucket
from warpgate.proto.hello import HelloReceived
from warpgate.proto.signals import Signal

PEERS_REMEMBERED = 1024
SESSIONS_REMEMBERED = 4096

TOO_MANY = "more offers from all peers together than this node answers"

ONLY_ENCRYPTED = "this node takes only encrypted pipes"

PipeTaker = Callable[[Pipe], None]


class HostedSession:
    """One session that a peer began: its plugins' answers, its links, and who of them was nominated."""

    def __init__(self, responder: Responder, engine: Engine, session: Session) -> None:
        self.session = session
        self._responder = responder
        self._engine = engine
        self._tasks = Tasks(lambda name, error: session.note(name, str(error)), within=engine.tasks)
        self._over = False
        self._started: set[str] = set()
        self._quic: dict[tuple[Endpoint, Endpoint], QuicFlow] = {}  # proved, by pair
        self._nominated_link: UdpLink | None = None  # of a stream whose QUIC handshake is still going on
        loop = asyncio.get_running_loop()
        patience = loop.call_later(engine.config.timing.responder_patience, self.end)
        session.stack.callback(patience.cancel)
        session.on_check_event = self._check_event
        session.keep_link = self._keep_link

    def offered(self, opened: Opened) -> None:
        """A fresh or repeated offer: start what it asks for."""
        session, signal, remote = self.session, opened.signal, opened.address
        names = session.take_signal(signal, remote)
        reasons = refusals(self._engine.address, remote, self._engine.networks, invited=False)
        if reasons:
            self._engine.emit(TargetsRefused(session.id.hex(), session.peer, reasons))
        for name in names:
            if name not in self._started:
                self._start(name)
        if signal.known:
            session.correct(signal.known)

    def _start(self, name: str) -> None:
        plugin = self._engine.registry.all().get(name)
        if plugin is None:
            self.session.note(name, "the peer asks for a plugin that is not installed here")
            return
        if not plugin.transports & self._carriers:
            self.session.note(
                name, f"makes no link for a {self.session.mode.value} pipe, whatever the peer says"
            )
            return
        self._started.add(name)  # once a session: what it may send is bounded for one run
        self.session.running.append(name)
        self._tasks.spawn(name, self._respond(plugin))

    @property
    def _carriers(self) -> frozenset[Transport]:
        """A stream over UDP is QUIC; TCP is encrypted only if the initiator wants it so."""
        carriers = CARRIERS[self.session.mode]
        if self._engine.config.secure_only and not self.session.secure:
            carriers -= {Transport.TCP}
        return carriers

    async def _respond(self, plugin: type[Plugin]) -> None:
        session, engine = self.session, self._engine
        engine.emit(PluginStarted(session.id.hex(), plugin.name, engine.now()))
        outcome, reason = "lost", "the initiator chose another link"
        attempt = PluginAttempt(session, plugin, plugin.transports & self._carriers)
        try:
            link = await attempt.run(plugin().respond)
            if isinstance(link, TcpLink):
                await self.await_nomination(link)
        except asyncio.CancelledError:
            raise
        except WarpgateError as error:
            outcome, reason = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything; the session goes on
            outcome, reason = "crashed", f"{type(error).__name__}: {error}"
        finally:
            if plugin.name in session.running:
                session.running.remove(plugin.name)
            engine.emit(PluginEnded(session.id.hex(), plugin.name, engine.now(), outcome, reason))

    def take_link(self, link: TcpLink) -> None:
        """A TCP link that the initiator dialled and proved."""
        self.session.say_verified(link)
        self._keep_link(link)

    def _keep_link(self, link: TcpLink) -> None:
        if self._tasks.spawn("nomination", self.await_nomination(link)) is None:
            link.abort()

    async def await_nomination(self, link: TcpLink) -> None:
        """Hand the link out when it is the chosen one; drop it otherwise."""
        try:
            await link.nominated()
        except (NetworkError, ProtocolError) as error:
            link.abort()
            self.session.note(link.plugin, f"{link.remote} was not nominated: {error}")
        except BaseException:
            link.abort()
            raise
        else:
            await self._chosen_tcp(link)

    async def _chosen_tcp(self, link: TcpLink) -> None:
        """Nominated, and perhaps to be encrypted before anybody gets it."""
        try:
            if link.secure:
                await link.start_tls(self.session.tls_ends, self._engine.config.budgets.hello_patience)
            elif self._engine.config.secure_only:
                raise AuthenticationError(ONLY_ENCRYPTED)
        except (NetworkError, ProtocolError) as error:
            link.abort()
            self.session.note(link.plugin, f"{link.remote} was nominated, but not encrypted: {error}")
        except BaseException:
            link.abort()
            raise
        else:
            self._chosen(link)

    def _check_event(self, event: CheckEvent) -> None:
        if isinstance(event, Nominated):
            link = self.session.udp_link(event)
            if self.session.mode is Mode.STREAM:
                self._nominated_link = link
                self._match_quic()
            else:
                self._nominated(link)
        elif isinstance(event, CheckingEnded):
            self._engine.hub.forget(self.session.checks)
            self.end()

    def take_quic(self, flow: QuicFlow) -> None:
        """A QUIC connection of the initiator's, proved to be of this session."""
        earlier = self._quic.pop((flow.base, flow.remote), None)
        if earlier is not None:
            earlier.close()
        self._quic[flow.base, flow.remote] = flow
        self._match_quic()

    def _match_quic(self) -> None:
        link = self._nominated_link
        if link is not None and (flow := self._quic.pop((link.local, link.remote), None)) is not None:
            self._nominated_link = None
            self._chosen(QuicLink(link, flow))

    def _nominated(self, link: UdpLink) -> None:
        """One pair of endpoints carries one pipe. The peer knows that: it only takes a pair that is free on its side.

        When both nodes nominate the same pair at once, each in a session of its own, the lower session id stays.
        """
        hub, checks = self._engine.hub, self.session.checks
        owner = hub.owner(link.local, link.remote)
        if owner is not None and owner.agent.undecided and owner.agent.session < self.session.id:
            self.session.on_check_event = lambda event: _forget_ended(hub, checks, event)
            self.end()
            checks.close()
            return
        try:
            hub.take_over(checks, link.local, link.remote)
        except NetworkError as error:
            self.session.note(link.plugin, str(error))
            return
        self._chosen(link)

    def _chosen(self, link: TcpLink | UdpLink | QuicLink) -> None:
        if self._over:
            link.abort()
            return
        self._responder.chosen(self.session, link)
        self.end()

    def end(self) -> None:
        """Idempotent; called by nomination, patience, and the node's close."""
        if self._over:
            return
        self._over = True
        for flow in self._quic.values():
            flow.close(reason="another link was chosen")
        if self._nominated_link is not None:  # and no QUIC on it: the peer must not believe in it
            hub, checks = self._engine.hub, self.session.checks
            self.session.on_check_event = lambda event: _forget_ended(hub, checks, event)
            checks.close()
        self._tasks.cancel()  # the node's own tasks, which they are among, wait for them when it closes
        self.session.close()
        self._responder.ended(self.session)


def _forget_ended(hub: UdpHub, checks: CheckSession, event: CheckEvent) -> None:
    if isinstance(event, CheckingEnded):
        hub.forget(checks)


class Responder:
    """All hosted sessions of a node."""

    def __init__(self, engine: Engine, pipes: PipeMaker, take_pipe: PipeTaker) -> None:
        self._engine = engine
        self._pipes = pipes
        self._take_pipe = take_pipe
        self._hosted: dict[bytes, HostedSession] = {}
        self._over: OrderedDict[bytes, None] = OrderedDict()
        self._offers: OrderedDict[bytes, deque[float]] = OrderedDict()
        budgets, now = engine.config.budgets, engine.now()
        self._introductions = TokenBucket(
            budgets.introductions_per_second, budgets.introductions_per_second, now
        )
        self._all_offers = TokenBucket(budgets.offers_per_second, budgets.offers_at_once, now)

    # -- three ways in -------------------------------------------------------------------------------------------

    def offer(self, opened: Opened) -> None:
        """A valid OFFER envelope. AuthenticationError when it may not begin a session, DecodeError for nonsense."""
        signal = opened.signal
        try:
            mode = Mode(signal.mode)
        except ValueError:
            raise DecodeError(f"an offer of a pipe in mode {signal.mode!r}, which does not exist") from None
        self._check_secrecy(mode)
        if self._needs_tls(mode, signal):
            raise AuthenticationError(f"{ONLY_ENCRYPTED}: ask for TLS (secure=True, --tls)")
        hosted = self._hosted.get(signal.session)
        if hosted is None:
            self._ration(opened.sender)
            hosted = self._begin(signal.session, opened.sender, mode, opened.address)
        elif hosted.session.peer_key != opened.sender:
            raise AuthenticationError("somebody else's session")
        elif hosted.session.news_in(signal, opened.address) and not self._all_offers.take(self._engine.now()):
            # Not a refusal of the session: it is not acknowledged, so an honest peer says it again.
            self._engine.emit(SignalRefused(hosted.session.peer, TOO_MANY))
            return
        hosted.session.mode = mode
        hosted.session.secure = signal.secure
        hosted.offered(opened)

    def find(self, hello: HelloReceived) -> Session:
        """The session of an initiator's HELLO, new if need be. AuthenticationError when it may not have one."""
        if self._engine.config.secure_only and not hello.secure:
            raise AuthenticationError(f"{ONLY_ENCRYPTED}, and this TCP link is not to be one")
        hosted = self._hosted.get(hello.session)
        if hosted is None:
            if not self._introductions.take(self._engine.now()):
                raise AuthenticationError("too many introductions a second")
            hosted = self._begin(hello.session, hello.key, hello.mode, None)
        elif hosted.session.peer_key != hello.key:
            raise AuthenticationError("somebody else's session")
        return hosted.session

    def forget(self, session: Session) -> None:
        """A HELLO that began this session could not prove its key."""
        hosted = self._hosted.get(session.id)
        if hosted is not None and not session.proved:
            hosted.end()

    def take_link(self, session: Session, link: TcpLink) -> None:
        """A proved link of an initiator's."""
        hosted = self._hosted.get(session.id)
        if hosted is None:
            link.abort()
        else:
            hosted.take_link(link)

    def take_quic(self, flow: QuicFlow) -> None:
        """A proved QUIC connection."""
        hosted = self._hosted.get(flow.stream.session)
        if hosted is None:
            flow.close(reason="the session is over")
        else:
            hosted.take_quic(flow)

    def introduce(self, port: Port, data: bytes, remote: Endpoint) -> bool:
        """A check of a session nobody knows: if it introduces a welcome key (the result), answer it."""
        try:
            introduction = introduction_of(data)
            if not self._introductions.take(self._engine.now()):
                raise AuthenticationError("too many introductions a second")
            hosted = self._begin(introduction.session, introduction.public_key, introduction.mode, None)
        except (DecodeError, AuthenticationError) as error:
            self._engine.emit(StrangerRefused(str(remote), str(error)))
            return False
        checks = hosted.session.checks
        try:
            checks.driver.receive(data, port.base, remote)
        except ProtocolError as error:
            self._engine.emit(StrangerRefused(str(remote), str(error)))
            hosted.end()
            return False
        port.expecting[remote.sockaddr] = checks
        return True

    # -- book-keeping --------------------------------------------------------------------------------------------

    def _begin(
        self, session_id: bytes, peer_key: bytes, mode: Mode, remote: NodeAddress | None
    ) -> HostedSession:
        config = self._engine.config
        self._check_secrecy(mode)
        peer = node_id_of(peer_key)
        if not config.accept:
            raise AuthenticationError("this node accepts nobody")
        if config.allow is not None and peer not in config.allow:
            raise AuthenticationError(f"{peer} is not among those allowed in")
        if session_id in self._over or session_id in self._engine.sessions:
            raise AuthenticationError("a session that is over, or is ours")
        if len(self._hosted) >= config.budgets.sessions_at_once:
            next(
                iter(self._hosted.values())
            ).end()  # the oldest: an honest session is over within a second or two
        session = Session(self._engine, session_id, peer_key, initiator=False, mode=mode, remote=remote)
        hosted = self._hosted[session_id] = HostedSession(self, self._engine, session)
        self._engine.sessions[session_id] = session
        return hosted

    def _check_secrecy(self, mode: Mode) -> None:
        if self._engine.config.secure_only and mode is Mode.DATAGRAM:
            raise AuthenticationError(f"{ONLY_ENCRYPTED}, and datagrams are not")

    def _needs_tls(self, mode: Mode, signal: Signal) -> bool:
        """Whether an offer leads to nothing but streams in clear."""
        if not self._engine.config.secure_only or signal.secure or mode is not Mode.STREAM:
            return False
        plugins = self._engine.registry.all()
        offered = [plugins[message.name] for message in signal.messages if message.name in plugins]
        return bool(offered) and not any(Transport.UDP in plugin.transports for plugin in offered)

    def _ration(self, sender: bytes) -> None:
        limit, now = self._engine.config.budgets.offers_per_peer_per_minute, self._engine.now()
        times = self._offers.setdefault(sender, deque(maxlen=limit))
        self._offers.move_to_end(sender)
        if len(self._offers) > PEERS_REMEMBERED:
            self._offers.popitem(last=False)
        if len(times) == limit and now - times[0] < 60.0:
            raise AuthenticationError(f"more than {limit} offers a minute")
        if not self._all_offers.take(now):
            raise AuthenticationError(TOO_MANY)
        times.append(now)

    def chosen(self, session: Session, link: TcpLink | UdpLink | QuicLink) -> None:
        try:
            pipe = self._pipes.make(session, link, link.plugin)
        except NetworkError as error:
            session.note(link.plugin, str(error))
        else:
            self._take_pipe(pipe)

    def ended(self, session: Session) -> None:
        self._hosted.pop(session.id, None)
        if not session.proved:
            return  # whoever that was may have used somebody else's id
        self._over[session.id] = None
        if len(self._over) > SESSIONS_REMEMBERED:
            self._over.popitem(last=False)

    def close(self) -> None:
        for hosted in list(self._hosted.values()):
            hosted.end()
