"""A router's memory: its mappings and flows, found by either side's 5-tuple, and when each is forgotten.

Owns the indexes, the timers and the claims of the router's own stack; decides nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator

from warpgate.lab.conntrack import Entry, LiveMapping
from warpgate.lab.flow import Flow, Protocol
from warpgate.lab.spec import Lifetimes
from warpgate.model.endpoint import Endpoint, IPAddress


class FlowTable:
    """Rows in, rows out. Call `expire(now)` before looking anything up."""

    def __init__(self) -> None:
        self.mappings_of: Counter[IPAddress] = Counter()  # live mappings of each inside host
        self.mappings_created = self.mappings_peak = 0
        self.flows_created = self.flows_peak = 0
        self._mappings: dict[tuple[object, ...], LiveMapping] = {}
        self._by_external: dict[tuple[Protocol, Endpoint], list[LiveMapping]] = {}
        self._by_inside: dict[tuple[Protocol, Endpoint], list[LiveMapping]] = {}
        self._by_sent: dict[Flow, Entry] = {}
        self._by_heard: dict[Flow, Entry] = {}
        self._claims: dict[Flow, float] = {}
        self._timers: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()

    # -- looking up --------------------------------------------------------------------------------------

    def sent(self, flow: Flow) -> Entry | None:
        """By the flow from inside, as the inside host sends it."""
        return self._by_sent.get(flow)

    def heard(self, flow: Flow) -> Entry | None:
        """By the flow from outside, as it arrives."""
        return self._by_heard.get(flow)

    def mapping(self, key: tuple[object, ...]) -> LiveMapping | None:
        return self._mappings.get(key)

    def mappings_at(self, protocol: Protocol, external: Endpoint) -> Iterator[LiveMapping]:
        """Youngest first; more than one only with port overloading."""
        return reversed(self._by_external.get((protocol, external), []))

    def mappings_of_endpoint(self, protocol: Protocol, inside: Endpoint) -> Iterator[LiveMapping]:
        """Youngest first; with endpoint-independent mapping there is at most one."""
        return reversed(self._by_inside.get((protocol, inside), []))

    def claimed(self, heard: Flow, now: float) -> bool:
        """The router's own stack holds this flow from outside."""
        return self._claims.get(heard, now) > now

    @property
    def flows_live(self) -> int:
        return len(self._by_sent)

    @property
    def mappings_live(self) -> int:
        return len(self._mappings)

    # -- adding ------------------------------------------------------------------------------------------

    def add_mapping(self, mapping: LiveMapping) -> None:
        self._mappings[mapping.key] = mapping
        self._by_external.setdefault((mapping.protocol, mapping.external), []).append(mapping)
        self._by_inside.setdefault((mapping.protocol, mapping.inside), []).append(mapping)
        self.mappings_of[mapping.inside.ip] += 1
        self.mappings_created += 1
        self.mappings_peak = max(self.mappings_peak, len(self._mappings))

    def add(self, entry: Entry) -> None:
        self._by_sent[entry.sent] = entry
        self._by_heard[entry.heard] = entry
        entry.mapping.flows += 1
        entry.mapping.remotes[entry.remote.ip] += 1
        self.flows_created += 1
        self.flows_peak = max(self.flows_peak, len(self._by_sent))

    def claim(self, heard: Flow, now: float, until: float) -> None:
        self._claims.pop(heard, None)  # dicts keep insertion order: the oldest claims are in front
        self._claims[heard] = until
        while next(iter(self._claims.values())) <= now:
            del self._claims[next(iter(self._claims))]

    # -- ageing ------------------------------------------------------------------------------------------

    def refresh(self, entry: Entry, lifetimes: Lifetimes, now: float) -> None:
        self.keep_until(entry, now + entry.idle_limit(lifetimes, now))

    def keep_until(self, entry: Entry, expires: float) -> None:
        """Forget the flow at `expires`, or when its mapping reaches its absolute age, whichever is sooner."""
        entry.expires = min(expires, entry.mapping.dies)
        entry.mapping.expires = max(entry.mapping.expires, entry.expires)
        # While the end only moves away, the timer that exists is enough; a RST moves it nearer.
        if entry.expires < entry.scheduled:
            self._schedule(entry)

    def expire(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            when, _, entry = heapq.heappop(timers)
            if entry.removed or when != entry.scheduled:
                continue
            if entry.expires <= now:
                self.remove(entry)
            else:
                self._schedule(entry)

    def remove(self, entry: Entry) -> None:
        """Forget a flow, and its mapping with the last of its flows."""
        entry.removed = True
        del self._by_sent[entry.sent]
        del self._by_heard[entry.heard]
        mapping = entry.mapping
        mapping.flows -= 1
        mapping.remotes[entry.remote.ip] -= 1
        if not mapping.remotes[entry.remote.ip]:
            del mapping.remotes[entry.remote.ip]
        if not mapping.flows:
            self._remove_mapping(mapping)

    def _remove_mapping(self, mapping: LiveMapping) -> None:
        del self._mappings[mapping.key]
        for index, endpoint in ((self._by_external, mapping.external), (self._by_inside, mapping.inside)):
            place = (mapping.protocol, endpoint)
            index[place].remove(mapping)
            if not index[place]:
                del index[place]
        self.mappings_of[mapping.inside.ip] -= 1

    def _schedule(self, entry: Entry) -> None:
        entry.scheduled = entry.expires
        heapq.heappush(self._timers, (entry.expires, next(self._order), entry))
