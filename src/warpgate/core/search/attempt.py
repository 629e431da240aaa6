"""What a plugin sees of a session: the implementation of `plugins.base.Attempt`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from warpgate.config import Config
from warpgate.core.search.budget import RandomPunch
from warpgate.core.search.links import TcpLink, UdpLink, prove
from warpgate.core.search.quic_link import QuicLink, first_quic
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.errors import AttemptFailed, AuthenticationError, DecodeError, ProtocolError, WarpgateError
from warpgate.events import SignalRefused
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Mode, Transport
from warpgate.model.wanted import ANYTHING
from warpgate.net.link import Link
from warpgate.net.network import Network, TcpStream
from warpgate.net.race import RaceLost, first_of
from warpgate.plan.classify import Observation
from warpgate.plan.targets import Pair, pairs
from warpgate.plan.volley import PRIMING_TTL
from warpgate.plugins.base import Attempt, Plugin, Relay
from warpgate.proto.hello import Handshake, Refused
from warpgate.proto.signals import MAX_BODY, PluginMessage, decode_body

# Linux's routers keep what was begun by a SYN, and not answered, for so long (nf_conntrack_tcp_timeout_syn_sent).
HALF_OPEN = 120.0

Owned = TypeVar("Owned", TcpLink, QuicLink)


class PluginAttempt:
    """One plugin's part in one session; `stack` is closed when the part is over."""

    def __init__(
        self, session: Session, sessions: Sessions, plugin: type[Plugin], transports: frozenset[Transport]
    ) -> None:
        """`sessions`: all that are going on, this one among them."""
        self._session = session
        self._sessions = sessions
        self._context = session.context
        self._equipment = session.equipment
        self._plugin = plugin
        self._remote_version = session.remote_version
        self.transports = transports
        self.stack = contextlib.ExitStack()
        self._links: list[TcpLink | QuicLink] = []
        self._over = False

    async def run(self, part: Callable[[Attempt], Awaitable[Link]]) -> TcpLink | UdpLink | QuicLink:
        """The plugin's part (`initiate` or `respond`): its link, or what it raised.

        Links that it got and did not return are aborted, however it lost sight of them; AttemptFailed when what
        it returned is no link of ours.
        """
        chosen: TcpLink | UdpLink | QuicLink | None = None
        try:
            with self.stack:
                link = await part(self)
            if not isinstance(link, TcpLink | UdpLink | QuicLink):
                raise AttemptFailed(f"it returned {link!r}; links come from the attempt's methods")
            chosen = link
            return chosen
        finally:
            self._over = True
            for other in self._links:
                if other is not chosen:
                    other.abort()

    def _own(self, link: Owned) -> Owned:
        if self._over:
            link.abort()
            raise AttemptFailed("the attempt is over")
        self._links.append(link)
        return link

    # -- knowing -------------------------------------------------------------------------------------------------

    @property
    def session(self) -> bytes:
        return self._session.id

    @property
    def initiator(self) -> bool:
        return self._session.initiator

    @property
    def local(self) -> NodeAddress:
        return self._context.address

    @property
    def remote(self) -> NodeAddress:
        return self._session.remote

    @property
    def alone(self) -> bool:
        mine, name = self._session, self._plugin.name
        older = itertools.takewhile(lambda session: session is not mine, self._sessions)
        rivals = (session for session in older if session.peer_key == mine.peer_key and name in session.running)
        return not any((session.mode is Mode.DATAGRAM) is (mine.mode is Mode.DATAGRAM) for session in rivals)

    @property
    def renewing(self) -> bool:
        return self._session.renewing

    @property
    def mode(self) -> Mode:
        return self._session.mode

    @property
    def config(self) -> Config:
        return self._context.config

    @property
    def network(self) -> Network:
        return self._context.network

    @property
    def relay(self) -> Relay:
        return self._session.relays

    @property
    def signal_delay(self) -> float | None:
        return self._session.signal_delay

    @property
    def round_trip(self) -> float | None:
        return self._session.round_trip

    def now(self) -> float:
        return self._context.now()

    def note(self, text: str) -> None:
        self._session.note(self._plugin.name, text)

    # -- signals -------------------------------------------------------------------------------------------------

    def signal(self, message: object) -> None:
        expected = self._plugin.message_type
        if expected is None or not isinstance(message, expected):
            raise ProtocolError(f"{message!r} is no message of {self._plugin.name}: its message_type is {expected}")
        body = msgspec.msgpack.encode(message)
        if len(body) > MAX_BODY:
            raise ProtocolError(f"a message of {len(body)} bytes; at most {MAX_BODY} fit")
        self._session.outbox.add(PluginMessage(self._plugin.name, body))

    async def receive(self) -> Any:
        body = await self._session.messages.queue(self._plugin.name).get()
        if self._plugin.message_type is None:
            raise DecodeError(f"{self._plugin.name} takes no messages")
        try:
            return decode_body(body, self._plugin.message_type)
        except DecodeError as error:
            raise DecodeError(f"a message for {self._plugin.name} that is none: {error}") from None

    async def first(self, ways: Mapping[str, Callable[[], Awaitable[Link]]]) -> Link:
        try:
            told = {name: partial(self._told, name, way) for name, way in ways.items()}
            return await first_of(told, lambda link: link.abort())
        except RaceLost as lost:
            raise AttemptFailed(str(lost)) from None

    async def _told(self, name: str, way: Callable[[], Awaitable[Link]]) -> Link:
        """What has failed is known even if the attempt ends before the other ways do."""
        try:
            return await way()
        except WarpgateError as error:
            self._session.setbacks.setdefault(self._plugin.name, []).append(f"{name}: {error}")
            raise

    async def remote_changed(self) -> None:
        self._remote_version = await self._session.remote_newer_than(self._remote_version)

    async def knowledge_changed(self) -> None:
        await self._session.knowledge_changed()

    # -- targets -------------------------------------------------------------------------------------------------

    def pairs(self, transport: Transport) -> tuple[Pair, ...]:
        return pairs(
            self._context.address,
            self._session.remote,
            transport,
            self._context.around,
            self._session.invited,
        )

    def admit(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        refused = {endpoint: self._session.refuse_target(endpoint) for endpoint in endpoints}
        reasons = "; ".join(dict.fromkeys(reason for reason in refused.values() if reason is not None))
        if reasons:
            self._context.emit(SignalRefused(self._session.peer, reasons))
        admitted = [endpoint for endpoint, reason in refused.items() if reason is None]
        if not admitted:
            raise AttemptFailed(reasons or "no endpoint is named")
        if reasons:
            self.note(f"left out: {reasons}")
        return admitted

    # -- UDP -----------------------------------------------------------------------------------------------------

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        *,
        offsets: Sequence[float] | None = None,
        ttl: int | None = None,
    ) -> None:
        chosen = None if offsets is None else tuple(offsets)
        self._session.checks.probe(base, remote, self._plugin.name, chosen, ttl)

    def try_found(self) -> bool:
        return not self.renewing and self._session.found.check(self._plugin.name)

    def occupied(self, base: Endpoint, remote: Endpoint) -> bool:
        if self.renewing:
            return True
        # Streams share a pair of endpoints: QUIC's connection ids tell them apart.
        if self._session.mode is not Mode.DATAGRAM:
            return False
        return not self.alone or self._equipment.udp.owner(base, remote) is not None

    async def verified(self) -> UdpLink | QuicLink:
        queue = self._session.verified.queue(self._plugin.name)
        if self._session.mode is not Mode.STREAM:
            return await queue.get()
        return self._own(await first_quic(self._session, queue))

    async def open_udp(self, near: Endpoint) -> Endpoint:
        return self._session.ports.open(near)

    async def reflexive(self, base: Endpoint) -> Endpoint:
        return await self._equipment.discovery.map_udp(self._equipment.udp.port(base).socket)

    async def samples(self, base: Endpoint) -> tuple[Observation, ...]:
        return await self._equipment.discovery.sample_udp(self._equipment.udp.port(base).socket)

    def priming_ttl(self, base: Endpoint) -> int:
        return self._equipment.discovery.opening_ttl(base.ip) or PRIMING_TTL

    def primes_surely(self, base: Endpoint) -> bool:
        return self._equipment.discovery.opening_ttl(base.ip) is not None

    def taken_ports(self, ip: IPAddress) -> frozenset[int]:
        return self._equipment.discovery.taken_ports(ip)

    async def random_punch(self, *, alone: bool = False) -> RandomPunch:
        context, session = self._context, self._session
        try:
            punch = await self._equipment.random_punches.begin(session, self._plugin.name, alone=alone)
        except AttemptFailed as error:
            if not session.initiator:
                context.emit(SignalRefused(session.peer, str(error)))
            raise
        self.stack.callback(punch.close)
        session.stack.callback(punch.close)  # the session may be over before its plugins are
        return punch

    # -- TCP -----------------------------------------------------------------------------------------------------

    async def reflexive_tcp(self, near: Endpoint) -> tuple[Endpoint, Endpoint]:
        mapped, stream = await self._equipment.discovery.map_tcp(Endpoint(near.ip, 0))
        self.stack.callback(stream.abort)
        return stream.local, mapped

    async def samples_tcp(self, near: Endpoint) -> tuple[Observation, ...]:
        seen, stream = await self._equipment.discovery.sample_tcp(near.ip)
        self.stack.callback(stream.abort)
        return seen

    async def dial(self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None) -> TcpLink:
        return await self.adopt(await self.connect(remote, local, first_ttl))

    async def connect(self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None) -> TcpStream:
        left, now = self._equipment.half_open, self._context.now
        try:
            stream = await self._context.network.dial_tcp(remote, local, first_ttl)
        except asyncio.CancelledError:
            if local is not None:
                left[local, remote] = now()
            raise
        if local is not None:
            left.pop((local, remote), None)
        return stream

    def half_open(self, local: Endpoint, remote: Endpoint) -> bool:
        return self._context.now() - self._equipment.half_open.get((local, remote), -math.inf) < HALF_OPEN

    async def adopt(self, stream: TcpStream) -> TcpLink:
        session, context = self._session, self._context
        handshake = Handshake.dial(
            role=session.role,
            session=session.id,
            session_key=session.key,
            public_key=context.identity.public_key,
            peer_key=session.peer_key,
            nonce=context.random_bytes(16),
            plugin=self._plugin.name,
            secure=session.secure,
            wanted=session.wanted if session.initiator else ANYTHING,
            mode=Mode.PATH if session.mode is Mode.PATH else Mode.STREAM,
        )
        relayed = session.relays.carry(self._plugin.name, stream.local, stream.remote)
        patience = session.hello_patience
        try:
            link, peer = await prove(stream, handshake, patience, relayed=relayed, secure=session.secure)
        except Refused as error:
            if session.initiator:
                session.take_refusal(str(error))
            raise
        if not session.fresh_nonce(peer.nonce):
            link.abort()
            raise AuthenticationError(f"{stream.remote} repeated a proof that was given before")
        session.peer_heard()
        session.say_verified(link)
        return self._own(link)

    async def listen_tcp(self, local: Endpoint) -> None:
        listener = self._context.network.listen_tcp(local, self._equipment.accept)
        self.stack.callback(listener.close)

    def keep(self, link: Link) -> None:
        if not isinstance(link, TcpLink) or link not in self._links or not self._session.keep_link(link):
            raise AttemptFailed("only a responder keeps links, and only those that it has dialled")
        self._links.remove(link)

    async def inbound(self) -> TcpLink:
        return self._own(await self._session.inbound.queue(self._plugin.name).get())
