"""Connection tracking rows, one per mapping and one per flow, and the TCP states that decide when a flow is over.

The TCP part is Linux's `tcp_conntracks` table (nf_conntrack_proto_tcp.c) reduced to what hole punching
meets: who opened, the simultaneous open, a RST as only answer. Sequence numbers are not looked at.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import field
from typing import Final

from warpgate.lab.flow import ACK, FIN, RST, SYN, Flow, Forward, Protocol, Side
from warpgate.lab.spec import Lifetimes
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress

# nf_conntrack_udp_packet(): "Still active after two seconds? Extend timeout."
UDP_STREAM_AFTER: Final = 2.0


class TcpState(enum.Enum):
    """In brackets Linux's names."""

    OPENING = "opening"  # [SYN_SENT] one SYN seen
    CROSSED = "crossed"  # [SYN_SENT2] a SYN each way: simultaneous open
    ANSWERED = "answered"  # [SYN_RECV]
    ESTABLISHED = "established"
    CLOSING = "closing"  # [FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT]
    CLOSED = "closed"  # [CLOSE] a RST was seen


class Segment(enum.Enum):
    """What the TCP table looks at."""

    SYN = "syn"
    SYN_ACK = "syn+ack"
    ACK = "ack"
    FIN = "fin"
    RST = "rst"


OPENER: Final = True
ANSWERER: Final = False

# (state, sender is the opener, segment) -> next state. What is absent changes nothing.
TRANSITIONS: Final[dict[tuple[TcpState, bool, Segment], TcpState]] = {
    (TcpState.OPENING, ANSWERER, Segment.SYN): TcpState.CROSSED,
    (TcpState.OPENING, ANSWERER, Segment.SYN_ACK): TcpState.ANSWERED,
    (TcpState.CROSSED, OPENER, Segment.SYN_ACK): TcpState.ANSWERED,
    (TcpState.CROSSED, ANSWERER, Segment.SYN_ACK): TcpState.ANSWERED,
    (TcpState.ANSWERED, OPENER, Segment.ACK): TcpState.ESTABLISHED,
    (TcpState.ANSWERED, ANSWERER, Segment.ACK): TcpState.ESTABLISHED,
    (TcpState.ANSWERED, OPENER, Segment.FIN): TcpState.CLOSING,
    (TcpState.ANSWERED, ANSWERER, Segment.FIN): TcpState.CLOSING,
    (TcpState.ESTABLISHED, OPENER, Segment.FIN): TcpState.CLOSING,
    (TcpState.ESTABLISHED, ANSWERER, Segment.FIN): TcpState.CLOSING,
    **{(state, sender, Segment.RST): TcpState.CLOSED for state in TcpState for sender in (OPENER, ANSWERER)},
}


def segment_of(flags: int) -> Segment:
    """Which row of the table TCP control bits select; the order is Linux's get_conntrack_index()."""
    if flags & RST:
        return Segment.RST
    if flags & SYN:
        return Segment.SYN_ACK if flags & ACK else Segment.SYN
    return Segment.FIN if flags & FIN else Segment.ACK


@dataclass(slots=True, eq=False)
class LiveMapping:
    """An external endpoint lent to an inside endpoint for the destinations that `key` says, as long as flows use it."""

    key: tuple[object, ...]
    protocol: Protocol
    inside: Endpoint
    external: Endpoint
    dies: float
    flows: int = 0
    expires: float = 0.0  # the latest end of its flows so far
    remotes: Counter[IPAddress] = field(default_factory=Counter)  # what address-dependent filtering asks for


@dataclass(slots=True, eq=False)
class Entry:
    """One flow, seen from both sides and in both directions.

    `leave` and `enter` are the verdicts for its packets, built once. `hairpin`: the remote endpoint is the
    router's own.
    """

    mapping: LiveMapping
    remote: Endpoint
    opened_inside: bool
    hairpin: bool
    created: float
    sent: Flow = field(init=False)  # inside -> remote, as the inside host sends it
    heard: Flow = field(init=False)  # remote -> external, as it arrives from outside
    leave: Forward = field(init=False)
    enter: Forward = field(init=False)
    replied: bool = False
    state: TcpState = TcpState.OPENING
    expires: float = 0.0
    scheduled: float = math.inf
    removed: bool = False

    def __post_init__(self) -> None:
        protocol, inside, external = self.mapping.protocol, self.mapping.inside, self.mapping.external
        self.sent = Flow(protocol, inside, self.remote)
        self.heard = Flow(protocol, self.remote, external)
        self.leave = Forward(Flow(protocol, external, self.remote), Side.OUTSIDE)
        self.enter = Forward(Flow(protocol, self.remote, inside), Side.INSIDE)

    def idle_limit(self, lifetimes: Lifetimes, now: float) -> float:
        """Seconds this flow may stay silent from now on."""
        if self.mapping.protocol is Protocol.UDP:
            streaming = self.replied and now - self.created >= UDP_STREAM_AFTER
            return lifetimes.udp_replied if streaming else lifetimes.udp_unreplied
        if self.mapping.protocol is Protocol.ICMP:
            return lifetimes.icmp
        if self.state is TcpState.ESTABLISHED:
            return lifetimes.tcp_established
        if self.state is TcpState.CLOSED:
            return lifetimes.tcp_closed
        return lifetimes.tcp_closing if self.state is TcpState.CLOSING else lifetimes.tcp_opening

    @property
    def over(self) -> bool:
        """A bare SYN on this flow starts another connection."""
        return self.mapping.protocol is Protocol.TCP and self.state in (TcpState.CLOSING, TcpState.CLOSED)

    def step(self, flags: int, outward: bool) -> bool:
        """Note one packet; False when the flow is to be forgotten at once.

        A RST on a flow that saw nothing in return deletes it: "If only reply is a RST, we can consider
        ourselves not to have an established connection" (nf_conntrack_proto_tcp.c).
        """
        by_opener = outward == self.opened_inside
        if self.mapping.protocol is Protocol.TCP:
            if flags & RST and not self.replied:
                return False
            self.state = TRANSITIONS.get((self.state, by_opener, segment_of(flags)), self.state)
        if not by_opener:
            self.replied = True
        return True
