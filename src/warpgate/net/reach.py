"""One way to reach a host that has several addresses: Happy Eyeballs (RFC 8305), for every kind of server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from warpgate.model.endpoint import Endpoint

T = TypeVar("T")

# Section 5, Connection Attempt Delay: "250 milliseconds is recommended".
ATTEMPT_DELAY = 0.25
# Of all the addresses a name has: both families and a spare each.
ADDRESSES_TRIED = 4


def in_order(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Which to try, the first at once and each further one when the last has not answered for `ATTEMPT_DELAY`: the
    families in turn, the resolver's favourite first (section 4); not more than four.
    """
    first = [endpoint for endpoint in endpoints if endpoint.family is endpoints[0].family]
    others = [endpoint for endpoint in endpoints if endpoint.family is not endpoints[0].family]
    merged: list[Endpoint] = []
    while first or others:
        merged += first[:1] + others[:1]
        del first[:1], others[:1]
    return tuple(merged[:ADDRESSES_TRIED])


async def in_turn(place: int, attempt: Callable[[], Awaitable[T]]) -> T:
    """`attempt` when its turn has come; the first has place 0."""
    if place:
        await asyncio.sleep(place * ATTEMPT_DELAY)
    return await attempt()
