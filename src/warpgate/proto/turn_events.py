"""What a `turn.TurnClient` tells its owner."""

from __future__ import annotations

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress


@dataclass(frozen=True, slots=True)
class Allocated:
    """`relayed`: one endpoint for each family got. `mapped`: how the server sees us. `lifetime` in seconds."""

    relayed: tuple[Endpoint, ...]
    mapped: Endpoint | None
    lifetime: float


@dataclass(frozen=True, slots=True)
class AllocationFailed:
    """`reason` says what the server did. `alternate`: ask there instead; TLS then expects a certificate of `domain`."""

    reason: str
    code: int = 0
    alternate: Endpoint | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class AllocationEnded:
    """Nothing is relayed any more. `lost`: not by our wish."""

    reason: str
    lost: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A datagram of the peer's."""

    peer: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The server will not relay to this address, or (with a whole endpoint) not connect to it."""

    ip: IPAddress
    reason: str


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A TCP connection with the peer waits at the server (RFC 6062 section 4.2 and 4.3). `asked`: by `connect`."""

    peer: Endpoint
    connection_id: int
    asked: bool


@dataclass(frozen=True, slots=True)
class ConnectRefused:
    """The server could not connect to the peer."""

    peer: Endpoint
    reason: str


TurnEvent = Allocated | AllocationFailed | AllocationEnded | DataReceived | PeerRefused | PeerConnected | ConnectRefused
