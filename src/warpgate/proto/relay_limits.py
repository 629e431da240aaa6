"""What the users of a relay may take, and whom they may reach through it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress
from warpgate.model.scope import IPNetwork, Scope, carried_by, scope_of
from warpgate.proto.bucket import TokenBucket

MEBIBYTE = 1024 * 1024
MEGABIT = 1e6 / 8  # in bytes
# An IPv6 customer gets a /56 (RIPE-690); an IPv4 address is a household, or many behind a carrier's NAT.
USER_PREFIX_V4, USER_PREFIX_V6 = 32, 56


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Bytes count once, whichever way they go. A user is who comes from one network (`user_of`)."""

    # A node takes one for each connect, for some seconds, and one for each relayed pipe.
    allocations_per_user: int = 64
    allocations: int = 1000
    # A peer is told a handful of addresses; what is over this is no peer.
    permissions: int = 64
    channels: int = 64
    calls: int = 16  # TCP connections of one allocation that are being made or wait for their client
    streams: int = 64  # TCP connections of one allocation
    bytes_per_second_per_user: float = 100 * MEGABIT
    bytes_per_second: float = 1000 * MEGABIT
    bytes_per_day_per_user: float | None = None
    bytes_per_day: float | None = None


class Meter:
    """Bytes of one user, or of all: a rate whose second is a burst, and the day's amount (None: any)."""

    __slots__ = ("_buckets",)

    def __init__(self, per_second: float, per_day: float | None, now: float) -> None:
        self._buckets = [TokenBucket(per_second, per_second, now)]
        if per_day is not None:
            self._buckets.append(TokenBucket(per_day / 86400, per_day, now))

    def wait(self, now: float) -> float:
        return max(bucket.wait(now) for bucket in self._buckets)

    def full(self, now: float) -> bool:
        """Whether nothing of it is used up."""
        return all(bucket.full(now) for bucket in self._buckets)

    def take(self, amount: float) -> None:
        for bucket in self._buckets:
            bucket.overdraw(amount)


class PeerPolicy:
    """Which peers a relay reaches: hosts of the internet, never its own; and networks that its owner has named."""

    def __init__(self, own: Iterable[IPAddress], allowed: Iterable[IPNetwork] = ()) -> None:
        self.own = frozenset(own)
        self._allowed = tuple(allowed)

    def reaches(self, ip: IPAddress) -> bool:
        """Own addresses are not judged here: whether one is a relayed endpoint depends on the port."""
        if any(ip.version == network.version and ip in network for network in self._allowed):
            return True
        # An IPv6 address that is an IPv4 one inside leads to our own as well (NAT64, 6to4).
        return scope_of(ip) is Scope.GLOBAL and self.own.isdisjoint((ip, *carried_by(ip)))


def user_of(ip: IPAddress) -> IPv4Network | IPv6Network:
    """Whom limits count for a client: with one secret for all, a name would be of its own choice."""
    return ip_network((ip, USER_PREFIX_V4 if ip.version == 4 else USER_PREFIX_V6), strict=False)
