"""A log-in for a relay, sealed to the node that it is for: what a server gives to the node ids that it lets in.

Whoever asks for a key's ticket gets one, and only the holder of that key can open it. So the asker proves nothing, the
server keeps nothing, and a recorded answer is of no use. Who is not let in gets a ticket as well, of the same length,
which says so: nobody else learns who is.
"""

from __future__ import annotations

import msgspec

from warpgate.errors import DecodeError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.identity import HPKE_OVERHEAD, Identity, hpke_seal
from warpgate.model.turn_server import Credentials

_PURPOSE = b"warpgate/1 relay ticket"
# Padded to this with blanks, which JSON allows.
PLAIN_SIZE = 256
TICKET_SIZE = PLAIN_SIZE + HPKE_OVERHEAD


class _Ticket(msgspec.Struct, omit_defaults=True):
    username: str = ""
    password: str = ""
    ttl: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """`lifetime` in seconds from when it was made."""

    login: Credentials
    lifetime: int


def seal_ticket(public_key: bytes, ticket: Ticket | None) -> bytes:
    """TICKET_SIZE bytes; None: the key's node is not let in. AuthenticationError when the key (33 bytes) is none."""
    if ticket is None:
        plain = _Ticket(error="not let in")
    else:
        plain = _Ticket(ticket.login.user, ticket.login.password, ticket.lifetime)
    return hpke_seal(public_key, msgspec.json.encode(plain).ljust(PLAIN_SIZE), _PURPOSE)


def open_ticket(identity: Identity, data: bytes) -> Ticket:
    """DecodeError, AuthenticationError for what is no ticket of ours; ServiceError when we are not let in."""
    plain = identity.hpke_open(data, _PURPOSE)
    try:
        told = msgspec.json.decode(plain, type=_Ticket)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"the ticket is not of the right form: {error}") from None
    if told.error or not (told.username and told.password):
        raise ServiceError("this node's id is not among those that the relay is for")
    return Ticket(Credentials(told.username, told.password), told.ttl)
