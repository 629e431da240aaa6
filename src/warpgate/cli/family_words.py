"""IPv4 and IPv6 as this machine has them, and what that means for connecting, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from warpgate.cli.records import Finding
from warpgate.model.translation import SERVICE_CONTINUITY

if TYPE_CHECKING:
    from warpgate.core.assembly import NodeStatus
    from warpgate.net.network import Interface

SECTION = "families"
BOTH = "IPv4 and IPv6: peers of either family can be reached directly"
ONLY_IPV4 = "IPv4 alone: peers with IPv6 alone are reached over a relay that has both"
ONLY_IPV6 = "IPv6 alone, and this network has no NAT64: peers with IPv4 alone are reached over a relay that has both"
TRANSLATED = "IPv6 alone, and IPv4 through this network's NAT64 (prefix {}): peers of either family can be reached"
BESIDE = "an interface without IPv4 has it through its network's NAT64 (prefix {})"


def translated(status: NodeStatus, interface: Interface) -> bool:
    """Whether this is not an address of the machine's, but what stands for it behind the network's NAT64."""
    ip = interface.ip
    return bool(status.nat64) and ip.version == 4 and ip in SERVICE_CONTINUITY


def family_findings(status: NodeStatus) -> Iterator[Finding]:
    """Loopback does not count: with nothing else there is nothing to say."""
    outside = [interface for interface in status.interfaces if not interface.ip.is_loopback]
    behind = any(translated(status, each) for each in outside)
    own = {each.ip.version for each in outside if not translated(status, each)}
    if own == {4}:
        yield Finding(SECTION, "info", ONLY_IPV4)
    elif own == {6}:
        yield Finding(SECTION, *(("ok", TRANSLATED.format(status.nat64)) if behind else ("info", ONLY_IPV6)))
    elif own:
        yield Finding(SECTION, "ok", BOTH)
        if behind:
            yield Finding(SECTION, "ok", BESIDE.format(status.nat64))
    uplinks = list(dict.fromkeys(each.name for each in outside))
    if len(uplinks) > 1:
        yield Finding(SECTION, "ok", f"peers are offered {len(uplinks)} interfaces: {', '.join(uplinks)}")
