"""From a nominated link to a pipe, and the node's book of open pipes."""

from __future__ import annotations

import asyncio

from warpgate.core.engine import Engine
from warpgate.core.links import TcpLink, UdpLink
from warpgate.core.pipe import DatagramPipe, Pipe, PipeInfo, StreamPipe
from warpgate.core.quic_link import QuicLink
from warpgate.core.quic_pipe import QuicPipe
from warpgate.core.session import Session
from warpgate.events import PipeEnded, PipeOpened, PluginReport

# With a limit of 30 s a dead peer is noticed within 35 s; a thousand pipes cost 2 ms each time.
STALL_CHECK = 5.0
# A node is closed within a second.
CLOSING = 0.7


class PipeMaker:
    """Makes pipes and knows the open ones, so that the node can close them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: dict[Pipe, None] = {}  # in order of their opening

    async def watch(self) -> None:
        """End stream pipes whose peer has gone silent with our data in flight; runs as long as the node."""
        limit = self._engine.config.timing.consent_timeout - STALL_CHECK  # silence is noticed one look late
        while True:
            await asyncio.sleep(STALL_CHECK)
            for pipe in self.open_pipes:
                pipe.check_stall(limit)

    async def close(self) -> None:
        """Close all of them side by side; what a peer has not taken by then is lost with the program."""
        closing = [asyncio.ensure_future(pipe.close()) for pipe in self.open_pipes]
        if closing:
            _, late = await asyncio.wait(closing, timeout=CLOSING)
            for task in late:
                task.cancel()
            await asyncio.wait(closing)

    @property
    def open_pipes(self) -> tuple[Pipe, ...]:
        return tuple(self._open)

    def make(
        self,
        session: Session,
        link: TcpLink | UdpLink | QuicLink,
        plugin: str,
        report: tuple[PluginReport, ...] = (),
    ) -> Pipe:
        """The link must be nominated; ownership of it moves to the pipe."""
        seconds = self._engine.now() - session.started
        info = PipeInfo(
            session.id,
            session.peer,
            plugin,
            link.transport,
            link.local,
            link.remote,
            link.relayed,
            seconds,
            report,
        )
        pipe: Pipe
        if isinstance(link, TcpLink):
            pipe = StreamPipe(info, link.stream, self._ended)
        elif isinstance(link, QuicLink):
            pipe = self._quic(session, link, info)
        else:
            pipe = self._datagram(session, link, info)
        self._open[pipe] = None
        self._engine.emit(
            PipeOpened(
                session.id.hex(),
                plugin,
                session.peer,
                pipe.mode.value,
                link.transport.value,
                str(link.local),
                str(link.remote),
                seconds,
            )
        )
        return pipe

    def _datagram(self, session: Session, link: UdpLink, info: PipeInfo) -> DatagramPipe:
        hub = self._engine.hub
        own_port = session.keep_port(link.local)
        pipe = DatagramPipe(
            info,
            hub,
            hub.port(link.local),
            link.checks,
            self._engine.config.receive_queue,
            self._ended,
            own_port,
        )
        session.on_check_event = pipe.check_event
        return pipe

    def _quic(self, session: Session, link: QuicLink, info: PipeInfo) -> QuicPipe:
        own_port = session.keep_port(link.local)
        pipe = QuicPipe(info, self._engine.hub, link.udp.checks, link.flow, self._ended, own_port)
        session.on_check_event = pipe.check_event
        return pipe

    def _ended(self, pipe: Pipe, reason: str) -> None:
        self._open.pop(pipe, None)
        self._engine.emit(PipeEnded(pipe.session.hex(), pipe.peer, reason))
