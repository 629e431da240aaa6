"""The two kinds of link the core knows: an authenticated TCP connection, and a verified pair of UDP endpoints."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from warpgate.core.pipes.tls import TlsEnds, start_tls
from warpgate.core.udp.demultiplexer import SessionChecks
from warpgate.errors import AuthenticationError, NetworkError, ProtocolError
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.network import TcpStream, read_exactly
from warpgate.plan.shares import Turns
from warpgate.proto.hello import HEADER_SIZE, Authenticated, Handshake, Nominated, rest_of_message
from warpgate.proto.relay_limits import user_of

# No honest session has more: endpoints tried on a peer's word are 8 for each transport.
LINKS_A_SESSION = 8


def give_up(stream: TcpStream) -> None:
    """End a connection that carries nobody's data: FIN, and RST at once, which leaves our ports free.

    The FIN is for the router on the other side. Linux's forgets what the far end has reset after 10 s, and lets no SYN
    in by these ports until then; where it has seen a FIN, the next SYN from inside begins anew.
    """
    with suppress(NetworkError):
        stream.write_eof()
    stream.abort()


class TcpLink:
    """A stream on which the peer has proved its key; NOMINATE is still to come."""

    transport = Transport.TCP

    def __init__(
        self,
        stream: TcpStream,
        handshake: Handshake,
        plugin: str,
        *,
        relayed: bool = False,
        secure: bool = False,
    ) -> None:
        """`secure`: the initiator wants TLS on it."""
        self.relayed = relayed
        self.secure = secure
        self.stream = stream
        self.handshake = handshake
        self.plugin = plugin
        self._chosen = False

    @property
    def local(self) -> Endpoint:
        return self.stream.local

    @property
    def remote(self) -> Endpoint:
        return self.stream.remote

    def abort(self) -> None:
        if self._chosen:
            self.stream.abort()  # the peer's user may have it by now, and must not take this for the end of the data
        else:
            give_up(self.stream)

    async def nominate(self) -> None:
        """Choose this link (initiator); afterwards the stream is the user's."""
        self._chosen = True
        self.handshake.nominate()
        await self.stream.send(self.handshake.data_to_send())

    async def start_tls(self, ends: TlsEnds, patience: float) -> None:
        """After the nomination, where it is `secure`. NetworkError, ProtocolError when it fails: closed then."""
        self.stream = await start_tls(self.stream, ends, patience)

    async def nominated(self) -> None:
        """Wait until the initiator chooses this link. NetworkError, ProtocolError when it does not."""
        await read_message(self.stream, self.handshake)
        if not isinstance(self.handshake.next_event(), Nominated):
            raise ProtocolError("the peer sent something else than its nomination")


async def read_message(stream: TcpStream, handshake: Handshake) -> None:
    """Feed exactly one handshake message: reading further would take bytes that belong to the user."""
    gone = NetworkError(f"{stream.remote} closed the connection before it had proved its key")
    header = await read_exactly(stream.recv, HEADER_SIZE, gone)
    handshake.receive(header)
    handshake.receive(await read_exactly(stream.recv, rest_of_message(header), gone))


async def prove(
    stream: TcpStream, handshake: Handshake, patience: float, *, relayed: bool = False, secure: bool = False
) -> tuple[TcpLink, Authenticated]:
    """Speak first on a connection we opened; returns once the peer has proved its key.

    Gives up the stream on any failure: NetworkError, AuthenticationError, DecodeError.
    """
    try:
        async with asyncio.timeout(patience):
            await stream.send(handshake.data_to_send())
            await read_message(stream, handshake)
        peer = handshake.next_event()
        if not isinstance(peer, Authenticated):
            raise AuthenticationError(f"{stream.remote} did not prove the expected key")
    except TimeoutError:
        give_up(stream)
        raise NetworkError(f"{stream.remote} said nothing for {patience:g} s after connecting") from None
    except BaseException:
        give_up(stream)
        raise
    return TcpLink(stream, handshake, peer.plugin, relayed=relayed, secure=secure), peer


class UnchosenLinks:
    """Proved TCP links that wait to be nominated, oldest first: each holds a descriptor, and keys cost nothing."""

    def __init__(self, limit: int) -> None:
        """`limit`: how many there may be in all sessions together."""
        self._places: Turns[TcpLink] = Turns(limit)
        self._links: dict[TcpLink, bytes] = {}

    def __len__(self) -> int:
        return len(self._links)

    def add(self, session: bytes, link: TcpLink, *, ours: bool) -> None:
        """Where there are too many, the oldest is aborted: of its session, else of those who have most.

        `ours`: of a session that we began. What peers begin leaves room for these.
        """
        own = [other for other, owner in self._links.items() if owner == session]
        if len(own) >= LINKS_A_SESSION:
            self._evict(own[0])
        leaver = self._places.enter(link, session, user_of(link.remote.ip), ours)
        self._links[link] = session
        if leaver is not None:
            self._evict(leaver)

    def _evict(self, link: TcpLink) -> None:
        self._drop(link)
        link.abort()

    def _drop(self, link: TcpLink) -> None:
        self._places.leave(link)
        del self._links[link]

    def forget(self, session: bytes) -> None:
        """The session is over: what is left of its links is its own to drop."""
        for link in [link for link, owner in self._links.items() if owner == session]:
            self._drop(link)


class UdpLink:
    """A pair of UDP endpoints on which the peer has proved its key."""

    transport = Transport.UDP

    def __init__(
        self, checks: SessionChecks, base: Endpoint, remote: Endpoint, plugin: str, *, relayed: bool = False
    ) -> None:
        self.relayed = relayed
        self.checks = checks
        self.plugin = plugin
        self.local = base
        self.remote = remote

    def abort(self) -> None:
        """Nothing is held that the session does not close."""

    def nominate(self) -> None:
        """Choose this pair (initiator): USE-CANDIDATE leaves now, and again until acknowledged."""
        self.checks.nominate(self.local, self.remote)
