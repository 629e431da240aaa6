"""Whom an allocation serves: permissions by address, channels by endpoint (RFC 8656 sections 9 and 12).

Book-keeping only; `turn.TurnClient` sends the requests. What is not used for one lifetime is left to expire.
"""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.proto.turn_wire import FIRST_CHANNEL

K = TypeVar("K")

PERMISSION_LIFETIME = 300.0  # section 9: "exactly 5 minutes"
PERMISSION_RENEWAL = 200.0  # leaves 100 s for retries
CHANNEL_LIFETIME = 600.0  # section 12: "10 minutes"
CHANNEL_RENEWAL = 400.0
RETRY = 5.0
# Where the server itself is in trouble: the last check of a peer comes after 3.5 s.
TROUBLE_RETRY = 2.0
# A peer that the server will not serve is not asked about again while an attempt lasts.
REFUSAL_LASTS = 60.0
# An attempt asks for a handful; a peer may make us answer from as many ports as it likes, but not bind them all.
MAX_CHANNELS = 64
MAX_PERMISSIONS = 256


@dataclass(slots=True)
class _Grant:
    """`renew_at`: when to ask (again); `asking` while a request is open."""

    used: float
    expires: float = 0.0
    renew_at: float = 0.0
    asking: bool = True


class _Grants(Generic[K]):
    """What the server grants for a lifetime, and again in time as long as it is used."""

    lifetime: ClassVar[float]
    renewal: ClassVar[float]
    most: ClassVar[int]

    def __init__(self) -> None:
        self._known: dict[K, _Grant] = {}

    def use(self, key: K, now: float) -> bool:
        """Note that we talk; True when a request must be sent now."""
        grant = self._known.get(key)
        if grant is None:
            if len(self._known) >= self.most:
                return False
            self._known[key] = _Grant(used=now)
            return True
        grant.used = now
        if grant.asking or now < grant.renew_at:
            return False
        grant.asking = True
        return True

    def answered(self, key: K, now: float, pause: float | None) -> None:
        """Granted, or to be asked for again after `pause` seconds."""
        grant = self._known.get(key)
        if grant is not None:
            grant.asking = False
            grant.renew_at = now + (self.renewal if pause is None else pause)
            grant.expires = now + self.lifetime if pause is None else grant.expires

    def due(self, now: float) -> list[K]:
        """Those to be asked for again, now marked as asked."""
        found = []
        for key, grant in self._known.items():
            if self._kept(grant) and grant.renew_at <= now:
                grant.asking = True
                found.append(key)
        return found

    def poll_timeout(self) -> float | None:
        return min((grant.renew_at for grant in self._known.values() if self._kept(grant)), default=None)

    def _kept(self, grant: _Grant) -> bool:
        """To be renewed when it is due: used since a lifetime before that. Others wait until they are used again."""
        return not grant.asking and grant.renew_at - grant.used < self.lifetime


class Permissions(_Grants[IPAddress]):
    """Addresses that may send to the relayed endpoints."""

    lifetime, renewal, most = PERMISSION_LIFETIME, PERMISSION_RENEWAL, MAX_PERMISSIONS

    def known(self, ip: IPAddress) -> bool:
        """Whether we ever asked for it: late datagrams of an expired one are welcome."""
        return ip in self._known


class Channels(_Grants[Endpoint]):
    """Peers with a number of their own; the number stays theirs."""

    lifetime, renewal, most = CHANNEL_LIFETIME, CHANNEL_RENEWAL, MAX_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[Endpoint, int] = {}
        self._peers: dict[int, Endpoint] = {}

    def number_of(self, peer: Endpoint) -> int:
        """Of one in use: a free one at first."""
        number = self._numbers.setdefault(peer, FIRST_CHANNEL + len(self._numbers))
        self._peers[number] = peer
        return number

    def peer_of(self, number: int) -> Endpoint | None:
        return self._peers.get(number)

    def bound(self, peer: Endpoint, now: float) -> int | None:
        """The number to send by, None while there is none."""
        channel = self._known.get(peer)
        if channel is None:
            return None
        channel.used = now
        return self._numbers[peer] if now < channel.expires else None
