"""Router models: flow and time in, decision out. No socket, clock or hidden randomness.

A `Nat` is one router's translation and filter for one address family. It deals in mappings (an external
endpoint lent to an inside endpoint, RFC 4787 section 4) and flows (one row per 5-tuple, which is what
filtering, timers and real routers' memory are about). It knows no packets, links, delays or other routers.

    verdict = nat.outbound(flow, now, flags)    a packet from inside
    verdict = nat.inbound(flow, now, flags)     a packet from outside
    verdict = nat.error_inbound(quoted, now)    an ICMP error from outside about a packet that we had let out

`now` is in seconds and never goes back; `flags` are the TCP control bits (0 for other protocols).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from warpgate.errors import ConfigError
from warpgate.lab.conntrack import Entry, LiveMapping
from warpgate.lab.flow import (
    ACK,
    FIN,
    RST,
    SYN,
    Answer,
    Drop,
    Flow,
    Forward,
    Local,
    Protocol,
    Reject,
    Side,
    Verdict,
)
from warpgate.lab.ports import PortChooser
from warpgate.lab.spec import Lifetimes, NatSpec, Pooling, Unsolicited
from warpgate.lab.table import FlowTable
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.nat import Assignment, Filtering, Mapping
from warpgate.proto.bucket import TokenBucket

__all__ = [
    "ACK",
    "FIN",
    "RST",
    "SYN",
    "Answer",
    "Drop",
    "Flow",
    "Forward",
    "Lifetimes",
    "Local",
    "Nat",
    "NatCounters",
    "NatSpec",
    "Pooling",
    "Protocol",
    "Reject",
    "Side",
    "Unsolicited",
    "Verdict",
]

# RFC 4787 section 4.1: the behaviours differ in what part of the destination selects the mapping.
DESTINATION_KEY: Final[dict[Mapping, Callable[[Endpoint], object]]] = {
    Mapping.NONE: lambda _: None,
    Mapping.EIM: lambda _: None,
    Mapping.ADM: lambda remote: remote.ip,
    Mapping.APDM: lambda remote: remote,
}

UNSOLICITED: Final = Drop("unsolicited")
TABLE_FULL: Final = Drop("table full")
TOO_FAST: Final = Drop("too many new flows")
NO_PORT: Final = Drop("no free port")
UDP_BLOCKED: Final = Drop("udp blocked")
PORT_BLOCKED: Final = Drop("tcp port blocked")
NO_STATE: Final = Drop("tcp segment of no connection")
NO_HAIRPIN: Final = Drop("no hairpin")
UNKNOWN_ERROR: Final = Drop("icmp error about no known flow")


@dataclass(frozen=True, slots=True)
class NatCounters:
    """What a router did so far. Flows are table rows, what small routers run out of; `dropped`: by reason."""

    packets_out: int
    packets_in: int
    unsolicited: int
    mappings_created: int
    mappings_live: int
    mappings_peak: int
    flows_created: int
    flows_live: int
    flows_peak: int
    dropped: tuple[tuple[str, int], ...]


class Nat:
    """One router's behaviour. `external` are its public addresses (none for a plain firewall)."""

    def __init__(self, spec: NatSpec, external: Sequence[IPAddress], rng: random.Random) -> None:
        if spec.translates != bool(external):
            raise ConfigError("a translating router needs external addresses, a firewall has none of its own")
        self.spec = spec
        self.external = tuple(external)
        self._rng = rng
        self._ports = PortChooser(spec.assignment, spec.block_size, spec.others, rng)
        self._paired: dict[IPAddress, IPAddress] = {}
        self._table = FlowTable()
        pace = spec.new_flows_per_second
        self._pace = None if pace is None else TokenBucket(pace, pace, 0.0)
        self._packets_out = self._packets_in = self._unsolicited = 0
        self._dropped: Counter[str] = Counter()

    def outbound(self, flow: Flow, now: float, flags: int = 0) -> Verdict:
        """Decide about a packet from inside. A hairpinned one comes back as Forward on side INSIDE."""
        self._table.expire(now)
        entry = self._still_open(self._table.sent(flow), flags)
        if entry is None:
            refusal = self._policy(flow, flags)
            if refusal is None and self._pace is not None and not self._pace.take(now):
                refusal = TOO_FAST
            if refusal is not None:
                return self._refused(refusal)
            mapping = self._mapping_for(flow, now)
            if isinstance(mapping, Drop):
                return self._refused(mapping)
            hairpin = flow.destination.ip in self.external
            entry = Entry(mapping, flow.destination, opened_inside=True, hairpin=hairpin, created=now)
            self._table.add(entry)
        self._packets_out += 1
        self._note(entry, flags, outward=True, now=now)
        return self.inbound(entry.leave.flow, now, flags) if entry.hairpin else entry.leave

    def inbound(self, flow: Flow, now: float, flags: int = 0) -> Verdict:
        """Decide about a packet from outside, to the router (or, for a firewall, to a host inside)."""
        self._table.expire(now)
        entry = self._still_open(self._table.heard(flow), flags)
        if entry is None:
            entry = self._admit(flow, now, flags)
            if entry is None:
                return self._turn_away(flow, now, flags)
        self._packets_in += 1
        self._note(entry, flags, outward=False, now=now)
        return entry.enter

    def error_inbound(self, quoted: Flow, now: float) -> Verdict:
        """An ICMP error from outside quotes a packet as it was there; Forward carries the flow as inside.

        As in Linux, an error neither refreshes nor ends a flow (RFC 5508 REQ-6: "MUST NOT").
        """
        self._table.expire(now)
        entry = self._table.heard(quoted.reverse)
        return self._refused(UNKNOWN_ERROR) if entry is None else Forward(entry.sent, Side.INSIDE)

    def error_outbound(self, quoted: Flow, now: float) -> Verdict:
        """An ICMP error from inside quotes a packet as it was there; Forward carries the flow as outside."""
        self._table.expire(now)
        entry = self._table.sent(quoted.reverse)
        if entry is None:
            return self._refused(UNKNOWN_ERROR)
        return self.error_inbound(entry.heard, now) if entry.hairpin else Forward(entry.heard, Side.OUTSIDE)

    def anew(self, external: Sequence[IPAddress] | None = None) -> Nat:
        """The same router without a memory, and perhaps with other external addresses."""
        return Nat(self.spec, self.external if external is None else external, self._rng)

    def counters(self, now: float) -> NatCounters:
        table = self._table
        table.expire(now)
        return NatCounters(
            packets_out=self._packets_out,
            packets_in=self._packets_in,
            unsolicited=self._unsolicited,
            mappings_created=table.mappings_created,
            mappings_live=table.mappings_live,
            mappings_peak=table.mappings_peak,
            flows_created=table.flows_created,
            flows_live=table.flows_live,
            flows_peak=table.flows_peak,
            dropped=tuple(sorted(self._dropped.items())),
        )

    # -- opening from inside -----------------------------------------------------------------------------

    def _policy(self, flow: Flow, flags: int) -> Drop | Reject | None:
        """Why a new flow from inside may not be opened, None when it may."""
        spec, refusal = self.spec, None
        if flow.protocol is Protocol.UDP and spec.udp_blocked:
            refusal = UDP_BLOCKED
        elif flow.protocol is Protocol.TCP:
            # Linux: FIN, RST and SYN+ACK are invalid in state NONE; a bare ACK is picked up in mid-stream.
            if flags & (RST | FIN) or flags & (SYN | ACK) == SYN | ACK:
                refusal = NO_STATE
            elif spec.tcp_ports is not None and flow.destination.port not in spec.tcp_ports:
                refusal = PORT_BLOCKED
        if refusal is None and self._full:
            refusal = TABLE_FULL
        if refusal is None and flow.destination.ip in self.external and not spec.hairpin:
            if spec.unsolicited is Unsolicited.REJECT and flow.protocol is not Protocol.ICMP:
                return Reject(_answer(flow))
            refusal = NO_HAIRPIN
        return refusal

    def _mapping_for(self, flow: Flow, now: float) -> LiveMapping | Drop:
        selector = DESTINATION_KEY[self.spec.mapping](flow.destination)
        key: tuple[object, ...] = (flow.protocol, flow.source, selector, self._uplink(flow))
        mapping = self._table.mapping(key)
        if mapping is None:
            return self._map(key, flow, now)
        if self._table.claimed(Flow(flow.protocol, flow.destination, mapping.external), now):
            # The router's own stack holds this very 5-tuple: the flow gets a port of its own, as in Linux.
            return self._map((*key, "beside the claim", flow.destination), flow, now)
        return mapping

    def _map(self, key: tuple[object, ...], flow: Flow, now: float) -> LiveMapping | Drop:
        limit = self.spec.host_limit
        if limit is not None and self._table.mappings_of[flow.source.ip] >= limit:
            return TABLE_FULL
        external = self._assign(flow, now)
        if external is None:
            return NO_PORT
        age = self.spec.lifetimes.absolute
        dies = math.inf if age is None else now + age
        mapping = LiveMapping(key, flow.protocol, flow.source, external, dies)
        self._table.add_mapping(mapping)
        return mapping

    def _assign(self, flow: Flow, now: float) -> Endpoint | None:
        if not self.spec.translates:
            return flow.source
        if self.spec.overloading and self.spec.assignment.kind is Assignment.PRESERVING:
            # Linux (find_appropriate_src) first tries where the same inside endpoint is mapped already: a port that
            # had to move takes the endpoint's later flows along.
            for mapping in self._table.mappings_of_endpoint(flow.protocol, flow.source):
                if self._uplink(flow) in (None, mapping.external.ip) and self._free(mapping.external, flow, now):
                    return mapping.external
        if (uplink := self._uplink(flow)) is not None:
            ip = uplink
        elif self.spec.pooling is Pooling.ARBITRARY:
            ip = self._rng.choice(self.external)
        else:
            if flow.source.ip not in self._paired:
                self._paired[flow.source.ip] = self._rng.choice(self.external)
            ip = self._paired[flow.source.ip]
        for port in self._ports.candidates(flow.source, ip, flow.destination.ip):
            external = Endpoint(ip, port)
            if self._free(external, flow, now):
                return external
        return None

    def _uplink(self, flow: Flow) -> IPAddress | None:
        """The external address of the one that leads to this destination; None where there is one uplink."""
        if self.spec.pooling is not Pooling.BY_DESTINATION:
            return None
        return self.external[flow.destination.ip.packed[-1] % len(self.external)]

    def _free(self, external: Endpoint, flow: Flow, now: float) -> bool:
        heard = Flow(flow.protocol, flow.destination, external)
        if self._table.heard(heard) is not None or self._table.claimed(heard, now):
            return False
        others = self._table.mappings_at(flow.protocol, external)
        if self.spec.overloading and self.spec.mapping is Mapping.APDM:
            return True
        if self.spec.overloading:
            return all(flow.destination.ip not in other.remotes for other in others)
        return next(others, None) is None

    # -- opening from outside ----------------------------------------------------------------------------

    def _admit(self, flow: Flow, now: float, flags: int) -> Entry | None:
        """A new flow from outside, where a mapping exists and the filter admits strangers (section 5)."""
        spec = self.spec
        if spec.filtering is Filtering.APDF or self._full or self._table.claimed(flow, now):
            return None
        if flow.protocol is Protocol.TCP and flags & (SYN | ACK | RST | FIN) != SYN:
            return None
        for mapping in self._table.mappings_at(flow.protocol, flow.destination):
            if spec.filtering is Filtering.EIF or flow.source.ip in mapping.remotes:
                hairpin = flow.source.ip in self.external
                entry = Entry(mapping, flow.source, opened_inside=False, hairpin=hairpin, created=now)
                if self._table.sent(entry.sent) is None:
                    # What `_note` leaves alone when inbound traffic refreshes nothing.
                    entry.expires = mapping.expires
                    self._table.add(entry)
                    return entry
        return None

    def _turn_away(self, flow: Flow, now: float, flags: int) -> Verdict:
        self._unsolicited += 1
        policy = self.spec.unsolicited
        if policy is Unsolicited.DROP or flow.protocol is Protocol.ICMP or flags & RST:
            return self._refused(UNSOLICITED)
        if policy is Unsolicited.REJECT:
            return Reject(_answer(flow))
        lifetimes = self.spec.lifetimes
        held = lifetimes.udp_unreplied if flow.protocol is Protocol.UDP else lifetimes.tcp_closed
        self._table.claim(flow, now, now + held)
        return Local(_answer(flow))

    # -- every packet ------------------------------------------------------------------------------------

    def _still_open(self, entry: Entry | None, flags: int) -> Entry | None:
        if entry is not None and flags & (SYN | ACK) == SYN and entry.over:
            self._table.remove(entry)
            return None
        return entry

    def _note(self, entry: Entry, flags: int, *, outward: bool, now: float) -> None:
        if not entry.step(flags, outward):
            self._table.remove(entry)
        elif outward or self.spec.refresh_inbound:
            self._table.refresh(entry, self.spec.lifetimes, now)
        else:
            self._table.keep_until(entry, entry.expires)

    @property
    def _full(self) -> bool:
        return self.spec.table_limit is not None and self._table.flows_live >= self.spec.table_limit

    def _refused(self, verdict: Drop | Reject) -> Drop | Reject:
        if isinstance(verdict, Drop):
            self._dropped[verdict.reason] += 1
        return verdict


def _answer(flow: Flow) -> Answer:
    return Answer.TCP_RESET if flow.protocol is Protocol.TCP else Answer.PORT_UNREACHABLE
