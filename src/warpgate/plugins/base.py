"""What a strategy is, and everything it may touch; docs/writing-a-plugin.md tells it step by step.

A plugin is one file: its message (a frozen dataclass or msgspec.Struct, if it sends any) and a class:

    @register
    class Mine(Plugin):
        name = "mine"
        transports = frozenset({Transport.TCP})

        async def initiate(self, attempt: Attempt) -> Link: ...
        async def respond(self, attempt: Attempt) -> Link: ...

`initiate` runs on the side that called connect, `respond` on the other as soon as a message of this plugin arrives.
Both return an open link or raise AttemptFailed with the reason. The deadline, cleaning up, the proof of the peer's
key, the race, events and the report come from the core. Plugins never import each other.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from warpgate.errors import AttemptFailed
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.net.race import RaceLost, first_of, heed
from warpgate.plan.counting import being_measured
from warpgate.plan.patience import patience_of
from warpgate.plan.targets import Pair, pairs
from warpgate.plugins.attempt import Attempt, RandomPunch, Relay

__all__ = [
    "UNKNOWN_SIGNAL_DELAY",
    "Attempt",
    "Plugin",
    "RandomPunch",
    "Relay",
    "beside",
    "fingerprinted",
    "news",
    "outward",
    "patient",
    "race",
    "signal_delay",
    "until",
]

# Brokers without a measured round trip: what two far ends over a busy public broker need, in seconds.
UNKNOWN_SIGNAL_DELAY = 0.15
# Enough servers have answered by then, or will not. Seconds.
MEASURING = 1.0

T = TypeVar("T")


def signal_delay(attempt: Attempt) -> float:
    """Seconds that a signal to the peer should need, as well as that is known."""
    return UNKNOWN_SIGNAL_DELAY if attempt.signal_delay is None else attempt.signal_delay


def patient(attempt: Attempt, least: float, signals: float) -> float:
    """Seconds: `least`, or what so many signals take where ways are slow; see `plan.patience`."""
    return patience_of(least, signals, attempt.round_trip)


async def news(attempt: Attempt, patience: float | None) -> None:
    """Returns when more is known of either side, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await attempt.knowledge_changed()


async def until(attempt: Attempt, known: Callable[[], bool], patience: float | None = None) -> None:
    """Returns when this is so, by what is known of both sides, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not known():
                await attempt.knowledge_changed()


async def fingerprinted(attempt: Attempt) -> None:
    """Returns when it is known what the NAT before us is like, or will not be known soon."""
    await until(attempt, lambda: not being_measured(attempt.local), MEASURING)


def beside(attempt: Attempt, part: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Runs for as long as the strategy's half. What it raises is for whoever waits for it."""
    task = asyncio.ensure_future(part)
    task.add_done_callback(heed)
    attempt.stack.callback(task.cancel)
    return task


async def race(ways: Mapping[str, Callable[[], Awaitable[Link]]], leader: str | None = None) -> Link:
    """The first link; AttemptFailed with every reason when there is none, or when the leader fails."""
    try:
        return await first_of(ways, Link.abort, leader)
    except RaceLost as lost:
        raise AttemptFailed(str(lost)) from None


def outward(attempt: Attempt, transport: Transport) -> tuple[Endpoint, ...]:
    """Our listening endpoints, one an interface, on the interfaces that face the peer's side of the internet."""
    facing = {pair.base.ip: pair.base for pair in attempt.pairs(transport) if not pair.nearby}
    if facing:
        return tuple(facing.values())
    outside = (at.host_endpoint(transport) for at in attempt.local.attachments if not at.host.is_loopback)
    return tuple(endpoint for endpoint in outside if endpoint is not None)


class Plugin(ABC):
    """One traversal strategy. Everything suitable starts in the same tick; each half runs on an object of its own."""

    name: ClassVar[str]  # what users choose it by; at most 32 bytes
    transports: ClassVar[frozenset[Transport]]  # what its links may run over
    message_type: ClassVar[type | None] = None  # of all messages, both ways; None: it sends none
    needs_signal: ClassVar[bool] = True  # False: works without any broker
    relays: ClassVar[bool] = False  # its links run over somebody else's machine: direct ones are preferred
    searches: ClassVar[bool] = False  # for a port, which takes seconds: a relay that is ready waits longer for it

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        """Why this strategy cannot work between these two, or None. Pure; UNKNOWN never rules anything out."""
        return None

    @staticmethod
    def open_pairs(local: NodeAddress, remote: NodeAddress, transport: Transport) -> tuple[Pair, ...]:
        """Our sockets x the peer's endpoints that are known to accept a stranger; for `unsuitable`."""
        return tuple(pair for pair in pairs(local, remote, transport) if pair.open)

    @abstractmethod
    async def initiate(self, attempt: Attempt) -> Link:
        """The side that called connect. Returns a link of `attempt`'s, or raises AttemptFailed with the reason."""

    async def respond(self, attempt: Attempt) -> Link:
        """The other half; strategies that need none never signal, so only a strange peer asks for theirs."""
        raise AttemptFailed(f"{self.name} has no responding half")
