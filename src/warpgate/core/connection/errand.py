"""What a search for a path is for, and who runs it."""

from __future__ import annotations

from typing import Protocol

from warpgate.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Errand:
    """For which connection a path is looked for, where there is one already; or the first packets of a new one, which
    travel with the first offers and checks. `invited`: our user asked for this peer. `renews`: there is a path that
    will be dead soon of the age of its mappings, so this one must have new ones, from other sockets.
    """

    connection: bytes = b""
    flight: tuple[bytes, ...] = ()
    invited: bool = True
    renews: bool = False


A_PIPE = Errand()  # no path is looked for


class Seeker(Protocol):
    """Who looks for paths."""

    def lost(self) -> None:
        """There is none that works, or none known to work."""

    def settled(self) -> None:
        """The chosen path answers."""

    def late(self) -> None:
        """An answer is: it is not known yet whether there is a reason."""

    def close(self) -> None: ...
