"""What is known about a NAT, in the terms of RFC 4787 (UDP) and RFC 5382 (TCP).

`UNKNOWN` is a value like the others: decisions treat it as such and never guess past it.
"""

from __future__ import annotations

import enum
from dataclasses import field

from warpgate.lazy_dataclass import dataclass


class Mapping(enum.Enum):
    """RFC 4787 section 4.1: how external endpoints are reused for different destinations."""

    UNKNOWN = "unknown"
    NONE = "none"  # no translation: the host address is what others see
    EIM = "endpoint-independent"
    ADM = "address-dependent"
    APDM = "address-and-port-dependent"

    @property
    def endpoint_dependent(self) -> bool:
        """EDM, what people call "symmetric": each destination sees another external port."""
        return self in (Mapping.ADM, Mapping.APDM)

    @property
    def predictable(self) -> bool:
        """The reflexive endpoint a STUN server saw is the one any peer will see."""
        return self in (Mapping.NONE, Mapping.EIM)


class Filtering(enum.Enum):
    """RFC 4787 section 5: which outside endpoints may send in through a mapping."""

    UNKNOWN = "unknown"
    EIF = "endpoint-independent"
    ADF = "address-dependent"
    APDF = "address-and-port-dependent"


class Assignment(enum.Enum):
    """RFC 4787 section 4.2: how the external port of a new mapping is chosen."""

    UNKNOWN = "unknown"
    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    BLOCK = "block"  # some of the ports: a carrier's block, or a port set whose numbers have bits in common
    RANDOM = "random"
    # A count for each destination address, as in RFC 6056 section 3.3.3: a peer's begins anywhere.
    PER_ADDRESS = "sequential for each address"


@dataclass(frozen=True, slots=True)
class PortAssignment:
    """`step` belongs to SEQUENTIAL and PER_ADDRESS (ports, may be negative); `low`..`high` (inclusive) to BLOCK.

    `fixed` (BLOCK) has the bits that are the same in all ports as in `low`: 0 when those are just the bits that `low`
    and `high` begin with. A port set of RFC 7597 has them in the middle. `parity`: a port is even or odd as the inside
    one is (RFC 4787 section 4.2.2); with BLOCK, RANDOM and UNKNOWN.
    """

    kind: Assignment = Assignment.UNKNOWN
    step: int = 0
    low: int = 0
    high: int = 0
    fixed: int = 0
    parity: bool = False


@dataclass(frozen=True, slots=True)
class NatProfile:
    """One NAT's fingerprint and how many samples each part rests on (0 when unknown)."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    assignment: PortAssignment = field(default_factory=PortAssignment)
    udp_blocked: bool | None = None
    mapping_samples: int = 0
    filtering_samples: int = 0
    assignment_samples: int = 0
    # RFC 4787 section 4.1, "arbitrary" address pooling: one host was seen under several external addresses.
    pooled: bool = False

    @property
    def kind(self) -> NatProfile:
        """This without what it rests on: sample counts, and which ports a block has."""
        assignment = PortAssignment(self.assignment.kind, self.assignment.step)
        return NatProfile(self.mapping, self.filtering, assignment, self.udp_blocked, pooled=self.pooled)

    @property
    def steady_kind(self) -> NatProfile:
        """The mapping, and whether UDP passes: all that counts of a NAT between two that keep their mappings."""
        return NatProfile(self.mapping, udp_blocked=self.udp_blocked)

    @property
    def accepts_anyone(self) -> bool:
        """True when a stranger's first packet is known to arrive."""
        return self.filtering is Filtering.EIF
