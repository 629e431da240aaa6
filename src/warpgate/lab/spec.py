"""What a router does, as data: the behaviours of RFC 4787 (UDP), RFC 5382 (TCP), and what routers really do."""

from __future__ import annotations

import enum
from dataclasses import field

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.nat import Assignment, Filtering, Mapping, PortAssignment


class Unsolicited(enum.Enum):
    """What happens to a packet from outside that belongs to no flow and passes no filter."""

    DROP = "drop"  # RFC 5382 REQ-4 and RFC 4787 ask for silence
    REJECT = "reject"  # TCP RST, ICMP port unreachable: what iptables' REJECT does
    # The router's own stack takes it, as plain Linux masquerade does when INPUT is open: the connection
    # tracking entry claims the tuple, so that a flow from inside that would be translated to it leaves
    # from another port ("first-packet poisoning"). The closed port answers with ICMP port unreachable or
    # RST. Linux forgets a TCP entry when that RST is its only answer; other stacks keep it in CLOSE. We
    # model the latter, the harder one: as long as the same pair of ports is tried again within 10 s, it
    # never works.
    ACCEPT = "accept"


class Pooling(enum.Enum):
    """RFC 4787 section 4.1: which of several external addresses a new mapping gets; and what routers with more than one
    uplink do.
    """

    PAIRED = "paired"
    ARBITRARY = "arbitrary"
    BY_DESTINATION = "by destination"  # several uplinks, each with an address, a NAT and a part of the destinations


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds without traffic after which a flow is forgotten; a mapping lives as long as one of its flows.

    The defaults are Linux's (nf_conntrack_proto_udp.c, nf_conntrack_proto_tcp.c).
    """

    udp_unreplied: float = 30.0
    udp_replied: float = 120.0  # applies from 2 s after the flow's first packet on, as in Linux
    icmp: float = 30.0
    tcp_opening: float = 120.0
    tcp_established: float = 432_000.0
    tcp_closing: float = 120.0
    tcp_closed: float = 10.0
    absolute: float | None = None  # age at which a mapping goes, whatever the traffic (iroh#4424 met such routers)


@dataclass(frozen=True, slots=True)
class NatSpec:
    """One router model.

    `mapping` NONE is a stateful firewall without translation. `assignment` of kind BLOCK with high 0 gives
    every inside host a random block of `block_size` ports (RFC 7422), or with `fixed` bits a random port set: those
    bits are its number (RFC 7597 section 5.1). `others`: when ports are counted, up to so many mappings of hosts that
    are not in the lab come before each new one. `overloading`: one external port may serve several flows with
    different remote endpoints at once (Linux does so; RFC 4787 REQ-3 forbids it with EIM).
    `refresh_inbound`: traffic from outside keeps a flow alive (RFC 4787 REQ-6 lets a NAT choose).
    `table_limit` counts flows (what a router's memory is made of), `host_limit` the mappings of one inside
    host (RFC 6888 REQ-4), `new_flows_per_second` is what its processor or its carrier allows, a second's worth at once.
    `tcp_ports`: destinations that TCP may be opened to; None means all. Raises ConfigError for what cannot
    be.
    """

    mapping: Mapping = Mapping.EIM
    filtering: Filtering = Filtering.APDF
    assignment: PortAssignment = field(default_factory=lambda: PortAssignment(Assignment.PRESERVING))
    unsolicited: Unsolicited = Unsolicited.DROP
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    overloading: bool = False
    refresh_inbound: bool = True
    hairpin: bool = False
    udp_blocked: bool = False
    tcp_ports: frozenset[int] | None = None
    table_limit: int | None = None
    host_limit: int | None = None
    new_flows_per_second: float | None = None
    block_size: int = 1024
    others: int = 0
    pooling: Pooling = Pooling.PAIRED
    pool_size: int = 1

    def __post_init__(self) -> None:
        if Mapping.UNKNOWN is self.mapping or Filtering.UNKNOWN is self.filtering:
            raise ConfigError("a router model needs a known mapping and filtering behaviour")
        if self.assignment.kind is Assignment.UNKNOWN:
            raise ConfigError("a router model needs a known port assignment")
        counted = self.assignment.kind in (Assignment.SEQUENTIAL, Assignment.PER_ADDRESS)
        if counted and self.assignment.step == 0:
            raise ConfigError("sequential port assignment needs a step other than 0")
        if self.assignment.low > self.assignment.high:
            raise ConfigError(f"port block {self.assignment.low}..{self.assignment.high} is empty")
        if self.mapping is Mapping.NONE and self.unsolicited is Unsolicited.ACCEPT:
            raise ConfigError("a firewall without translation has no address of its own to accept packets on")
        if self.mapping is Mapping.EIM and self.overloading:
            raise ConfigError("endpoint-independent mapping excludes port overloading (RFC 4787 REQ-3)")
        if self.pool_size < 1 or not 1 <= self.block_size <= 64512:
            raise ConfigError("pool_size must be at least 1 and block_size in 1..64512")

    @property
    def translates(self) -> bool:
        return self.mapping is not Mapping.NONE
