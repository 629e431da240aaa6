"""What a search for a path is for."""

from __future__ import annotations

from warpgate.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Errand:
    """For which connection a path is looked for, where there is one already; or the first packets of a new one, which
    travel with the first offers and checks. `invited`: our user asked for this peer.
    """

    connection: bytes = b""
    flight: tuple[bytes, ...] = ()
    invited: bool = True


A_PIPE = Errand()  # no path is looked for
