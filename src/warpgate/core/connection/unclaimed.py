"""Nominated paths by which nothing has come yet: the initiator of a path uses it at once, or it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from warpgate.core.connection.paths import Path

UNCLAIMED = 64
UNCLAIMED_PER_PEER = 8
UNCLAIMED_PATIENCE = 30.0
# What a path between the endpoints of another one is for shows by its first datagram, if that is a new connection; of
# the same one datagrams come by either. The peer leaves the older path 3 s after it has chosen the newer.
SHARED = 2.0


class UnclaimedPaths:
    """Of a node. Whoever claims one owns it from then on."""

    def __init__(self) -> None:
        self._paths: dict[Path, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, path: Path, claim: Callable[[Path, list[bytes]], bool], share: Callable[[Path], bool]) -> None:
        """`claim` gets the datagrams that are of no path yet, and may take this one, `share` is asked once whether some
        connection has taken it, as it goes by the same endpoints. The oldest makes room for it.
        """
        own = [other for other in self._paths if other.origin.peer_key == path.origin.peer_key]
        if len(own) >= UNCLAIMED_PER_PEER:
            self._drop(own[0])
        elif len(self._paths) >= UNCLAIMED:
            self._drop(next(iter(self._paths)))
        self._paths[path] = asyncio.get_running_loop().call_later(SHARED, self._offer, path, share)
        path.deliver = claim
        path.on_lost = self._lost
        path.start()

    def take(self, path: Path) -> None:
        """It is claimed."""
        if (timer := self._paths.pop(path, None)) is not None:
            timer.cancel()

    def close(self) -> None:
        for path in tuple(self._paths):
            self._drop(path)

    def _offer(self, path: Path, share: Callable[[Path], bool]) -> None:
        self.take(path)
        if not share(path):
            left = UNCLAIMED_PATIENCE - SHARED
            self._paths[path] = asyncio.get_running_loop().call_later(left, self._drop, path)

    def _lost(self, path: Path, _reason: str) -> None:
        self.take(path)

    def _drop(self, path: Path) -> None:
        self.take(path)
        path.close()
