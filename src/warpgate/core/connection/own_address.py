"""What the peer of a connection knows of where we are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from warpgate.core.connection.quic_channels import NEWS_AT_ONCE, NEWS_RATE
from warpgate.core.context import Context
from warpgate.model.address import NodeAddress
from warpgate.proto.bucket import TokenBucket


class OwnAddress:
    """A peer takes so much news and not more: what changes often is said later, as it is then."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._said: NodeAddress | None = None
        self._bucket = TokenBucket(NEWS_RATE / 2, NEWS_AT_ONCE / 4, context.now())
        self._timer: asyncio.TimerHandle | None = None

    def news(self, later: Callable[[], None]) -> bytes | None:
        """Our address, if the peer is to be told now; `later` is called when it was told too much already."""
        address = self._context.address
        if address is self._said or address == self._said:  # asked at each step of a connection
            return None
        now = self._context.now()
        if self._bucket.take(now):
            self._said = address
            return address.encode()
        if self._timer is None:
            self._timer = self._context.loop.call_later(self._bucket.wait(now), self._ripe, later)
        return None

    def _ripe(self, later: Callable[[], None]) -> None:
        self._timer = None
        later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
