"""Flows (5-tuples) and what a router decides about one packet of a flow. Pure values."""

from __future__ import annotations

import enum
from dataclasses import field
from typing import Final

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint

# TCP control bits (RFC 9293 section 3.1). Plain integers: enum.IntFlag costs a microsecond per `&`.
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10


class Protocol(enum.IntEnum):
    """What a router translates; the value is the IPv4 protocol number (ICMP stands for ICMPv6 too)."""

    ICMP = 1  # echo only: the identifier is the inside port, the other side's port is 0 (RFC 5508 section 3)
    TCP = 6
    UDP = 17


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a 5-tuple. The hash is computed once: flows are looked up per packet."""

    protocol: Protocol
    source: Endpoint
    destination: Endpoint
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((int(self.protocol), self.source, self.destination)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"{self.protocol.name} {self.source} -> {self.destination}"

    @property
    def reverse(self) -> Flow:
        """The flow of the answers."""
        return Flow(self.protocol, self.destination, self.source)


class Side(enum.Enum):
    """Where a forwarded packet leaves the router."""

    INSIDE = "inside"
    OUTSIDE = "outside"


class Answer(enum.Enum):
    """What a router sends back for a packet that it does not forward."""

    TCP_RESET = "tcp reset"
    PORT_UNREACHABLE = "port unreachable"  # ICMP 3/3, ICMPv6 1/4


@dataclass(frozen=True, slots=True)
class Forward:
    """Pass the packet on, translated to `flow`, on `side`."""

    flow: Flow
    side: Side


@dataclass(frozen=True, slots=True)
class Drop:
    """Silence. The reason is a short constant text (it is a counter's name)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Not let through, and the sender is told."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Local:
    """The router took the packet for itself (see `Unsolicited.ACCEPT`); its own stack answers so."""

    answer: Answer


Verdict = Forward | Drop | Reject | Local
