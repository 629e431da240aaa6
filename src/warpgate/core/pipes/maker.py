"""From a nominated link to a pipe, and the node's book of open pipes."""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from warpgate.core.context import Context
from warpgate.core.pipes.base import Pipe, PipeInfo
from warpgate.core.pipes.plain_datagram import PlainDatagramPipe
from warpgate.core.pipes.plain_tcp import StreamPipe
from warpgate.core.pipes.quic import BytesOverQuic, QuicPipe
from warpgate.core.search.links import TcpLink, UdpLink
from warpgate.core.search.quic_link import QuicLink
from warpgate.core.search.session import Session
from warpgate.core.udp.demultiplexer import Demultiplexer
from warpgate.errors import NetworkError
from warpgate.events import PipeEnded, PipeOpened, PluginReport
from warpgate.model.endpoint import IPAddress

# With a limit of 30 s a dead peer is noticed within 35 s; a thousand pipes cost 2 ms each time.
STALL_CHECK = 5.0
# A node is closed within a second.
CLOSING = 0.7


class PipeMaker:
    """Makes pipes and knows the open ones, so that the node can close them."""

    def __init__(self, context: Context, udp: Demultiplexer) -> None:
        self._context = context
        self._udp = udp
        self._open: dict[Pipe, float] = {}  # since when, in Unix seconds; in order of their opening
        self._leaving: WeakSet[BytesOverQuic] = WeakSet()  # some are being closed, which lasts while data is under way

    async def watch(self) -> None:
        """End stream pipes whose peer has gone silent with our data in flight; runs as long as the node."""
        limit = self._context.config.timing.consent_timeout - STALL_CHECK  # silence is noticed one look late
        while True:
            await asyncio.sleep(STALL_CHECK)
            for pipe in self.open_pipes:
                pipe.check_stall(limit)

    async def close(self) -> None:
        """Close all of them side by side; what a peer has not taken by then is lost with the program."""
        ends = [pipe.left() for pipe in self._leaving] + [pipe.close() for pipe in self.open_pipes]
        closing = list(map(asyncio.ensure_future, ends))
        if closing:
            _, late = await asyncio.wait(closing, timeout=CLOSING)
            for task in late:
                task.cancel()
            await asyncio.wait(closing)

    def vanished(self, addresses: frozenset[IPAddress]) -> None:
        """These addresses of ours are no more: what was sent from them gets no answer."""
        for pipe in self.open_pipes:
            if not pipe.durable and pipe.local.ip in addresses:
                pipe.abort(f"the network interface with {pipe.local.ip} went away")

    @property
    def open_pipes(self) -> tuple[Pipe, ...]:
        return tuple(self._open)

    @property
    def since(self) -> tuple[tuple[Pipe, float], ...]:
        """The open pipes, and since when they are: Unix seconds."""
        return tuple(self._open.items())

    def make(
        self,
        session: Session,
        link: TcpLink | UdpLink | QuicLink,
        report: tuple[PluginReport, ...] = (),
    ) -> Pipe:
        """The link must be nominated; ownership of it moves to the pipe.

        NetworkError when its socket is closed, since the interface has gone in this very moment; nothing is left then.
        """
        seconds = self._context.now() - session.started
        info = PipeInfo(
            session.id,
            session.peer,
            link.plugin,
            link.transport,
            link.local,
            link.remote,
            link.relayed,
            seconds,
            report,
            session.wanted.service,
        )
        try:
            pipe = self._pipe(session, link, info)
        except NetworkError:
            link.abort()
            if not isinstance(link, TcpLink):  # the session leaves chosen checks to their pipe
                self._udp.forget(session.checks)
            raise
        self.add(pipe)
        self._context.acquainted.marks.renew(session.peer, session.key, session.role)
        return pipe

    def add(self, pipe: Pipe) -> None:
        """It is closed with the node; its owner calls `ended`."""
        self._open[pipe] = self._context.wall_clock()
        self._context.acquainted.meet(pipe.peer, pipe.remote.ip)
        self._context.emit(
            PipeOpened(
                pipe.session.hex(),
                pipe.plugin,
                pipe.peer,
                pipe.mode.value,
                pipe.transport.value,
                str(pipe.local),
                str(pipe.remote),
                pipe.seconds,
                pipe.secure,
            )
        )

    def _pipe(self, session: Session, link: TcpLink | UdpLink | QuicLink, info: PipeInfo) -> Pipe:
        if isinstance(link, TcpLink):
            return StreamPipe(info, link.stream, session.tls_ends, self.ended)
        if isinstance(link, QuicLink):
            return self._quic(session, link, info)
        return self._datagram(session, link, info)

    def _datagram(self, session: Session, link: UdpLink, info: PipeInfo) -> PlainDatagramPipe:
        udp = self._udp
        port = udp.port(link.local)
        own_port = session.ports.keep(link.local)
        pipe = PlainDatagramPipe(
            info,
            udp,
            port,
            link.checks,
            self._context.config.receive_queue,
            self.ended,
            own_port,
        )
        link.checks.hand_over(pipe.check_event, relayed=link.relayed)
        return pipe

    def _quic(self, session: Session, link: QuicLink, info: PipeInfo) -> QuicPipe:
        self._udp.port(link.local)
        own_port = session.ports.keep(link.local)
        pipe = QuicPipe(info, self._udp, link.udp.checks, link.flow, self.ended, own_port)
        link.udp.checks.hand_over(pipe.check_event, relayed=link.relayed)
        return pipe

    def ended(self, pipe: Pipe, reason: str) -> None:
        self._open.pop(pipe, None)
        if isinstance(pipe, BytesOverQuic):
            self._leaving.add(pipe)
        self._context.emit(PipeEnded(pipe.session.hex(), pipe.peer, reason))
