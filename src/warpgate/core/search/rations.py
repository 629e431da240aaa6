"""What peers may have of a node between them: first who asks, then how many do.

Keys cost nothing, and a place that is only claimed costs no more, so nothing is fair among strangers who take the
trouble to make up both. Hence those whom the node knows have a share that no stranger gets at.
"""

from __future__ import annotations

from collections.abc import Hashable

from warpgate.core.context import Context
from warpgate.model.address import NodeAddress
from warpgate.model.identity import node_id_of
from warpgate.model.recent import Recent
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.envelope import Opened
from warpgate.proto.relay_limits import user_of

CROWDS_REMEMBERED = 1024
# Of a bucket: what strangers leave to those whom we know, and what those who took much lately leave to all others,
# whether we know them or not: whoever has opened a pipe is known.
KEPT_FOR_KNOWN, KEPT_FOR_NEW = 1 / 2, 3 / 4
# Of the rate and the bucket, beyond which a key or a place has taken much. A friend's node may open a pipe for each
# connection that it forwards.
MUCH, MUCH_OF_KNOWN = 1 / 16, 1 / 4


class Ration:
    """A rate that all peers share."""

    def __init__(self, rate: float, burst: float, now: float, a_few: float = 1.0) -> None:
        """`a_few`: what nobody has for much, however small the bucket is."""
        self._rate, self._burst = rate, burst
        self._a_few = a_few
        self._all = TokenBucket(rate, burst, now)
        self._crowds: Recent[tuple[bool, Hashable], TokenBucket] = Recent(CROWDS_REMEMBERED)

    def take(self, now: float, known: bool, *crowds: Hashable) -> bool:
        """Whether one of these crowds (a key, a place) may have one; `known`: whether we know who asks.

        Whom we know and whom we do not are crowds of their own, so that nobody is pushed aside by what others claim.
        """
        buckets = [self._bucket((known, crowd), now) for crowd in crowds]
        kept = 0.0 if known else KEPT_FOR_KNOWN
        if any(bucket.wait(now) for bucket in buckets):
            kept = KEPT_FOR_NEW
        if not self._all.take(now, self._burst * kept):
            return False
        for bucket in buckets:
            bucket.take(now)
        return True

    def _bucket(self, crowd: tuple[bool, Hashable], now: float) -> TokenBucket:
        bucket = self._crowds.get(crowd)
        if bucket is None:
            part = MUCH_OF_KNOWN if crowd[0] else MUCH
            bucket = TokenBucket(self._rate * part, max(self._a_few, self._burst * part), now)
        self._crowds[crowd] = bucket
        return bucket


def offering(context: Context, opened: Opened) -> tuple[Hashable, ...]:
    """The crowds of who sends an offer: its key is proved. Its place is, too, where there was a pipe with it."""
    if context.knows(opened.sender):
        return (context.acquainted.place_of(node_id_of(opened.sender)) or opened.sender,)
    return opened.sender, claimed_place(opened.address)


def claimed_place(address: NodeAddress) -> Hashable:
    """Where an address says that its node is, as the internet sees it."""
    return next((user_of(at.reflexive or at.host) for at in address.attachments), None)
