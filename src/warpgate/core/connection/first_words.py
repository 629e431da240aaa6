"""What the two ends of a connection say before it has a path: with the first offer and the first checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warpgate.proto.signals import FLIGHT_PACKETS

# Sends datagrams along with a search's first checks, in place of what was to be sent before.
Greet = Callable[[tuple[bytes, ...]], None]


class FirstWords:
    """`flight`: what this end has said; at the server `heard` is what the client did, and `sessions` are those in which
    it looked for the first path.
    """

    def __init__(self) -> None:
        self.flight: tuple[bytes, ...] = ()
        self.heard: list[bytes] = []
        self.sessions: set[bytes] = set()
        self._greets: list[Greet] = []  # of the searches for the first path

    def hear(self, first: Sequence[bytes]) -> list[bytes]:
        """Those of a client's first packets that are new: any search may bring all of them, or a part."""
        news = [data for data in first if data not in self.heard][: FLIGHT_PACKETS - len(self.heard)]
        self.heard += news
        return news

    def greet_by(self, greet: Greet) -> None:
        """What is said from now on goes with this search's checks, too, and what was said before does now."""
        if greet not in self._greets:
            self._greets.append(greet)
            if self.flight:
                greet(self.flight)

    @property
    def leaves(self) -> bool:
        """Whether there is a search that takes along what is said."""
        return bool(self._greets)

    def say(self, datagrams: Sequence[bytes]) -> None:
        self.flight += tuple(datagrams)
        for greet in self._greets:
            greet(self.flight)

    def over(self) -> None:
        """There is a path."""
        self._greets.clear()
