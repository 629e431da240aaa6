"""What a port mapping client is asked for, and what it tells: see `proto/portmap.py`."""

from __future__ import annotations

import enum

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Transport


class Dialect(enum.Enum):
    PCP = "PCP"
    NAT_PMP = "NAT-PMP"


@dataclass(frozen=True, slots=True)
class Wish:
    """A port of ours that the outside should reach. `nonce` (12 random bytes) names the mapping in PCP: the same
    one renews and deletes it. `external_port` is only suggested; 0 leaves it to the gateway."""

    transport: Transport
    internal_port: int
    nonce: bytes
    external_port: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """The mapping exists, or exists longer; `lifetime` in seconds."""

    wish: Wish
    external: Endpoint
    lifetime: float
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class Refused:
    wish: Wish
    reason: str
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease ran out, and nobody answered the renewals."""

    wish: Wish


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing has ever answered at this address; said once."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The gateway has lost its mappings; they are being asked for again."""


@dataclass(frozen=True, slots=True)
class AllReleased:
    """Every deletion was acknowledged or given up."""


PortMapEvent = Granted | Refused | Lost | Silent | Restarted | AllReleased
