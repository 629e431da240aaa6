"""direct: the peer can be reached as it is. No signal, no server: works offline, on a LAN, to public addresses."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import ClassVar

from warpgate.errors import AttemptFailed
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.plugins.base import Attempt, Plugin, patient

# The kernel repeats a SYN after 1 s and 3 s (RFC 6298); whoever has not answered the third one is not there. Over slow
# paths: the SYN and the HELLO, there and back, and one of them again (in signals).
DIAL_PATIENCE = 4.5
DIAL_SIGNALS = 4


class Direct(Plugin):
    """Dial every endpoint that should accept a stranger, from ephemeral ports, and send checks to it.

    Endpoints behind a NAT that may filter are left to the punches: an early packet from here could claim the tuple on
    the peer's router ("first-packet poisoning"), after which the punch from our listening port could never pass.
    """

    name: ClassVar[str] = "direct"
    transports: ClassVar[frozenset[Transport]] = frozenset(Transport)
    needs_signal: ClassVar[bool] = False

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        if any(cls.open_pairs(local, remote, transport) for transport in Transport):
            return None
        return "none of the peer's addresses is known to accept strangers from here"

    async def initiate(self, attempt: Attempt) -> Link:
        runners = {}
        for remote in self._targets(attempt, Transport.TCP):
            runners[f"TCP {remote}"] = partial(self._dial, attempt, remote)
        if Transport.UDP in attempt.transports:
            targets = [pair for pair in attempt.pairs(Transport.UDP) if pair.open]
            for pair in targets:
                taken = attempt.occupied(pair.base, pair.remote)
                attempt.probe(await attempt.open_udp(pair.base) if taken else pair.base, pair.remote)
            if targets:
                runners["UDP"] = partial(self._verified, attempt)
        if not runners:
            raise AttemptFailed("nothing to try over the transports of this pipe")
        attempt.note(f"trying {', '.join(runners)}")
        return await attempt.first(runners)

    def _targets(self, attempt: Attempt, transport: Transport) -> tuple[Endpoint, ...]:
        if transport not in attempt.transports:
            return ()
        return tuple(dict.fromkeys(pair.remote for pair in attempt.pairs(transport) if pair.open))

    async def _dial(self, attempt: Attempt, remote: Endpoint) -> Link:
        patience = patient(attempt, DIAL_PATIENCE, DIAL_SIGNALS)
        try:
            async with asyncio.timeout(patience):
                return await attempt.dial(remote)
        except TimeoutError:
            raise AttemptFailed(f"no answer within {patience:.3g} s") from None

    async def _verified(self, attempt: Attempt) -> Link:
        patience = attempt.config.timing.check_offsets[-1] + 1.0
        try:
            async with asyncio.timeout(patience):
                return await attempt.verified()
        except TimeoutError:
            raise AttemptFailed(f"no answer to checks within {patience:g} s") from None
