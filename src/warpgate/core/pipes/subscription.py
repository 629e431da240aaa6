"""What `recv` waits for."""

from __future__ import annotations

import re
from functools import cached_property

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint


@dataclass(frozen=True)
class Subscription:
    """Filters for `Pipe.recv`; the default takes everything.

    `content`: a regular expression over bytes. On a datagram pipe, `recv` takes the oldest datagram in which it is
    found and leaves the others queued; on a stream, it returns everything up to the end of the first match.
    `sender`: only what came from this endpoint (a pipe has one peer, so another endpoint never matches).
    """

    content: bytes | None = None
    sender: Endpoint | None = None

    @cached_property
    def pattern(self) -> re.Pattern[bytes] | None:
        """ConfigError when `content` is not a regular expression."""
        if self.content is None:
            return None
        if not isinstance(self.content, bytes):
            raise ConfigError(f"a filter is a regular expression over bytes: b'...', not {self.content!r}")
        try:
            return re.compile(self.content, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"{self.content!r} is not a regular expression: {error}") from None

    @property
    def takes_all(self) -> bool:
        return self.content is None and self.sender is None


SUB_ALL = Subscription()


def checked(wanted: Subscription | int) -> Subscription | int:
    """What `recv` was asked for; ConfigError when it is neither a filter nor a count above 0."""
    if isinstance(wanted, Subscription) or (isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0):
        return wanted
    raise ConfigError(f"recv takes a number of bytes above 0, SUB_ALL or a Subscription, not {wanted!r}")
