"""Between pipes and the programs of this machine: `listen --forward` dials them, `connect --listen` waits for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from warpgate.cli.ends import LocalStream, PipeEnd, StreamEnd, join, owned, owned_stream
from warpgate.cli.places import Entrance, Service, SocksEntrance, SocksPlace, TcpPlace, UdpPlace, UnixPlace
from warpgate.cli.socks import Refused, ask_peer, asked_locally, serve_socks
from warpgate.cli.udp_flows import UdpEntrance, forward_udp
from warpgate.errors import NetworkError, WarpgateError
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.net.reach import dial_first, in_order
from warpgate.net.system import SystemNetwork
from warpgate.net.unix import UnixListener, dial_unix
from warpgate.proto import socks

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

Connect = Callable[[Mode], Awaitable["Pipe"]]


class Visit(Protocol):
    """A program here that wants to the peer. `name` says who, for people."""

    name: str

    async def carry(self, connect: Connect) -> None:
        """From a pipe of its own to the end. WarpgateError or OSError when that fails."""

    def abort(self) -> None:
        """It cannot be carried."""


class Opened(Protocol):
    """Something that is listened at until it is closed."""

    def close(self) -> None: ...


async def forward(pipe: Pipe, place: Service) -> None:
    """Join the pipe to the service there. NetworkError when that cannot be reached."""
    if isinstance(place, UdpPlace):
        await forward_udp(pipe, place)
    elif isinstance(place, SocksPlace):
        await serve_socks(pipe, place)
    elif pipe.mode is not Mode.STREAM:
        raise NetworkError("--forward carries streams, the peer opened a datagram pipe")
    else:
        with owned_stream(await dial(place)) as stream:
            await join(PipeEnd(pipe), StreamEnd(stream))


async def dial(place: TcpPlace | UnixPlace) -> LocalStream:
    """The first of the service's addresses that answers. NetworkError when none does."""
    if isinstance(place, UnixPlace):
        return await dial_unix(place.path)
    network = SystemNetwork()
    found = in_order(await network.resolve(place.host, place.port))
    try:
        return await dial_first(network.dial_tcp, [(endpoint, None) for endpoint in found])
    except NetworkError as error:
        raise NetworkError(f"{place} cannot be reached ({error})") from None


class StreamVisit:
    """A connection. Its bytes are the pipe's."""

    def __init__(self, stream: LocalStream, name: str) -> None:
        self.name = name
        self._stream = stream

    async def carry(self, connect: Connect) -> None:
        with owned_stream(self._stream):
            async with owned(await connect(Mode.STREAM)) as pipe:
                await join(StreamEnd(self._stream), PipeEnd(pipe))

    def abort(self) -> None:
        self._stream.abort()


class SocksVisit(StreamVisit):
    """A connection of a SOCKS client."""

    async def carry(self, connect: Connect) -> None:
        with owned_stream(self._stream):
            failure = await self._served(connect)
        if failure is not None:  # told to the client, whose connection has ended in order so that it hears it
            raise failure

    async def _served(self, connect: Connect) -> WarpgateError | None:
        """Why there was nothing to join the client to."""
        stream = self._stream
        try:
            wanted = await asked_locally(stream)
            pipe = await connect(Mode.STREAM)
        except WarpgateError as error:
            return await self._refuse(error)
        async with owned(pipe):
            try:
                answer = await ask_peer(pipe, wanted)
            except NetworkError as error:
                return await self._refuse(error)
            await stream.send(answer)
            await join(StreamEnd(stream), PipeEnd(pipe))
        return None

    async def _refuse(self, error: WarpgateError) -> WarpgateError:
        answer = error.answer if isinstance(error, Refused) else socks.reply(socks.Reply.FAILED)
        with suppress(NetworkError):
            await self._stream.send(answer)
        return error


def open_entrance(place: Entrance, accepted: Callable[[Visit], None]) -> Opened:
    """Hand over whoever comes. NetworkError when the place is taken."""
    if isinstance(place, UdpPlace):
        return UdpEntrance(place, accepted)
    visit: type[StreamVisit] = StreamVisit
    if isinstance(place, SocksEntrance):
        place, visit = place.place, SocksVisit
    if isinstance(place, UnixPlace):
        path = place.path
        return UnixListener(path, lambda stream: accepted(visit(stream, path)))
    return SystemNetwork().listen_tcp(
        Endpoint.of(place.host, place.port), lambda stream: accepted(visit(stream, str(stream.remote)))
    )
