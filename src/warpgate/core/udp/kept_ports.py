"""Sockets that were opened for one pipe, and are kept for a while when it is over: its peer may come again.

Behind a NAT that gives each destination another port such a socket was one of hundreds, and it is known now which port
of the NAT's leads to it. While the mapping lives, the peer gets through by its first check.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection

from warpgate.model.endpoint import Endpoint, IPAddress

# RFC 4787 REQ-5: a mapping lives for so long, seconds, since something went by it.
KEPT = 120.0
MOST_KEPT = 16


class KeptPorts:
    """The oldest is given up when there are too many."""

    def __init__(self, give_up: Callable[[Endpoint], None]) -> None:
        """`give_up` closes the socket, or keeps it again."""
        self._give_up = give_up
        self._timers: OrderedDict[Endpoint, asyncio.TimerHandle] = OrderedDict()

    def __contains__(self, base: Endpoint) -> bool:
        return base in self._timers

    def add(self, base: Endpoint) -> None:
        """Nobody needs it any more."""
        self.again(base)
        if len(self._timers) > MOST_KEPT:
            self._over(next(iter(self._timers)))

    def again(self, base: Endpoint) -> None:
        """It is in use after all: that may be over in a while."""
        if base not in self._timers:
            self._timers[base] = asyncio.get_running_loop().call_later(KEPT, self._over, base)

    def take(self, base: Endpoint) -> bool:
        """Whether it was kept: from now on it is the caller's."""
        timer = self._timers.pop(base, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def vanished(self, addresses: Collection[IPAddress]) -> None:
        """These addresses of ours are no more."""
        for base in [base for base in self._timers if base.ip in addresses]:
            self._over(base)

    def _over(self, base: Endpoint) -> None:
        self.take(base)
        self._give_up(base)
