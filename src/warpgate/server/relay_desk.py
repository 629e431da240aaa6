"""Who of the node ids that a relay is for wants a log-in gets it here, sealed to its key (`proto/relay_ticket.py`)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from warpgate.errors import AuthenticationError
from warpgate.model.identity import node_id_of
from warpgate.model.turn_server import time_limited
from warpgate.proto.relay_ticket import Ticket, seal_ticket
from warpgate.server.rules import Code, Refusal
from warpgate.server.throttle import Throttle

# Seconds. Nodes come back when three quarters are over; who is no longer let in is out when they all are.
LIFETIME = 3600
# Sealing takes 0.3 ms; a household's nodes ask once in three quarters of an hour each.
TICKETS_PER_MINUTE = 60


class RelayDesk:
    """`secret` is the relay's, which nobody is told; `clock` gives Unix seconds, `timer` seconds that never jump."""

    def __init__(
        self, secret: str, ids: Collection[str], *, clock: Callable[[], float], timer: Callable[[], float]
    ) -> None:
        self._secret = secret
        self._ids = frozenset(ids)
        self._clock = clock
        self._timer = timer
        self._asked = Throttle(TICKETS_PER_MINUTE)

    def ticket(self, key: str, network: str) -> bytes | Refusal:
        """`key` in hex, as in the URL."""
        wait = self._asked.spend(network, self._timer())
        if wait:
            return Refusal(Code.RATE, f"{TICKETS_PER_MINUTE} tickets a minute for a network", retry_after=wait)
        try:
            public_key = bytes.fromhex(key)
            node_id = node_id_of(public_key)
            login = time_limited(self._secret, int(self._clock()) + LIFETIME, node_id)
            return seal_ticket(public_key, Ticket(login, LIFETIME) if node_id in self._ids else None)
        except (ValueError, AuthenticationError):
            return Refusal(Code.MALFORMED, "this is no node's public key")
