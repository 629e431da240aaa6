"""Other ways out than the one the system would choose, which may lead nowhere without anybody having noticed."""

from __future__ import annotations

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Network


def other_uplinks(network: Network, remote: Endpoint) -> tuple[IPAddress, ...]:
    """To connect from: an address of each interface that has the family, but for the one that the system would use.

    () where that has no route either, and for servers of this machine.
    """
    usual = network.route_source(remote)
    if usual is None or remote.ip.is_loopback:
        return ()
    found: dict[str, IPAddress] = {}
    chosen = ""
    for interface in network.interfaces():
        if interface.ip == usual:
            chosen = interface.name
        if interface.ip.version == remote.ip.version and not interface.ip.is_loopback:
            found.setdefault(interface.name, interface.ip)
    return tuple(ip for name, ip in found.items() if name != chosen)
