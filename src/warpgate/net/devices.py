"""Keeping what leaves a socket on the interface whose address the socket has.

A routing table usually sends everything to the best default route, whatever the source address: a packet of the second
uplink's would leave through the first one, with an address that its provider drops, and what is established on the only
one would change over as soon as a better one comes. Where the system knows no such thing, its routes decide.
"""

from __future__ import annotations

from collections.abc import Iterable

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.platform.interfaces import AssignedAddress


class Devices:
    """Which interface has which address, as last told."""

    def __init__(self) -> None:
        self._names: dict[IPAddress, str] = {}

    def learn(self, addresses: Iterable[AssignedAddress]) -> None:
        """All there are: the system may choose one that is not for others to know (RFC 8981)."""
        self._names = {address.ip: address.name for address in addresses}

    def of(self, ip: IPAddress) -> str | None:
        """The interface to stay on with this address; None for the loopback, and where it is not known."""
        return None if ip.is_loopback else self._names.get(ip)

    def to(self, ip: IPAddress, remote: Endpoint) -> str | None:
        """The same for a connection: one to the machine itself runs over the loopback, whatever its addresses."""
        return None if remote.ip in self._names or remote.ip.is_loopback else self.of(ip)
