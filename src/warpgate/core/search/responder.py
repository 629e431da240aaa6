"""The responding side: sessions that others began, by an offer, a HELLO or a first check.

A responder dials and probes on a peer's word, so all of it is bounded: sessions at once, offers per peer, targets by
policy. It hands out a pipe only for the one link that the initiator nominates; everything else ends with the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.maker import PipeMaker
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.hosted import (
    ONLY_ENCRYPTED,
    Chosen,
    Claim,
    HostedSession,
    ToldWhy,
    Uninvited,
    check_invited,
)
from warpgate.core.search.links import TcpLink
from warpgate.core.search.outbox import TURNS
from warpgate.core.search.rations import Ration, claimed_place, offering
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.core.udp.demultiplexer import Port
from warpgate.errors import AuthenticationError, DecodeError, NetworkError, ProtocolError
from warpgate.events import StrangerRefused
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.identity import node_id_of
from warpgate.model.recent import Recent
from warpgate.model.wanted import Wanted
from warpgate.plan.shares import Turns
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.check_wire import introduction_of, refusal_of, verify_introduction
from warpgate.proto.envelope import Opened
from warpgate.proto.gate import Freshness
from warpgate.proto.hello import HelloReceived
from warpgate.proto.instances import Whose
from warpgate.proto.relay_limits import user_of
from warpgate.proto.signals import Signal

PEERS_REMEMBERED = 1024
SESSIONS_REMEMBERED = 4096
# Who is not allowed in is told so when it has proved its key, which costs us a key agreement. That is bounded apart, so
# that it takes nothing of what those who are allowed in may cost.
REFUSALS_PER_SECOND = 5

# What the word of a peer begins with whose process is another one than that of the connection.
UNKNOWN_CONNECTION = "no such connection: it was another process's"
TOO_MANY = "more offers from all peers together than this node answers"


class Overloaded(AuthenticationError):
    """Too many at this moment, whoever is to blame: no reason for an honest peer to give up."""


class NotMeant(AuthenticationError):
    """For another process of our key, which answers itself."""


class NoSuchService(ToldWhy):
    """For a peer that has proved its key and is welcome: the message lists what there is."""


class Unsure(NotMeant):
    """Perhaps for another process: those that there are have been asked, and `PATIENCE` later it is known."""


PipeTaker = Callable[[Pipe], None]


class Paths(Protocol):
    """The connections of a node, as far as this has to do with them."""

    def knows(self, peer_key: bytes, connection: bytes) -> bool:
        """Whether there is this connection with this peer."""

    def expects(self, peer_key: bytes) -> bool:
        """Whether there is any with it: paths for it come from whoever has moved."""

    def begin(self, session: Session, flight: Sequence[bytes]) -> bool:
        """The first packets of the connection that a session looks for a path for; whether there is one now."""

    def sought(self, peer_key: bytes, connection: bytes, remote: NodeAddress) -> None:
        """A peer that is at `remote` now looks for a path for this connection."""

    def take(self, session: Session, link: Chosen) -> None:
        """A nominated link of a session that looked for a path."""


class SessionOver(AuthenticationError):
    """What is late: no failure, and nobody to be told."""


class Responder:
    """All hosted sessions of a node."""

    def __init__(
        self,
        equipment: Equipment,
        sessions: Sessions,
        pipes: PipeMaker,
        take_pipe: PipeTaker,
        refusal: Callable[[str], str],
        ask_twins: Callable[[], None],
        paths: Paths,
        begin_stream: Callable[[Session, Sequence[bytes]], None],
    ) -> None:
        """`refusal`: why there is no such service, "" when there is. `ask_twins`: have the processes of our key say
        that they are there. `begin_stream`: gets the first packets of a session's QUIC client.
        """
        self._equipment = equipment
        self._context = context = equipment.context
        self._sessions = sessions
        self._pipes = pipes
        self._take_pipe = take_pipe
        self._refusal = refusal
        self._ask_twins = ask_twins
        self._paths = paths
        self._begin_stream = begin_stream
        self._hosted: dict[bytes, HostedSession] = {}
        self._over: Recent[bytes, None] = Recent(SESSIONS_REMEMBERED)
        self._offers: Recent[bytes, deque[float]] = Recent(PEERS_REMEMBERED)
        budgets, now = context.config.budgets, context.now()
        self._places: Turns[bytes] = Turns(budgets.sessions_at_once)
        self._introductions = Ration(budgets.introductions_per_second, budgets.introductions_per_second, now)
        self._uninvited = TokenBucket(REFUSALS_PER_SECOND, REFUSALS_PER_SECOND, now)
        self._freshness = Freshness(context.random_bytes(32), now)
        self._all_offers = Ration(budgets.offers_per_second, budgets.offers_at_once, now)

    # -- three ways in -------------------------------------------------------------------------------------------
    #
    # In each of them first who it is, by what it says of itself, then how many there are, then what it costs to have
    # that proved; something is made for it only after that. So nobody who may not come in keeps out those who may.

    def offer(self, opened: Opened) -> None:
        """A valid OFFER envelope. AuthenticationError when it may not begin a session, DecodeError for nonsense.

        Stale when it may be a recording; Overloaded when it is one too many just now, NotMeant when it is
        for another process, Unsure when that is still to be found out: an honest peer says it again.
        """
        signal = opened.signal
        wanted = Wanted.decode(signal.wanted)
        if not self.expects(opened):
            self._check_meant(wanted, signal.session)
        try:
            mode = Mode(signal.mode)
        except ValueError:
            raise DecodeError(f"an offer of a pipe in mode {signal.mode!r}, which does not exist") from None
        self._check_secrecy(mode)
        if self._needs_tls(mode, signal):
            raise AuthenticationError(f"{ONLY_ENCRYPTED}: ask for TLS (secure=True, --tls)")
        hosted = self._hosted.get(signal.session)
        if hosted is None:
            self._check_welcome(signal.session, opened.sender, mode)
            if signal.connection and not self.expects(opened):
                if not wanted.instance:
                    raise NotMeant("for a connection of another process with this key, which accepts nobody")
                raise AuthenticationError(UNKNOWN_CONNECTION)
            self._freshness.check(opened, self._context.wall_clock(), self._context.now())
            self._ration(opened)
            self._check_service(wanted, mode)
            key = self._session_key(opened.sender, signal.session)
            claim = Claim(signal.session, opened.sender, key, mode, opened.address, wanted)
            hosted = self._begin(claim, claimed_place(opened.address))
            self._paths.sought(opened.sender, signal.connection, opened.address)
        elif hosted.session.peer_key != opened.sender:
            raise AuthenticationError("somebody else's session")
        elif (hosted.session.mode is Mode.PATH) != (mode is Mode.PATH):
            raise AuthenticationError("a session for a path is none for a pipe")  # nor are both let in alike
        elif hosted.session.news_in(signal, opened.address):
            self._ration_all(opened)
        hosted.session.mode = mode
        hosted.session.secure = signal.secure
        hosted.offered(opened)
        self._when_fired(hosted, opened, TURNS)

    def _when_fired(self, hosted: HostedSession, opened: Opened, turns: int) -> None:
        """When all strategies have fired and dialled: a QUIC handshake takes milliseconds of the processor."""
        if turns:
            self._context.loop.call_soon(self._when_fired, hosted, opened, turns - 1)
            return
        session, signal = hosted.session, opened.signal
        if self._hosted.get(session.id) is not hosted:
            return  # over already
        if signal.flight and session.mode is Mode.STREAM:
            self._begin_stream(session, signal.flight)
        elif signal.flight and not signal.connection and session.mode is Mode.PATH:
            self._paths.begin(session, signal.flight)
        hosted.comment(opened)

    def token(self, opened: Opened) -> bytes:
        """What a sender whose offer was `Stale` has to give back."""
        return self._freshness.token(opened.sender, opened.signal.session, self._context.now())

    def key_of(self, hello: HelloReceived, remote: Endpoint) -> bytes:
        """The session key by which a HELLO must be proved. AuthenticationError when its sender may have no session."""
        if self._context.config.secure_only and not (hello.secure or hello.mode is Mode.PATH):
            raise AuthenticationError(f"{ONLY_ENCRYPTED}, and this TCP link is not to be one")
        hosted = self._hosted.get(hello.session)
        if hosted is not None:
            if hosted.session.peer_key != hello.key:
                raise AuthenticationError("somebody else's session")
            return hosted.session.key
        return self._key_of_stranger(hello.session, hello.key, hello.mode, remote)

    def find(self, hello: HelloReceived, key: bytes, remote: Endpoint) -> Session:
        """The session of a HELLO proved under `key`, new if need be. AuthenticationError when it may not have one."""
        hosted = self._hosted.get(hello.session)
        if hosted is None:  # it may have been begun, or have ended, since `key_of`
            self._check_not_anothers(hello.wanted)
            self._check_welcome(hello.session, hello.key, hello.mode)
            self._check_service(hello.wanted, hello.mode)
            claim = Claim(hello.session, hello.key, key, hello.mode, None, hello.wanted)
            hosted = self._begin(claim, user_of(remote.ip))
        elif hosted.session.peer_key != hello.key:
            raise AuthenticationError("somebody else's session")
        return hosted.session

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
        except DecodeError:
            return False  # of a session that is over, mostly: a punch's last checks arrive when it has succeeded
        try:
            session_id, peer_key, mode = introduction.session, introduction.public_key, introduction.mode
            key = self._key_of_stranger(session_id, peer_key, mode, remote)
            wanted = verify_introduction(data, key)
            self._check_not_anothers(wanted)
            self._check_welcome(session_id, peer_key, mode)
            self._check_service(wanted, mode)
            hosted = self._begin(Claim(session_id, peer_key, key, mode, None, wanted), user_of(remote.ip))
            checks = hosted.session.checks
            checks.driver.receive(data, port.base, remote)
        except SessionOver:
            return False
        except ToldWhy as error:
            port.socket.send(refusal_of(data, key, str(error)), remote.sockaddr)
            self._context.emit(StrangerRefused(str(remote), str(error), node_id_of(peer_key)))
            return True
        except ProtocolError as error:
            self._context.emit(StrangerRefused(str(remote), str(error)))
            return False
        checks.expect(port, remote.sockaddr)
        return True

    # -- book-keeping --------------------------------------------------------------------------------------------

    def _key_of_stranger(self, session_id: bytes, peer_key: bytes, mode: Mode, remote: Endpoint) -> bytes:
        """The key of a session that a HELLO or a first check claims to begin. AuthenticationError.

        Also for who is not allowed in: once that is proved, `_check_welcome` says so.
        """
        now = self._context.now()
        try:
            self._check_welcome(session_id, peer_key, mode)
            known = self._context.knows(peer_key)
            taken = self._introductions.take(now, known, user_of(remote.ip))
        except Uninvited:
            taken = self._uninvited.take(now)
        if not taken:
            raise AuthenticationError("too many introductions a second")
        return self._session_key(peer_key, session_id)

    def _session_key(self, peer_key: bytes, session_id: bytes) -> bytes:
        return self._context.identity.session_key(peer_key, session_id, initiator=False)

    def expects(self, opened: Opened) -> bool:
        """Whether an offer is for a connection of this very node, wherever it accepts others."""
        return self._paths.knows(opened.sender, opened.signal.connection)

    def _check_welcome(self, session_id: bytes, peer_key: bytes, mode: Mode) -> None:
        """Whether who claims this key may begin this session, at the price of a hash."""
        if not (mode is Mode.PATH and self._paths.expects(peer_key)):
            check_invited(self._context.config, peer_key)
        if session_id in self._over:
            raise SessionOver("a session that is over")
        if session_id in self._sessions:
            raise AuthenticationError("a session that is there already")

    def _check_meant(self, wanted: Wanted, session_id: bytes) -> None:
        """NotMeant for an offer that is for another process, or perhaps: then those that could be meant are asked."""
        whose = self._context.instances.whose(wanted.instance, self._context.now())
        if whose is Whose.OURS:
            return
        hosted = self._hosted.get(session_id)
        if hosted is not None and whose is Whose.ANOTHERS:
            hosted.end()  # its initiator has heard of the other one and goes on with that
        if whose is Whose.UNKNOWN:
            self._ask_twins()
            raise Unsure(f"for the process {wanted.instance.hex()}: {whose.value}")
        raise NotMeant(f"for the process {wanted.instance.hex() or 'that accepts peers'}: {whose.value}")

    def _check_not_anothers(self, wanted: Wanted) -> None:
        if self._context.instances.surely_anothers(wanted.instance):
            raise NotMeant(f"for another process with this key, {wanted.instance.hex() or 'the one that accepts'}")

    def _check_service(self, wanted: Wanted, mode: Mode) -> None:
        """A path leads to no service yet: pipes on its connection say theirs."""
        reason = "" if mode is Mode.PATH else self._refusal(wanted.service)
        if reason:
            raise NoSuchService(reason)

    def _begin(self, claim: Claim, place: Hashable) -> HostedSession:
        """For a peer that has proved its key and is welcome. AuthenticationError for datagrams where none are taken."""
        self._check_secrecy(claim.mode)
        # Introductions come fifty times as fast as offers can, and in any address's name.
        way = "introduced" if claim.address is None else "offered"
        group = "known" if self._context.knows(claim.peer_key) else way
        leaver = self._places.enter(claim.session, claim.peer_key, place, group)
        if leaver is not None:
            self._hosted[leaver].end()
        hosted = HostedSession(claim, self._equipment, self._sessions, self._chosen, self._ended)
        self._hosted[claim.session] = hosted
        return hosted

    def _check_secrecy(self, mode: Mode) -> None:
        if self._context.config.secure_only and mode is Mode.DATAGRAM:
            raise AuthenticationError(f"{ONLY_ENCRYPTED}, and datagrams are not")

    def _needs_tls(self, mode: Mode, signal: Signal) -> bool:
        """Whether an offer leads to nothing but streams in clear."""
        if not self._context.config.secure_only or signal.secure or mode is not Mode.STREAM:
            return False
        plugins = self._context.registry.all()
        offered = [plugins[message.name] for message in signal.messages if message.name in plugins]
        return bool(offered) and not any(Transport.UDP in plugin.transports for plugin in offered)

    def _ration(self, opened: Opened) -> None:
        limit, now = self._context.config.budgets.offers_per_peer_per_minute, self._context.now()
        times = self._offers.get(opened.sender, deque(maxlen=limit))
        self._offers[opened.sender] = times
        if len(times) == limit and now - times[0] < 60.0:
            raise AuthenticationError(f"more than {limit} offers a minute")
        self._ration_all(opened)
        times.append(now)

    def _ration_all(self, opened: Opened) -> None:
        context = self._context
        crowds = offering(context, opened)
        if not self._all_offers.take(context.now(), context.knows(opened.sender), *crowds):
            raise Overloaded(TOO_MANY)

    def _chosen(self, session: Session, link: Chosen) -> None:
        try:
            if session.mode is Mode.PATH:
                self._paths.take(session, link)
                return
            pipe = self._pipes.make(session, link)
        except NetworkError as error:
            session.note(link.plugin, str(error))
        else:
            self._take_pipe(pipe)

    def _ended(self, session: Session) -> None:
        self._hosted.pop(session.id, None)
        self._places.leave(session.id)
        self._over[session.id] = None

    def close(self) -> None:
        for hosted in list(self._hosted.values()):
            hosted.end()
