"""Links: open paths to a peer that has proved its key, not yet chosen."""

from __future__ import annotations

from typing import Protocol

from warpgate.model.endpoint import Endpoint, Transport


class Link(Protocol):
    """What a plugin returns. The core knows its own kinds; `abort` is synchronous so that a race can drop losers."""

    @property
    def transport(self) -> Transport: ...

    @property
    def local(self) -> Endpoint: ...

    @property
    def remote(self) -> Endpoint: ...

    @property
    def relayed(self) -> bool: ...

    def abort(self) -> None: ...
