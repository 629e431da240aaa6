"""port_443: out of networks that let nothing but HTTPS through, to a peer that can open port 443 for us."""

from dataclasses import dataclass
from functools import partial

from warpgate import (
    Attempt,
    AttemptFailed,
    Endpoint,
    Link,
    NetworkError,
    NodeAddress,
    Plugin,
    Transport,
    register,
)

PORT = 443


@dataclass(frozen=True, slots=True)
class Door:
    """From the initiator: please open one. From the responder: it is open, or why not."""

    trouble: str = ""


@register
class Port443(Plugin):
    name = "port_443"
    transports = frozenset({Transport.TCP})
    message_type = Door

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        if cls.open_pairs(local, remote, Transport.TCP):
            return None
        return "the peer has no address that accepts strangers"

    async def initiate(self, attempt: Attempt) -> Link:
        attempt.signal(Door())
        answer = await attempt.receive()
        if answer.trouble:
            raise AttemptFailed(f"the peer cannot listen on port {PORT}: {answer.trouble}")
        doors = {Endpoint(pair.remote.ip, PORT) for pair in attempt.pairs(Transport.TCP) if pair.open}
        attempt.note(f"dialling {', '.join(map(str, doors))}")
        return await attempt.first({str(door): partial(attempt.dial, door) for door in doors})

    async def respond(self, attempt: Attempt) -> Link:
        await attempt.receive()
        try:
            for attachment in attempt.local.attachments:
                await attempt.listen_tcp(Endpoint(attachment.host, PORT))
        except NetworkError as error:
            attempt.signal(Door(trouble=str(error)))
            raise
        attempt.signal(Door())
        return await attempt.inbound()
