"""Which interfaces matter: the ones that lead out first. And other ways out than the one the system would choose, which
may lead nowhere without anybody having noticed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from warpgate.model.alternating import alternating
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Interface, Network

# Whatever has no route of its own leaves by the default route; nothing is sent there.
_ELSEWHERE = (Endpoint.of("192.0.2.1", 9), Endpoint.of("2001:db8::1", 9))
# What programs make within a machine: bridges of containers and virtual machines with their ends, and tunnels.
_MADE_UP = re.compile(
    r"docker|podman|cni|flannel|cali|cilium|kube|weave|lxc|lxd|incus|virbr|vmnet|vmware|vbox|virtualbox|veth|vnet|"
    r"tap|tun|utun|wg|tailscale|zt|ham|br-|bridge\d|dummy|awdl|llw",
    re.IGNORECASE,
)
# More addresses of one interface in one family than this give way to other interfaces.
_ALIKE = 2
# Of all pairs of a remote address and an uplink that the system would not choose: bridges and the like can be many.
OTHER_WAYS = 4


def by_use(interfaces: Iterable[Interface], network: Network) -> tuple[Interface, ...]:
    """Those with a default route first, then others, bridges and tunnels without one last; as enumerated besides.

    Limits cut from the end: a developer's machine has forty interfaces, and one of them leads out.
    """
    out = [gateway.interface for gateway in network.gateways()]
    chosen = {network.route_source(remote) for remote in _ELSEWHERE}
    met: Counter[tuple[str, int]] = Counter()
    ranks: dict[Interface, int] = {}
    for interface in (found := tuple(interfaces)):
        rank = 0 if interface.name in out or interface.ip in chosen else 1
        if rank and _MADE_UP.match(interface.name):
            rank = 2
        earlier = met[interface.name, interface.ip.version]
        met[interface.name, interface.ip.version] += 1
        ranks[interface] = 2 * rank + earlier // _ALIKE
    return tuple(sorted(found, key=lambda interface: ranks[interface]))


def other_uplinks(network: Network, remote: Endpoint) -> tuple[IPAddress, ...]:
    """To connect from: an address of each interface that has the family, but for the one that the system would use.

    () where that has no route either, and for servers of this machine.
    """
    usual = network.route_source(remote)
    if usual is None or remote.ip.is_loopback:
        return ()
    found: dict[str, IPAddress] = {}
    chosen = ""
    for interface in by_use(network.interfaces(), network):
        if interface.ip == usual:
            chosen = interface.name
        if interface.ip.version == remote.ip.version and not interface.ip.is_loopback:
            found.setdefault(interface.name, interface.ip)
    return tuple(ip for name, ip in found.items() if name != chosen)


def ways_to(endpoints: Sequence[Endpoint], network: Network) -> list[tuple[Endpoint, Endpoint | None]]:
    """(remote, local) in the order of trying: as the system would, then from other uplinks, each remote in turn."""
    others = [[(endpoint, Endpoint(ip, 0)) for ip in other_uplinks(network, endpoint)] for endpoint in endpoints]
    return [*((endpoint, None) for endpoint in endpoints), *alternating(others)[:OTHER_WAYS]]


def leads_out(network: Network) -> bool:
    """Whether there is a default route, of either family."""
    return any(network.route_source(remote) is not None for remote in _ELSEWHERE)
