"""What to try next when a gateway refuses a port mapping: its error says what it cannot do.

Codes of WANIPConnection:1 section 2.4.16 and :2 section 2.5.16, and what routers of the field mean by the general ones:
402 and 501 come from those that know no leases, and from those whose port is taken.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from warpgate.lazy_dataclass import dataclass


class Refusal(enum.IntEnum):
    INVALID_ARGS = 402
    ACTION_FAILED = 501
    NOT_AUTHORIZED = 606
    NO_SUCH_ENTRY = 714
    CONFLICT = 718
    SAME_PORT_VALUES_REQUIRED = 724
    ONLY_PERMANENT_LEASES = 725
    REMOTE_HOST_ONLY_WILDCARD = 726
    NO_PORT_MAPS_AVAILABLE = 728
    CONFLICT_WITH_OTHER_MECHANISM = 729


# Section 2.3.17 (:1) calls the empty string the wildcard; some want it written out.
WILDCARD, WILDCARD_IN_FULL = "", "0.0.0.0"
WELL_KNOWN_PORTS = 1024
# Two settings of lease at three ports, and the two that only concern their own error.
MOST_TRIES = 8

_VAGUE = (Refusal.INVALID_ARGS, Refusal.ACTION_FAILED)
_ABOUT_THE_PORT = (Refusal.CONFLICT, Refusal.NO_PORT_MAPS_AVAILABLE, Refusal.CONFLICT_WITH_OTHER_MECHANISM)


@dataclass(frozen=True, slots=True)
class Try:
    """The arguments of AddPortMapping that can be chosen. `lease` in seconds, 0: until deleted."""

    external_port: int
    lease: int
    remote_host: str = WILDCARD


class Tries:
    """`current` is what to ask for; `refused` makes it the next one, until there is none left.

    Error 727 (only all external ports at once) is final: such a mapping would lay all of this host open.
    """

    def __init__(self, wanted: Try, internal_port: int, *, any_port: bool = True) -> None:
        """`any_port` False: this port or none."""
        self.current = wanted
        self._internal_port = internal_port
        self._any_port = any_port
        self._lease = wanted.lease
        self._made = {wanted}

    def refused(self, code: int, other_port: int) -> bool:
        """Whether there is something else to try; `other_port` is any that was not tried before."""
        following = self._following(code, other_port)
        if following is None or following in self._made or len(self._made) == MOST_TRIES:
            return False
        if following.external_port != self.current.external_port and not self._any_port:
            return False
        self._made.add(following)
        self.current = following
        return True

    def _following(self, code: int, other_port: int) -> Try | None:
        current = self.current
        if code == Refusal.ONLY_PERMANENT_LEASES:
            self._lease = 0
            return replace(current, lease=0)
        if code in _VAGUE and current.lease:
            return replace(current, lease=0)
        privileged = code == Refusal.NOT_AUTHORIZED and current.external_port < WELL_KNOWN_PORTS
        if code in _VAGUE or code in _ABOUT_THE_PORT or privileged:
            return replace(current, external_port=other_port, lease=self._lease)
        if code == Refusal.SAME_PORT_VALUES_REQUIRED:
            return replace(current, external_port=self._internal_port)
        if code == Refusal.REMOTE_HOST_ONLY_WILDCARD:
            return replace(current, remote_host=WILDCARD_IN_FULL)
        return None
