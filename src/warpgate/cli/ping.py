"""Round trips through a pipe to a peer that echoes (`connect --ping N`)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from warpgate.cli.records import Pong
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Mode

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

PATIENCE = 10.0  # TCP has retransmitted five times by then (RFC 6298: 0.2 s on Linux, doubling)
# Over slow paths: so many times what connecting took, which is one to six round trips, or what the slowest echo took.
CONNECTS = 4.0
ECHOES = 4.0
LONGEST = 60.0
DATAGRAM_GAP = 1.0
DATAGRAM_TRIES = 5  # at 10 % loss each way one ping in 4,000 loses all five


async def ping(pipe: Pipe, count: int, report: Callable[[Pong], None]) -> None:
    """Send `count` pings one by one. NetworkError when one is not echoed, PipeClosed when the pipe goes."""
    once = ping_stream if pipe.mode is Mode.STREAM else ping_datagram
    patience = max(PATIENCE, min(CONNECTS * pipe.seconds, LONGEST))
    for number in range(1, count + 1):
        try:
            seconds = await once(pipe, patience)
            patience = max(patience, min(ECHOES * seconds, LONGEST))
            report(Pong(round(seconds, 6)))
        except TimeoutError:
            raise NetworkError(f"ping {number} of {count} was not echoed (is the peer `listen --echo`?)") from None


async def ping_stream(pipe: Pipe, patience: float) -> float:
    """Seconds until the echo was complete; TimeoutError when it does not come within `patience`."""
    payload = _payload()
    started = asyncio.get_running_loop().time()
    async with asyncio.timeout(patience):
        await pipe.send(payload)
        echoed = await pipe.recv_n(len(payload))
    if echoed != payload:
        raise NetworkError("the peer answered with something else than the ping (is it `listen --echo`?)")
    return asyncio.get_running_loop().time() - started


async def ping_datagram(pipe: Pipe, patience: float) -> float:
    """Seconds from a try's sending to its own echo; datagrams may be lost, so there are several tries.

    Each has a payload of its own: a slow echo is told from a quick one, and counts however many tries have left since.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    sent: dict[bytes, float] = {}
    while True:
        again = began + len(sent) * DATAGRAM_GAP
        if len(sent) < DATAGRAM_TRIES and loop.time() >= again:
            payload = _payload()
            sent[payload] = loop.time()
            await pipe.send(payload)
            continue
        try:
            async with asyncio.timeout_at(again if len(sent) < DATAGRAM_TRIES else began + patience):
                echo = await pipe.recv()
        except TimeoutError:
            if len(sent) == DATAGRAM_TRIES:
                raise
        else:
            if (started := sent.get(echo)) is not None:
                return loop.time() - started


def _payload() -> bytes:
    return b"warpgate ping " + secrets.token_hex(8).encode() + b"\n"
