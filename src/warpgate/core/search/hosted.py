"""One session that a peer began, from its first sign to its nominated link or its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from warpgate.config import Config
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.search.attempt import PluginAttempt
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.links import TcpLink, UdpLink
from warpgate.core.search.quic_link import QuicLink
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.core.tasks import Tasks
from warpgate.core.udp.demultiplexer import Demultiplexer, SessionChecks
from warpgate.errors import AuthenticationError, NetworkError, ProtocolError, WarpgateError
from warpgate.events import PluginEnded, PluginStarted, TargetsRefused
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.identity import node_id_of
from warpgate.model.wanted import Wanted
from warpgate.plan.cascade import CARRIERS
from warpgate.plan.targets import refusals
from warpgate.plugins.base import Plugin
from warpgate.proto.check import CheckEvent, CheckingEnded, Nominated
from warpgate.proto.envelope import Opened

ONLY_ENCRYPTED = "this node takes only encrypted pipes"

Chosen = TcpLink | UdpLink | QuicLink


class ToldWhy(AuthenticationError):
    """For a peer that may have no pipe: when it has proved its key, it is told so in these words."""


class Uninvited(ToldWhy):
    """It is not among those allowed in."""


def check_invited(config: Config, peer_key: bytes) -> None:
    """AuthenticationError when the holder of this key may open nothing here; Uninvited when others may."""
    if not config.accept:
        raise AuthenticationError("this node accepts nobody")
    if config.allow is not None and (peer := node_id_of(peer_key)) not in config.allow:
        raise Uninvited(f"{peer} is not among those allowed in")


@dataclass(frozen=True, slots=True)
class Claim:
    """By what a peer's session begins; its key is proved. `address`: None where it came without an offer."""

    session: bytes
    peer_key: bytes
    key: bytes
    mode: Mode
    address: NodeAddress | None
    wanted: Wanted


class HostedSession:
    """One session that a peer began: its plugins' answers, its links, and who of them was nominated."""

    def __init__(
        self,
        claim: Claim,
        equipment: Equipment,
        sessions: Sessions,
        on_chosen: Callable[[Session, Chosen], None],
        on_end: Callable[[Session], None],
    ) -> None:
        """`on_chosen` gets the nominated link, once at most; `on_end` is told after that, or without it."""
        self.session = session = Session(
            equipment,
            self,
            claim.session,
            claim.peer_key,
            claim.key,
            initiator=False,
            mode=claim.mode,
            remote=claim.address,
            wanted=claim.wanted,
        )
        sessions.add(session)
        self._sessions = sessions
        self._on_chosen = on_chosen
        self._on_end = on_end
        self._context = context = session.context
        self._tasks = Tasks(lambda name, error: session.note(name, str(error)), within=context.tasks)
        self._over = False
        self._started: set[str] = set()
        self._quic: dict[tuple[Endpoint, Endpoint], QuicFlow] = {}  # proved, by pair
        self._nominated_link: UdpLink | None = None  # of a stream whose QUIC handshake is still going on
        loop = asyncio.get_running_loop()
        patience = loop.call_later(context.config.timing.responder_patience, self.end)
        session.stack.callback(patience.cancel)

    def offered(self, opened: Opened) -> None:
        """A fresh or repeated offer: start what it asks for. `comment` on it when that has fired."""
        for name in self.session.take_signal(opened.signal, opened.address):
            if name not in self._started:
                self._start(name)

    def comment(self, opened: Opened) -> None:
        """Say what of the peer's address is left out, to our user, and what it has wrong of ours, to the peer."""
        session, context = self.session, self._context
        if reasons := refusals(context.address, opened.address, context.around):
            context.emit(TargetsRefused(session.id.hex(), session.peer, reasons))
        if opened.signal.known:
            session.correct(opened.signal.known)

    def _start(self, name: str) -> None:
        plugin = self._context.registry.all().get(name)
        if plugin is None:
            self.session.note(name, "the peer asks for a plugin that is not installed here")
            return
        if not plugin.transports & self._carriers:
            self.session.note(name, f"makes no link for a {self.session.mode.value} pipe, whatever the peer says")
            return
        self._started.add(name)  # once a session: what it may send is bounded for one run
        self.session.running.append(name)
        self._tasks.spawn(name, self._respond(plugin))

    @property
    def _carriers(self) -> frozenset[Transport]:
        """A stream over UDP is QUIC, and so is whatever takes a path; TCP is encrypted if the initiator wants it so."""
        carriers = CARRIERS[self.session.mode]
        clear = self.session.mode is Mode.STREAM and not self.session.secure
        if self._context.config.secure_only and clear:
            carriers -= {Transport.TCP}
        return carriers

    async def _respond(self, plugin: type[Plugin]) -> None:
        session, context = self.session, self._context
        context.emit(PluginStarted(session.id.hex(), plugin.name, context.now()))
        outcome, reason = "lost", "the initiator chose another link"
        attempt = PluginAttempt(session, self._sessions, plugin, plugin.transports & self._carriers)
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
            context.emit(PluginEnded(session.id.hex(), plugin.name, context.now(), outcome, reason))

    def take_link(self, link: TcpLink) -> None:
        """A TCP link that the initiator dialled and proved."""
        self.session.say_verified(link)
        self.session.equipment.unchosen.add(self.session.id, link, ours=False)
        self.keep_link(link)

    def keep_link(self, link: TcpLink) -> bool:
        """It waits to be nominated, or is aborted: ours either way."""
        if self._tasks.spawn("nomination", self.await_nomination(link)) is None:
            link.abort()
        return True

    def tcp_may_come(self) -> bool:
        """Nobody waits for it here: the initiator chooses."""
        return False

    def refused(self, reason: str) -> None:
        """Initiators do not refuse."""

    def knowledge_changed(self) -> None:
        """There is no race to be timed anew here."""

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
                await link.start_tls(self.session.tls_ends, self.session.hello_patience)
            elif self._context.config.secure_only and self.session.mode is not Mode.PATH:
                raise AuthenticationError(ONLY_ENCRYPTED)
        except (NetworkError, ProtocolError) as error:
            link.abort()
            self.session.note(link.plugin, f"{link.remote} was nominated, but not encrypted: {error}")
        except BaseException:
            link.abort()
            raise
        else:
            self._chosen(link)

    def check_event(self, event: CheckEvent) -> None:
        if isinstance(event, Nominated):
            link = self.session.udp_link(event)
            if self.session.mode is Mode.STREAM:
                self._nominated_link = link
                self._match_quic()
            elif self.session.mode is Mode.PATH:
                self._chosen(link)
            else:
                self._nominated(link)
        elif isinstance(event, CheckingEnded):
            self.session.equipment.udp.forget(self.session.checks)
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
        udp, checks = self.session.equipment.udp, self.session.checks
        owner = udp.owner(link.local, link.remote)
        if (
            owner is not None
            and owner.peer_key == self.session.peer_key
            and owner.agent.undecided
            and owner.agent.session < self.session.id
        ):
            checks.hand_over(lambda event: _forget_ended(udp, checks, event))
            self.end()
            checks.close()
            return
        try:
            udp.take_over(checks, link.local, link.remote)
        except NetworkError as error:
            self.session.note(link.plugin, str(error))
            return
        self._chosen(link)

    def _chosen(self, link: Chosen) -> None:
        if self._over:
            link.abort()
            return
        self._on_chosen(self.session, link)
        self.end()

    def end(self) -> None:
        """Idempotent; called by nomination, patience, and the node's close."""
        if self._over:
            return
        self._over = True
        for flow in self._quic.values():
            flow.close(reason="another link was chosen")
        if self._nominated_link is not None:  # and no QUIC on it: the peer must not believe in it
            udp, checks = self.session.equipment.udp, self.session.checks
            checks.hand_over(lambda event: _forget_ended(udp, checks, event))
            checks.close()
        self._tasks.cancel()  # the node's own tasks, which they are among, wait for them when it closes
        self.session.close()
        self._on_end(self.session)


def _forget_ended(udp: Demultiplexer, checks: SessionChecks, event: CheckEvent) -> None:
    if isinstance(event, CheckingEnded):
        udp.forget(checks)
