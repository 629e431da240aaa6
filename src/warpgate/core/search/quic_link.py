"""UDP links made into streams on the initiator's side, and the head start that TCP gets."""

from __future__ import annotations

import asyncio

from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.connection.quic_library import loaded
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.search.links import UdpLink
from warpgate.core.search.session import Session
from warpgate.errors import WarpgateError
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.race import abandon

# One session may verify several pairs at once; the first ones are the fastest.
HANDSHAKES_AT_ONCE = 4
# TCP carries more, so it is given a round trip from the moment in which the UDP link is verified, although QUIC is open
# by then where the first packets have travelled ahead: until the server confirms. A TCP link that takes just as long
# (direct: 2 R both ways) is to win nevertheless, whatever the loop's jitter: it is waited for by this part of the round
# trip more.
TIE = 0.15
# Lest a handshake that had to be repeated makes for a long wait.
TIE_LIMIT = 0.05


class QuicLink:
    """A UDP link with a QUIC connection on it, both keys proved; the nomination is still to come."""

    transport = Transport.UDP

    def __init__(self, udp: UdpLink, flow: QuicFlow) -> None:
        self.udp = udp
        self.flow = flow
        self.plugin = udp.plugin

    @property
    def relayed(self) -> bool:
        return self.udp.relayed

    @property
    def local(self) -> Endpoint:
        return self.udp.local

    @property
    def remote(self) -> Endpoint:
        return self.udp.remote

    def abort(self) -> None:
        self.flow.close(reason="another link was chosen")

    def nominate(self) -> None:
        """Choose this link (initiator)."""
        self.udp.nominate()


async def open_quic(session: Session, link: UdpLink) -> QuicLink:
    """The client's side of a QUIC handshake on a verified link. NetworkError, AuthenticationError when it fails.

    On the first link it goes on with what has travelled with the offer and the checks, and has been answered perhaps.
    """
    context = session.context
    await loaded()
    flow = None if session.ahead is None else session.ahead.go_on(link)
    if flow is None:
        stream = QuicStream.client(
            context.identity, session.peer_key, session.id, context.now(), session.equipment.quic_holdings
        )
        flow = QuicFlow(stream, session.equipment.udp.port(link.local), link.remote)
    began = context.now()
    try:
        await flow.opened()
        session.note(link.plugin, f"QUIC to {link.remote} after {(context.now() - began) * 1000:.0f} ms")
        if session.tcp_may_come():
            await flow.confirmed()
            await asyncio.sleep(min(TIE * (context.now() - began), TIE_LIMIT))
    except BaseException:
        flow.close(reason="given up")
        raise
    return QuicLink(link, flow)


async def first_quic(session: Session, verified: asyncio.Queue[UdpLink]) -> QuicLink:
    """The first of the links in the queue that carries a stream; waits for further ones when handshakes fail."""
    opening: dict[asyncio.Task[QuicLink], UdpLink] = {}
    getting = asyncio.ensure_future(verified.get())
    winner: QuicLink | None = None
    try:
        while True:
            await asyncio.wait({getting, *opening}, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in opening if task.done()]:
                link = opening.pop(task)
                if winner is None and (winner := _result(session, task, link)) is not None:
                    return winner
            if getting.done() and len(opening) < HANDSHAKES_AT_ONCE:
                link = getting.result()
                opening[asyncio.ensure_future(open_quic(session, link))] = link
                getting = asyncio.ensure_future(verified.get())
    finally:
        getting.cancel()
        for task in opening:
            abandon(task, lambda link: link.abort())


def _result(session: Session, task: asyncio.Task[QuicLink], link: UdpLink) -> QuicLink | None:
    try:
        return task.result()
    except WarpgateError as error:
        session.note(link.plugin, f"no QUIC to {link.remote}: {error}")
        return None
