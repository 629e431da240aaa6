"""What routers map for this node, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from warpgate.cli.records import Finding
from warpgate.model.endpoint import Transport
from warpgate.platform import INTERFACES

if TYPE_CHECKING:
    from warpgate.config import Config
    from warpgate.core.assembly import NodeStatus
    from warpgate.services.portmap_board import Mapped

SECTION = "port mapping"


def port_map_findings(status: NodeStatus, config: Config) -> Iterator[Finding]:
    """One line a mapping, and why there is none where there could be one."""
    state = status.port_map
    if not config.port_map:
        yield Finding(SECTION, "missing", "switched off (--no-port-map, port_map)")
        return
    if not state.gateways:
        unseen = INTERFACES.blind_spots()
        for clause in unseen or ("no router to ask: this machine has no default gateway",):
            yield Finding(SECTION, "warning" if unseen else "info", clause)
        return
    doubled = {double.external for double in state.double_nats}
    for mapped in state.mappings:
        if str(mapped.external.ip) not in doubled:
            yield Finding(SECTION, "ok", _mapping(mapped))
    for double in state.double_nats:
        seen = double.reflexive or "another address"
        yield Finding(
            SECTION,
            "warning",
            f"double NAT: the router maps ports at {double.external}, but the world sees {seen}. "
            "Another NAT stands before it, so mapped ports lead nowhere and are not announced",
        )
    if state.double_nats and not state.mappings:
        return  # that is why; switching anything on at the router would not help
    mapped_by = {mapped.gateway for mapped in state.mappings}
    for gateway in state.gateways:
        if gateway not in mapped_by:
            yield Finding(
                SECTION,
                "missing",
                f"{gateway} maps no ports for this node. Where it is your router, switch on UPnP or NAT-PMP/PCP "
                "there: then anybody can connect to this node directly",
            )
            for failure in status.failures:
                if failure.service == SECTION and failure.server.startswith(f"{gateway} "):
                    yield Finding(SECTION, "info", f"{failure.server}: {failure.reason}")


def ports_settled(status: NodeStatus) -> bool:
    """Whether every gateway has mapped both transports, or UPnP, which is asked last, has failed there."""
    return all(
        sum(mapped.gateway == gateway for mapped in status.port_map.mappings) >= len(Transport)
        or any(failure.server == f"{gateway} (UPnP)" for failure in status.failures)
        for gateway in status.port_map.gateways
        if ":" not in gateway  # IPv6 gateways are asked at the same time
    )


def _mapping(mapped: Mapped) -> str:
    transport = mapped.transport.value.upper()
    lease = f"for {mapped.lifetime:.0f} s at a time" if mapped.lifetime else "until it is deleted"
    if mapped.external == mapped.internal:
        return f"{mapped.gateway} lets {transport} in to {mapped.internal} ({mapped.protocol}, {lease})"
    return (
        f"{mapped.gateway} passes {transport} {mapped.external} on to {mapped.internal} "
        f"({mapped.protocol}, {lease}): peers connect there directly"
    )
