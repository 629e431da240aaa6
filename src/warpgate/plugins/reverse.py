"""reverse: we can be reached, the peer cannot; one signal asks it to dial us."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from warpgate.errors import AttemptFailed
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Transport
from warpgate.net.link import Link
from warpgate.plugins.base import Attempt, Plugin


@dataclass(frozen=True, slots=True)
class CallBack:
    """Please dial the endpoints in my address."""


class Reverse(Plugin):
    """Usable after s + 1.5 R: the responder speaks first on the link it dials."""

    name: ClassVar[str] = "reverse"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})
    message_type: ClassVar[type | None] = CallBack

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        if cls.open_pairs(remote, local, Transport.TCP):
            return None
        return "none of our addresses is known to accept the peer's call"

    async def initiate(self, attempt: Attempt) -> Link:
        attempt.signal(CallBack())
        return await attempt.inbound()

    async def respond(self, attempt: Attempt) -> Link:
        await attempt.receive()
        targets = dict.fromkeys(pair.remote for pair in attempt.pairs(Transport.TCP) if pair.open)
        if not targets:
            raise AttemptFailed("none of the initiator's endpoints may be dialled from here")
        return await attempt.first({str(target): partial(attempt.dial, target) for target in targets})
