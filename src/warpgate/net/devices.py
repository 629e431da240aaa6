"""Keeping what leaves a socket on the interface whose address the socket has.

A routing table usually sends everything to the best default route, whatever the source address: a packet of the second
uplink's would leave through the first one, with an address that its provider drops, and what is established on the only
one would change over as soon as a better one comes. Linux only; elsewhere, and where the system refuses, the system's
routes decide.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from contextlib import suppress

from warpgate.model.endpoint import Endpoint, Family, IPAddress
from warpgate.net.interfaces import AssignedAddress

# linux/in.h, linux/in6.h: the interface for what a UDP socket sends, without a say in what it receives (a socket that
# is bound to a device does not hear the machine's own other programs: that traffic comes in by the loopback).
_UNICAST_IF = {Family.V4: (socket.IPPROTO_IP, 50), Family.V6: (socket.IPPROTO_IPV6, 76)}


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


def send_by(sock: socket.socket, family: Family, device: str) -> None:
    """Let a UDP socket send through this interface alone; without effect where the system knows no such thing."""
    if sys.platform == "linux":
        level, option = _UNICAST_IF[family]
        with suppress(OSError):
            sock.setsockopt(level, option, socket.if_nametoindex(device).to_bytes(4, "big"))


def send_alike(sock: socket.socket, family: Family, other: socket.socket) -> None:
    """Let a UDP socket send as another one does."""
    if sys.platform == "linux":
        level, option = _UNICAST_IF[family]
        with suppress(OSError):
            sock.setsockopt(level, option, other.getsockopt(level, option, 4))


def keep_to(sock: socket.socket, device: str) -> bool:
    """Let a TCP socket use this interface alone, both ways (unprivileged since Linux 5.7); whether it does."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    except OSError:
        return False
    return True
