"""While no path of a connection works: what the user is told of it, and its end when nobody has patience any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from warpgate.core.context import Context
from warpgate.events import PathsMissing, PathsWork


class Outage:
    """Of one connection. Only what was there can be missed: of a handshake that is late, nothing is told."""

    def __init__(self, context: Context, connection: str, peer: str) -> None:
        self._context, self._of, self._peer = context, (connection, peer), peer
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    def begin(self, worked: bool, give_up: Callable[[str], None]) -> None:
        """Whether it `worked` before; `give_up` is called with the reason after `outage_patience`.

        Called again while it lasts, it does nothing.
        """
        if self._timer is not None:
            return
        if worked:
            self._told = True
            self._context.emit(PathsMissing(*self._of))
        patience = self._context.config.timing.outage_patience
        gone = f"node {self._peer} could not be reached for {patience:g} s"
        self._timer = asyncio.get_running_loop().call_later(patience, give_up, gone)

    def end(self, plugin: str, gap: float) -> None:
        """A path works, over `plugin`; the peer had not answered for `gap` seconds."""
        self.close()
        if self._told:
            self._told = False
            self._context.emit(PathsWork(*self._of, plugin, gap))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
