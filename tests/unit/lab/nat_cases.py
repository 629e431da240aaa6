"""Endpoints of RFC 4787 section 4.1, and the two questions the tests ask a router model."""

from __future__ import annotations

import random
from ipaddress import ip_address

from warpgate.lab.nat import (
    SYN,
    Flow,
    Forward,
    Nat,
    NatSpec,
    Protocol,
    Side,
)
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Assignment, Filtering, Mapping, PortAssignment

EXTERNAL = ip_address("203.0.113.1")
INSIDE = Endpoint.of("192.168.1.2", 5000)
OTHER_INSIDE = Endpoint.of("192.168.1.3", 5000)
# Y1:y1, Y1:y2, Y2:y1, Y2:y2 of RFC 4787 section 4.1
Y1A, Y1B = Endpoint.of("198.51.100.1", 3478), Endpoint.of("198.51.100.1", 3479)
Y2A, Y2B = Endpoint.of("198.51.100.2", 3478), Endpoint.of("198.51.100.2", 3479)

ASSIGNMENTS = (
    PortAssignment(Assignment.PRESERVING),
    PortAssignment(Assignment.SEQUENTIAL, step=1),
    PortAssignment(Assignment.SEQUENTIAL, step=-3),
    PortAssignment(Assignment.RANDOM),
    PortAssignment(Assignment.BLOCK, low=30000, high=30999),
)
TRANSLATING = (Mapping.EIM, Mapping.ADM, Mapping.APDM)
FILTERINGS = (Filtering.EIF, Filtering.ADF, Filtering.APDF)
PROTOCOLS = (Protocol.UDP, Protocol.TCP)


def make(spec: NatSpec, seed: int = 1) -> Nat:
    addresses = [EXTERNAL + i for i in range(spec.pool_size)] if spec.translates else []
    return Nat(spec, addresses, random.Random(seed))


def opening(protocol: Protocol) -> int:
    return SYN if protocol is Protocol.TCP else 0


def send(
    nat: Nat, to: Endpoint, now: float = 0.0, source: Endpoint = INSIDE, protocol: Protocol = Protocol.UDP
) -> Endpoint:
    """The external endpoint that `to` sees."""
    verdict = nat.outbound(Flow(protocol, source, to), now, opening(protocol))
    assert isinstance(verdict, Forward), verdict
    assert verdict.side is Side.OUTSIDE
    assert verdict.flow.destination == to
    return verdict.flow.source


def hears(nat: Nat, source: Endpoint, to: Endpoint, now: float = 0.0, protocol: Protocol = Protocol.UDP) -> bool:
    """Whether a packet from outside reaches the inside endpoint."""
    verdict = nat.inbound(Flow(protocol, source, to), now, opening(protocol))
    if isinstance(verdict, Forward):
        assert verdict.side is Side.INSIDE
        assert verdict.flow.source == source
        return True
    return False
