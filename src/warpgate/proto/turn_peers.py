"""Whom an allocation serves: permissions by address, channels by endpoint (RFC 8656 sections 9 and 12).

Book-keeping only; `turn.TurnClient` sends the requests. What is not used for one lifetime is left to expire.
"""

from __future__ import annotations

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.proto.turn_wire import FIRST_CHANNEL

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
class _Permission:
    """`renew_at`: when to ask (again); `asking` while a request is open."""

    used: float
    expires: float = 0.0
    renew_at: float = 0.0
    asking: bool = True


class Permissions:
    """Addresses that may send to the relayed endpoints."""

    def __init__(self) -> None:
        self._known: dict[IPAddress, _Permission] = {}

    def known(self, ip: IPAddress) -> bool:
        """Whether we ever asked for it: late datagrams of an expired one are welcome."""
        return ip in self._known

    def use(self, ip: IPAddress, now: float) -> bool:
        """Note that we talk; True when a request must be sent now."""
        permission = self._known.get(ip)
        if permission is None:
            if len(self._known) >= MAX_PERMISSIONS:
                return False
            self._known[ip] = _Permission(used=now)
            return True
        permission.used = now
        if permission.asking or now < permission.renew_at:
            return False
        permission.asking = True
        return True

    def answered(self, ip: IPAddress, now: float, pause: float | None) -> None:
        """Granted, or to be asked for again after `pause` seconds."""
        permission = self._known.get(ip)
        if permission is not None:
            permission.asking = False
            permission.renew_at = now + (PERMISSION_RENEWAL if pause is None else pause)
            permission.expires = now + PERMISSION_LIFETIME if pause is None else permission.expires

    def due(self, now: float) -> list[IPAddress]:
        """Those to be asked for again, now marked as asked."""
        found = []
        for ip, permission in self._known.items():
            if self._kept(permission) and not permission.asking and permission.renew_at <= now:
                permission.asking = True
                found.append(ip)
        return found

    def poll_timeout(self) -> float | None:
        return min(
            (
                permission.renew_at
                for permission in self._known.values()
                if self._kept(permission) and not permission.asking
            ),
            default=None,
        )

    def _kept(self, permission: _Permission) -> bool:
        """Worth renewing: used since a lifetime before it would be due. Others wait until they are used again."""
        return permission.renew_at - permission.used < PERMISSION_LIFETIME


@dataclass(slots=True)
class _Channel:
    number: int
    used: float
    expires: float = 0.0
    renew_at: float = 0.0
    asking: bool = True


class Channels:
    """Peers with a number of their own; the number stays theirs."""

    def __init__(self) -> None:
        self._channels: dict[Endpoint, _Channel] = {}
        self._peers: dict[int, Endpoint] = {}

    def number_of(self, peer: Endpoint) -> int:
        return self._channels[peer].number

    def peer_of(self, number: int) -> Endpoint | None:
        return self._peers.get(number)

    def bound(self, peer: Endpoint, now: float) -> int | None:
        """The number to send by, None while there is none."""
        channel = self._channels.get(peer)
        if channel is None:
            return None
        channel.used = now
        return channel.number if now < channel.expires else None

    def use(self, peer: Endpoint, now: float) -> bool:
        """The peer was heard; True when a request must be sent now."""
        channel = self._channels.get(peer)
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS:
                return False
            number = FIRST_CHANNEL + len(self._channels)
            self._channels[peer] = _Channel(number, used=now)
            self._peers[number] = peer
            return True
        channel.used = now
        if channel.asking or now < channel.renew_at:
            return False
        channel.asking = True
        return True

    def answered(self, peer: Endpoint, now: float, pause: float | None) -> None:
        """As above."""
        channel = self._channels[peer]
        channel.asking = False
        channel.renew_at = now + (CHANNEL_RENEWAL if pause is None else pause)
        channel.expires = now + CHANNEL_LIFETIME if pause is None else channel.expires

    def due(self, now: float) -> list[Endpoint]:
        """Those to be bound again, now marked as asked."""
        found = []
        for peer, channel in self._channels.items():
            if self._kept(channel) and not channel.asking and channel.renew_at <= now:
                channel.asking = True
                found.append(peer)
        return found

    def poll_timeout(self) -> float | None:
        return min(
            (channel.renew_at for channel in self._channels.values() if self._kept(channel) and not channel.asking),
            default=None,
        )

    def _kept(self, channel: _Channel) -> bool:
        return channel.renew_at - channel.used < CHANNEL_LIFETIME
