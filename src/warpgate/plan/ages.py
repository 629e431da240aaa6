"""NATs that forget a mapping at a fixed age, whatever is sent through it (iroh#4424): learnt of paths that died.

Two deaths at a like age teach it; from then on a path is replaced before it is so old, by one from other sockets, whose
mappings are new. Deaths count where the next path leads between the same two hosts: who has moved, or whose network was
down, has other ends or says nothing of mappings. Pure: times are arguments, in seconds of one clock.
"""

from __future__ import annotations

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress

# RFC 7675 section 5.1: an idle path is asked every 15 s, so that is how well its death is known. A renewal costs each
# side two mappings: more often than this would cost more than a path that dies now and then.
YOUNGEST = 20.0
OLDEST = 3600.0
ALIKE = 16.0
# Of the age at which paths die, the lower where two differ: when they are replaced.
SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Life:
    """Of a path: the addresses at its ends, whether a NAT's mapping is all that it rests on (not a relay), since when
    there is it, and when something came by it last.
    """

    ends: tuple[IPAddress, IPAddress]
    direct: bool
    opened: float
    heard: float


class Ages:
    """What one connection has learnt."""

    __slots__ = ("_ends", "_last", "_lifetime")

    def __init__(self) -> None:
        self._ends: tuple[IPAddress, IPAddress] | None = None
        self._last: float | None = None
        self._lifetime: float | None = None

    def died(self, path: Life, successor: Life) -> None:
        """A path fell silent, and another one has taken its place."""
        if not (path.direct and successor.direct) or path.ends != successor.ends:
            return
        if path.ends != self._ends:  # other networks
            self._ends, self._last, self._lifetime = path.ends, None, None
        age = path.heard - path.opened
        if not YOUNGEST <= age <= OLDEST:
            return
        if self._last is not None and abs(age - self._last) <= ALIKE:
            self._lifetime = min(age, self._last)
        self._last = age

    def renew_at(self, path: Life) -> float | None:
        """When this path should be replaced; None: it may live for ever."""
        if self._lifetime is None or not path.direct or path.ends != self._ends:
            return None
        return path.opened + SHARE * self._lifetime
