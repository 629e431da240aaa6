"""The pairs of endpoints by which peers were reached that no address tells: to be tried first the next time.

Behind a NAT that gives each destination another port, finding such a pair takes hundreds of mappings, and routers get
no more than a few thousand in ten minutes. The other side keeps its socket (`udp.kept_ports`), and the next process of
the same identity binds the same port, so what was found once leads there again while the mappings live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warpgate.core.disk.store import Store
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint

# Some checks are all that a pair costs which leads nowhere any more; but hardly any does after an hour.
GOOD_FOR = 3600.0
MOST_PEERS = 64
MOST_PAIRS = 4  # of one peer


@dataclass(frozen=True, slots=True)
class FoundPair:
    """`own`, `peer`: public keys; `seen` in Unix seconds."""

    own: bytes
    peer: bytes
    base: Endpoint
    remote: Endpoint
    seen: float


class FoundPairs:
    """Of one identity; other processes write to the same store."""

    def __init__(self, own: bytes, store: Store[list[FoundPair]], wall_clock: Callable[[], float]) -> None:
        """Reads the store."""
        self._own = own
        self._store = store
        self._wall_clock = wall_clock
        self._pairs = the_newest(store.load())
        self._watchers: set[Callable[[], None]] = set()

    def found(self, peer: bytes, base: Endpoint, remote: Endpoint) -> Callable[[], None]:
        """`peer`, a public key, was reached so. What is returned writes it down; it blocks."""
        new = FoundPair(self._own, peer, base, remote, self._wall_clock())
        self._pairs = the_newest([*self._pairs, new])
        for watcher in tuple(self._watchers):
            watcher()
        store = self._store
        return lambda: store.save(the_newest([*store.load(), new]))

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Called when a pair is found, which other searches may go by. What is returned ends that."""
        self._watchers.add(watcher)
        return lambda: self._watchers.discard(watcher)

    def of(self, peer: bytes) -> tuple[tuple[Endpoint, Endpoint], ...]:
        """Our endpoint and the peer's, the newest pair first."""
        now = self._wall_clock()
        return tuple(
            (pair.base, pair.remote)
            for pair in reversed(self._pairs)
            if (pair.own, pair.peer) == (self._own, peer) and abs(now - pair.seen) <= GOOD_FOR
        )


def the_newest(pairs: Sequence[FoundPair]) -> list[FoundPair]:
    """Within the limits, each once, the newest last."""
    known: dict[tuple[bytes, bytes, Endpoint, Endpoint], FoundPair] = {}
    count: dict[tuple[bytes, bytes], int] = {}
    for pair in sorted(pairs, key=lambda pair: pair.seen, reverse=True):
        ends, key = (pair.own, pair.peer), (pair.own, pair.peer, pair.base, pair.remote)
        if key not in known and (ends in count or len(count) < MOST_PEERS) and count.get(ends, 0) < MOST_PAIRS:
            count[ends] = count.get(ends, 0) + 1
            known[key] = pair
    return list(reversed(known.values()))
