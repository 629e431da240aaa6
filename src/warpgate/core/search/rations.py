"""What peers may have of a node between them: first who asks, then how many do.

Keys cost nothing, and a place that is only claimed costs no more, so nothing is fair among strangers who take the
trouble to make up both. Hence those whom the node knows have a share that no stranger gets at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from warpgate.model.address import NodeAddress
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.relay_limits import user_of

CROWDS_REMEMBERED = 1024
# Of a bucket: what strangers leave to those whom we know, and what those who took much lately leave to newcomers.
KEPT_FOR_KNOWN, KEPT_FOR_NEW = 1 / 2, 3 / 4
# Of the rate and the bucket, beyond which a key or a place has taken much.
MUCH = 1 / 16


class Ration:
    """A rate that all peers share."""

    def __init__(self, rate: float, burst: float, now: float, a_few: float = 1.0) -> None:
        """`a_few`: what nobody has for much, however small the bucket is."""
        self._rate, self._burst = rate, burst
        self._crowd_burst = max(a_few, burst * MUCH)
        self._all = TokenBucket(rate, burst, now)
        self._crowds: OrderedDict[Hashable, TokenBucket] = OrderedDict()  # least recently heard first

    def take(self, now: float, known: bool, *crowds: Hashable) -> bool:
        """Whether one of these crowds (a key, a place) may have one; `known`: whether we know who asks."""
        if known:
            return self._all.take(now)
        buckets = [self._bucket(crowd, now) for crowd in crowds]
        kept = KEPT_FOR_NEW if any(bucket.wait(now) for bucket in buckets) else KEPT_FOR_KNOWN
        if not self._all.take(now, self._burst * kept):
            return False
        for bucket in buckets:
            bucket.take(now)
        return True

    def _bucket(self, crowd: Hashable, now: float) -> TokenBucket:
        bucket = self._crowds.get(crowd)
        if bucket is None:
            bucket = self._crowds[crowd] = TokenBucket(self._rate * MUCH, self._crowd_burst, now)
            if len(self._crowds) > CROWDS_REMEMBERED:
                self._crowds.popitem(last=False)
        self._crowds.move_to_end(crowd)
        return bucket


def claimed_place(address: NodeAddress) -> Hashable:
    """Where an address says that its node is, as the internet sees it."""
    return next((user_of(at.reflexive or at.host) for at in address.attachments), None)
