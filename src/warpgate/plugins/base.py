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
from typing import ClassVar

from warpgate.errors import AttemptFailed
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
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
    "outward",
    "patient",
    "signal_delay",
]

# Brokers without a measured round trip: what two far ends over a busy public broker need, in seconds.
UNKNOWN_SIGNAL_DELAY = 0.15
KNOWING_STEP = 0.05
KNOWING_STEPS = 20


def signal_delay(attempt: Attempt) -> float:
    """Seconds that a signal to the peer should need, as well as that is known."""
    return UNKNOWN_SIGNAL_DELAY if attempt.signal_delay is None else attempt.signal_delay


def patient(attempt: Attempt, least: float, signals: float) -> float:
    """Seconds: `least`, or what so many signals take where they are slow; see `plan.patience`."""
    return patience_of(least, signals, attempt.signal_delay)


async def fingerprinted(attempt: Attempt) -> None:
    """Returns when it is known what the NAT before us is like, or will not be known within a second."""
    for _ in range(KNOWING_STEPS):
        if not being_measured(attempt.local):
            break
        await asyncio.sleep(KNOWING_STEP)


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
