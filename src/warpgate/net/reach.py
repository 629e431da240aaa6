"""One way to reach a host that has several addresses: Happy Eyeballs (RFC 8305), for every kind of server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from warpgate.errors import NetworkError
from warpgate.model.alternating import alternating
from warpgate.model.endpoint import Endpoint
from warpgate.model.scope import Scope, scope_of
from warpgate.net.network import TcpStream
from warpgate.net.race import RaceLost, first_of

T = TypeVar("T")
StreamT = TypeVar("StreamT", bound=TcpStream)

# Section 5, Connection Attempt Delay: "250 milliseconds is recommended".
ATTEMPT_DELAY = 0.25
# Of all the addresses a name has in one family: the other may lead nowhere. Load balancers of clouds have up to eight.
ADDRESSES_TRIED = 8


def in_order(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Which to try, the first at once and each further one when the last has not answered for `ATTEMPT_DELAY`: the
    families in turn, the resolver's favourite first (section 4); not more than eight of a family.
    """
    first = [endpoint for endpoint in endpoints if endpoint.family is endpoints[0].family]
    others = [endpoint for endpoint in endpoints if endpoint.family is not endpoints[0].family]
    return tuple(alternating((first[:ADDRESSES_TRIED], others[:ADDRESSES_TRIED])))


def on_the_internet(found: tuple[Endpoint, ...], whose: str) -> tuple[Endpoint, ...]:
    """What somebody else's word leads to, without what is on this machine or in its networks. NetworkError when nothing
    is left; `whose` word it is completes the message.
    """
    public = tuple(endpoint for endpoint in found if scope_of(endpoint.ip) is Scope.GLOBAL)
    if found and not public:
        raise NetworkError(f"{found[0].ip} is {scope_of(found[0].ip).value}: not asked on {whose} word")
    return public


def in_turn(ways: Mapping[str, Callable[[], Awaitable[T]]]) -> dict[str, Callable[[], Awaitable[T]]]:
    """Runners for a race: each begins as soon as the one before it has failed, or not succeeded for `ATTEMPT_DELAY`."""
    failed = [asyncio.Event() for _ in ways]

    async def run(place: int, way: Callable[[], Awaitable[T]]) -> T:
        for earlier in failed[:place]:
            with suppress(TimeoutError):
                async with asyncio.timeout(ATTEMPT_DELAY):
                    await earlier.wait()
        try:
            return await way()
        finally:
            failed[place].set()

    return {name: partial(run, place, way) for place, (name, way) in enumerate(ways.items())}


async def dial_first(
    dial: Callable[[Endpoint, Endpoint | None], Awaitable[StreamT]],
    ways: Sequence[tuple[Endpoint, Endpoint | None]],
    patience: float | None = None,
) -> StreamT:
    """The stream of the first way (remote, local) that answers; NetworkError with every reason when none does.

    They are tried `in_turn`, and each is given up after `patience` seconds.
    """

    async def answered(remote: Endpoint, local: Endpoint | None) -> StreamT:
        try:
            async with asyncio.timeout(patience):
                return await dial(remote, local)
        except TimeoutError:
            raise NetworkError(f"connect to {remote}: no answer") from None

    runners = {f"{remote} from {local or 'here'}": partial(answered, remote, local) for remote, local in ways}
    try:
        return await first_of(in_turn(runners), lambda late: late.abort())
    except RaceLost as lost:
        reasons = "; ".join(str(error) for error in lost.failures.values())
        raise NetworkError(reasons or "no address to connect to") from None
