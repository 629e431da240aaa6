"""One interface in one family, as an address carries it. Bits are counted from the least significant.

attachment = shape(1)  ports(1)  host(4|16)  [reflexive(4|16)]
             udp local(2)  [udp mapped(2)]  [tcp local(2)]  [tcp mapped(2)]  [nat]  [pool]
             shape: 0 IPv6; 1-2 reflexive is 0 unknown, 1 equal to host, 2 follows;
                    3 tcp local follows (else equal to udp local); 4 nat follows (else all unknown);
                    5 pool follows (else empty)
             ports: 0-1 udp mapped is 0 unknown, 1 equal to local, 2 follows;
                    2-3 udp learnt by; 4-7 the same for tcp
nat        = behaviour(1)  samples(2)  [step(2), signed | low(2) high(2) [fixed(2)]]
             behaviour: 0-2 mapping, 3-4 filtering, 5-7 port assignment
             samples: 0-1 UDP blocked (unknown, no, yes); 2-5 mapping, 6-9 filtering,
                      10-13 assignment samples, each at most 15; 14 pooled; 15 parity
pool       = count(1)  address(4|16)*
"""

from __future__ import annotations

import enum
from dataclasses import field
from ipaddress import IPv6Address

from warpgate.errors import AddressError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, IPAddress, Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.model.wire import Reader, pack_number, pick

_SAMPLES_CAP = 15
# Of an arbitrary pool: a carrier's may be larger, but a peer should not have to try all of it.
MAX_POOL = 3


class LearntBy(enum.Enum):
    """How a mapped port became known."""

    NOTHING = "nothing"
    STUN = "stun"
    PORT_MAP = "port-map"


# Wire numbers are positions in these.
_LEARNT = (LearntBy.NOTHING, LearntBy.STUN, LearntBy.PORT_MAP)
_MAPPINGS = (Mapping.UNKNOWN, Mapping.NONE, Mapping.EIM, Mapping.ADM, Mapping.APDM)
_FILTERINGS = (Filtering.UNKNOWN, Filtering.EIF, Filtering.ADF, Filtering.APDF)
_ASSIGNMENTS = (
    Assignment.UNKNOWN,
    Assignment.PRESERVING,
    Assignment.SEQUENTIAL,
    Assignment.BLOCK,
    Assignment.RANDOM,
    Assignment.PER_ADDRESS,
)
_PORT_SET = len(_ASSIGNMENTS)  # a BLOCK with bits of its own
_COUNTED = (Assignment.SEQUENTIAL, Assignment.PER_ADDRESS)
_BLOCKED = (None, False, True)


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that waits for peers: its own port (0: none) and the one the outside sees (None: unknown)."""

    local: int = 0
    mapped: int | None = None
    learnt: LearntBy = LearntBy.NOTHING

    def __post_init__(self) -> None:
        if not 0 <= self.local <= 65535:
            raise AddressError(f"port {self.local} is outside 0..65535")
        if self.mapped is not None and not 1 <= self.mapped <= 65535:
            raise AddressError(f"mapped port {self.mapped} is outside 1..65535")


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface in one family: where it is, what the outside sees of it, and the NAT between.

    `pool`: other addresses that the NAT gives mappings (RFC 4787 section 4.1, "arbitrary" pooling), 3 at most.
    """

    host: IPAddress
    reflexive: IPAddress | None = None
    udp: Listening = field(default_factory=Listening)
    tcp: Listening = field(default_factory=Listening)
    nat: NatProfile = field(default_factory=NatProfile)
    pool: tuple[IPAddress, ...] = ()

    def __post_init__(self) -> None:
        if len(self.pool) > MAX_POOL:
            raise AddressError(f"{len(self.pool)} more external addresses; at most {MAX_POOL} fit")
        for ip in (self.host, self.reflexive, *self.pool):
            if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
                raise AddressError(f"{ip} is an IPv4 address written as IPv6")
        if self.reflexive is not None and self.reflexive.version != self.host.version:
            raise AddressError(f"host {self.host} and reflexive {self.reflexive} are of different families")
        if any(ip.version != self.host.version for ip in self.pool):
            raise AddressError(f"host {self.host} and its pool of addresses are of different families")

    @property
    def family(self) -> Family:
        return Family(self.host.version)

    @property
    def outside(self) -> tuple[IPAddress, ...]:
        """Where packets of it may come from, as others see them."""
        return self.pool if self.reflexive is None else (self.reflexive, *self.pool)

    def listening(self, transport: Transport) -> Listening:
        return self.udp if transport is Transport.UDP else self.tcp

    def host_endpoint(self, transport: Transport) -> Endpoint | None:
        """Where neighbours reach it; None when it does not listen on that transport."""
        port = self.listening(transport).local
        return Endpoint(self.host, port) if port else None

    def reflexive_endpoint(self, transport: Transport) -> Endpoint | None:
        """Where strangers reach it, NAT permitting; None unless address and port are both known."""
        port = self.listening(transport).mapped
        return None if port is None or self.reflexive is None else Endpoint(self.reflexive, port)


def encode_attachment(attachment: Attachment) -> bytes:
    host, reflexive, udp, tcp = attachment.host, attachment.reflexive, attachment.udp, attachment.tcp
    has_nat = attachment.nat != NatProfile()
    reflexive_form = 0 if reflexive is None else 1 if reflexive == host else 2
    shape = (host.version == 6) | reflexive_form << 1 | (tcp.local != udp.local) << 3 | has_nat << 4
    shape |= bool(attachment.pool) << 5
    out = bytes((shape, _ports_form(udp) | _ports_form(tcp) << 4)) + host.packed
    if reflexive_form == 2 and reflexive is not None:
        out += reflexive.packed
    out += pack_number(udp.local) + _encode_mapped(udp)
    if tcp.local != udp.local:
        out += pack_number(tcp.local)
    out += _encode_mapped(tcp)
    if has_nat:
        out += _encode_nat(attachment.nat)
    if attachment.pool:
        out += bytes((len(attachment.pool),)) + b"".join(ip.packed for ip in attachment.pool)
    return out


def _ports_form(listening: Listening) -> int:
    mapped_form = 0 if listening.mapped is None else 1 if listening.mapped == listening.local else 2
    return mapped_form | _LEARNT.index(listening.learnt) << 2


def _encode_mapped(listening: Listening) -> bytes:
    if listening.mapped is None or listening.mapped == listening.local:
        return b""
    return pack_number(listening.mapped)


def decode_attachment(reader: Reader) -> Attachment:
    shape, ports = reader.number(1), reader.number(1)
    v6 = bool(shape & 1)
    host = reader.ip(v6)
    reflexive_form = shape >> 1 & 3
    reflexive = None if reflexive_form == 0 else host if reflexive_form == 1 else reader.ip(v6)
    udp = _decode_listening(reader, reader.number(2), ports & 15)
    tcp = _decode_listening(reader, reader.number(2) if shape & 8 else udp.local, ports >> 4)
    nat = _decode_nat(reader) if shape & 16 else NatProfile()
    pool = tuple(reader.ip(v6) for _ in range(reader.number(1))) if shape & 32 else ()
    return Attachment(host, reflexive, udp, tcp, nat, pool)


def _decode_listening(reader: Reader, local: int, form: int) -> Listening:
    mapped = None if form & 3 == 0 else local if form & 3 == 1 else reader.number(2)
    return Listening(local, mapped, pick(_LEARNT, form >> 2))


def _encode_nat(nat: NatProfile) -> bytes:
    assignment = nat.assignment
    port_set = assignment.kind is Assignment.BLOCK and assignment.fixed != 0
    code = _PORT_SET if port_set else _ASSIGNMENTS.index(assignment.kind)
    behaviour = _MAPPINGS.index(nat.mapping) | _FILTERINGS.index(nat.filtering) << 3 | code << 5
    counts = (nat.mapping_samples, nat.filtering_samples, nat.assignment_samples)
    mapping, filtering, assigned = (min(count, _SAMPLES_CAP) for count in counts)
    samples = _BLOCKED.index(nat.udp_blocked) | mapping << 2 | filtering << 6 | assigned << 10
    samples |= nat.pooled << 14 | assignment.parity << 15
    out = bytes((behaviour,)) + pack_number(samples)
    if assignment.kind in _COUNTED:
        out += pack_number(assignment.step, signed=True)
    elif assignment.kind is Assignment.BLOCK:
        out += pack_number(assignment.low) + pack_number(assignment.high)
        out += pack_number(assignment.fixed) if port_set else b""
    return out


def _decode_nat(reader: Reader) -> NatProfile:
    behaviour, samples = reader.number(1), reader.number(2)
    code, parity = behaviour >> 5, bool(samples >> 15)
    kind = Assignment.BLOCK if code == _PORT_SET else pick(_ASSIGNMENTS, code)
    if kind in _COUNTED:
        assignment = PortAssignment(kind, step=reader.number(2, signed=True), parity=parity)
    elif kind is Assignment.BLOCK:
        low, high = reader.number(2), reader.number(2)
        fixed = reader.number(2) if code == _PORT_SET else 0
        assignment = PortAssignment(kind, low=low, high=high, fixed=fixed, parity=parity)
    else:
        assignment = PortAssignment(kind, parity=parity)
    return NatProfile(
        mapping=pick(_MAPPINGS, behaviour & 7),
        filtering=pick(_FILTERINGS, behaviour >> 3 & 3),
        assignment=assignment,
        udp_blocked=pick(_BLOCKED, samples & 3),
        mapping_samples=samples >> 2 & 15,
        filtering_samples=samples >> 6 & 15,
        assignment_samples=samples >> 10 & 15,
        pooled=bool(samples >> 14 & 1),
    )
