"""Between pipes and the programs of this machine: `listen --forward` dials them, `connect --listen` waits for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from warpgate.cli.ends import LocalStream, PipeEnd, StreamEnd, join, owned_stream
from warpgate.cli.places import Place, UnixPlace
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.net.system import SystemNetwork
from warpgate.net.unix import UnixListener, dial_unix

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe


class Entrance(Protocol):
    """Something that is listened at until it is closed."""

    def close(self) -> None: ...


async def forward(pipe: Pipe, place: Place) -> None:
    """Join the pipe to the service there. NetworkError when that cannot be reached."""
    if pipe.mode is not Mode.STREAM:
        raise NetworkError("--forward carries streams, the peer opened a datagram pipe")
    with owned_stream(await dial(place)) as stream:
        await join(PipeEnd(pipe), StreamEnd(stream))


async def dial(place: Place) -> LocalStream:
    """The first of the service's addresses that answers. NetworkError when none does."""
    if isinstance(place, UnixPlace):
        return await dial_unix(place.path)
    network = SystemNetwork()
    failures = []
    for endpoint in await network.resolve(place.host, place.port):
        try:
            return await network.dial_tcp(endpoint)
        except NetworkError as error:
            failures.append(str(error))
    raise NetworkError(f"{place} cannot be reached ({'; '.join(failures)})")


def open_entrance(place: Place, accepted: Callable[[LocalStream, str], None]) -> Entrance:
    """Hand over each connection with the name of whoever made it. NetworkError when the place is taken."""
    if isinstance(place, UnixPlace):
        return UnixListener(place.path, lambda stream: accepted(stream, place.path))
    return SystemNetwork().listen_tcp(
        Endpoint.of(place.host, place.port), lambda stream: accepted(stream, str(stream.remote))
    )
