"""What a relay of ours keeps for its clients: allocations, TCP calls, and what the shell is asked to do for them."""

from __future__ import annotations

from dataclasses import field
from typing import NamedTuple

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, SockAddr, Transport
from warpgate.proto.relay_admission import Login
from warpgate.proto.relay_limits import Meter
from warpgate.proto.stun import StunMessage


class Path(NamedTuple):
    """One client's way to us (RFC 8656 section 3.2: the 5-tuple): `place` numbers our sockets, `stream` our
    connections (0: datagrams).
    """

    place: int
    host: str
    port: int
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is answered later, and by whom it was signed."""

    message: StunMessage
    login: Login


@dataclass(slots=True)
class Usage:
    """What one user has now."""

    meter: Meter
    allocations: int = 0


@dataclass(eq=False, slots=True)
class Allocation:
    """Instants on the machine's clock. `relayed`: as the client is told; empty until the shell has opened the ports.

    Permissions are kept by the peer's host, channels both ways, as they are looked up with each datagram.
    """

    path: Path
    user: str
    usage: Usage
    transport: Transport
    families: tuple[Family, ...]
    lifetime: int
    expires: float
    asked: Asked
    answer: bytes = b""  # to the Allocate, for its repetitions (RFC 8656 section 7.2)
    relayed: dict[Family, Endpoint] = field(default_factory=dict)
    permissions: dict[str, float] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    by_peer: dict[tuple[str, int], Channel] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Channel:
    number: int
    peer: tuple[str, int]
    expires: float


@dataclass(eq=False, slots=True)
class Call:
    """A TCP connection with a peer (RFC 6062). `asked`: the Connect that waits for it; `path`: joined with that."""

    number: int
    allocation: Allocation
    peer: Endpoint
    deadline: float
    asked: Asked | None = None
    path: Path | None = None


class ToClient(NamedTuple):
    path: Path
    data: bytes


class ToPeer(NamedTuple):
    allocation: Allocation
    data: bytes
    peer: SockAddr


@dataclass(frozen=True, slots=True)
class OpenPorts:
    """Ports for `allocation`, one a family: `RelayServer.opened` is to follow at once."""

    allocation: Allocation


@dataclass(frozen=True, slots=True)
class ClosePorts:
    """Of this family, or all of the allocation's with its TCP connections."""

    allocation: Allocation
    family: Family | None = None


@dataclass(frozen=True, slots=True)
class DialPeer:
    """From the relayed port: `RelayServer.dialled` is to follow."""

    call: Call


@dataclass(frozen=True, slots=True)
class JoinStreams:
    """What comes on `path` from here on goes to the call's peer, and back."""

    path: Path
    call: Call


@dataclass(frozen=True, slots=True)
class DropCall:
    """Nobody wants that connection."""

    call: Call


RelayOutput = ToClient | ToPeer
RelayEvent = OpenPorts | ClosePorts | DialPeer | JoinStreams | DropCall


@dataclass(slots=True)
class RelayCounters:
    """Since the start; `dropped_*` are datagrams, `refused` requests answered with an error other than a challenge."""

    allocated: int = 0
    challenged: int = 0
    refused: int = 0
    limited: int = 0
    ignored: int = 0
    bytes_to_peers: int = 0
    bytes_to_clients: int = 0
    dropped_rate: int = 0
    dropped_permission: int = 0
