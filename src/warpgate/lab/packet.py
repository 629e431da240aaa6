"""IP packets as routers see them: which flow, how many hops left, and translation in place.

Checksums are updated incrementally (RFC 1624), so a corrupt packet stays corrupt, as with a real router.
Packets other than UDP, TCP and ICMP have no flow: they are routed but cannot be translated. Of a fragmented packet
only the first fragment has one; the others are known by their identification.
"""

from __future__ import annotations

import functools
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from warpgate.errors import DecodeError
from warpgate.lab.flow import Flow, Protocol
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress

ICMP6: Final = 58
IPV4_HEADER: Final = 20
IPV6_HEADER: Final = 40
FRAGMENT_HEADER: Final = 44  # RFC 8200 section 4.5
# A flow costs little to remember; building one (two address objects) costs as much as the rest of a NAT's work.
REMEMBERED: Final = 1 << 15

# ICMP types (RFC 792, RFC 4443).
ECHO_REQUEST: Final = {4: 8, 6: 128}
ECHO_REPLY: Final = {4: 0, 6: 129}
ERRORS: Final = {4: frozenset((3, 11, 12)), 6: frozenset((1, 2, 3, 4))}
# Where the checksum is, from the start of the transport header.
CHECKSUM_AT: Final = {Protocol.UDP: 6, Protocol.TCP: 16, Protocol.ICMP: 2}


class Packet:
    """One IP packet. `body` is the offset of the transport header in `data`.

    `flow` is None where there is nothing to translate; `flags` are the TCP control bits; an ICMP error has
    `quoted`, the flow of the packet it complains about, found at offset `body + 8`. `fragment` is the same for all
    fragments of one packet, None for a whole one.
    """

    __slots__ = ("body", "data", "destination", "flags", "flow", "fragment", "quoted", "version")

    def __init__(self, data: bytearray, version: int, body: int, destination: bytes) -> None:
        self.data = data
        self.version = version
        self.body = body
        self.destination = destination  # packed address: what routing looks up
        self.flow: Flow | None = None
        self.quoted: Flow | None = None
        self.fragment: bytes | None = None
        self.flags = 0

    @property
    def source_ip(self) -> IPAddress:
        data = self.data
        return IPv4Address(bytes(data[12:16])) if self.version == 4 else IPv6Address(bytes(data[8:24]))

    @property
    def destination_ip(self) -> IPAddress:
        return IPv4Address(self.destination) if self.version == 4 else IPv6Address(self.destination)

    @property
    def hops(self) -> int:
        """IPv4 time to live or IPv6 hop limit."""
        return self.data[8] if self.version == 4 else self.data[7]

    def copy(self) -> Packet:
        twin = Packet(bytearray(self.data), self.version, self.body, self.destination)
        twin.flow, twin.quoted, twin.flags, twin.fragment = self.flow, self.quoted, self.flags, self.fragment
        return twin


def parse(data: bytearray) -> Packet:
    """Read the headers; the packet keeps `data` and changes it in place. DecodeError for what is no IP packet."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= IPV4_HEADER:
        body, addresses = (data[0] & 15) * 4, bytes(data[12:20])
        length, protocol = data[2] << 8 | data[3], data[9]
        # More-fragments bit, offset; identification.
        fragment, mark = (data[6] << 8 | data[7]) & 0x3FFF, data[4:6]
        offset = fragment & 0x1FFF
    elif version == 6 and len(data) >= IPV6_HEADER:
        body, addresses = IPV6_HEADER, bytes(data[8:40])
        length, protocol = IPV6_HEADER + (data[4] << 8 | data[5]), data[6]
        fragment, mark, offset = 0, data[:0], 0
        if protocol == FRAGMENT_HEADER and len(data) >= body + 8:
            fragment, mark, protocol = 1, data[body + 4 : body + 8], data[body]
            offset, body = data[body + 2] << 5 | data[body + 3] >> 3, body + 8
    else:
        raise DecodeError(f"not an IP packet: {bytes(data[:20]).hex()}")
    if not IPV4_HEADER <= body <= length <= len(data):
        raise DecodeError(f"IP header with impossible lengths: {bytes(data[:20]).hex()}")
    packet = Packet(data, version, body, addresses[len(addresses) // 2 :])
    if fragment:
        packet.fragment = addresses + mark + bytes((protocol,))
    if not offset and length >= body + 8:
        _read_transport(packet, protocol, addresses, length)
    return packet


def _read_transport(packet: Packet, protocol: int, addresses: bytes, length: int) -> None:
    data, body, version = packet.data, packet.body, packet.version
    if protocol == Protocol.TCP:
        if length < body + 20:
            raise DecodeError("TCP header cut short")
        packet.flags = data[body + 13]
    if protocol in (Protocol.ICMP, ICMP6) and data[body] in ERRORS[version]:
        packet.quoted = None if packet.fragment else _quoted_flow(data, body + 8)
    else:
        packet.flow = _flow_at(version, protocol, addresses, data, body)


def rewrite(packet: Packet, flow: Flow) -> None:
    """Translate a packet that has a flow to another flow of the same protocol and family, in place."""
    old = packet.flow
    if old is None or old is flow:
        return
    _translate(packet.data, packet.version, 0, packet.body, old=old, new=flow)
    packet.flow = flow
    packet.destination = flow.destination.ip.packed


def readdress(packet: Packet, flow: Flow) -> None:
    """Give a later fragment, which has no ports, the addresses that its first fragment was given."""
    data, addresses = packet.data, flow.source.ip.packed + flow.destination.ip.packed
    if packet.version == 4:
        old = int.from_bytes(data[12:20], "big") % 0xFFFF
        data[12:20] = addresses
        _adjust(data, 10, _wire(flow).address_sum - old)
    else:
        data[8:40] = addresses
    packet.destination = flow.destination.ip.packed


def spend_hops(packet: Packet, count: int) -> bool:
    """Pass `count` routers; False when the packet dies before the last of them has forwarded it (RFC 1812 5.3.1)."""
    data = packet.data
    if packet.version == 6:
        if data[7] <= count:
            return False
        data[7] -= count
        return True
    if data[8] <= count:
        return False
    data[8] -= count
    _adjust(data, 10, -count << 8)
    return True


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The Internet checksum (RFC 1071): 65536 is 1 modulo 65535, so one big remainder is the folded sum."""
    padded = bytes(data) + b"\0" if len(data) % 2 else bytes(data)
    total = int.from_bytes(padded, "big")
    return 0xFFFF - ((total % 0xFFFF or 0xFFFF) if total else 0)


def translate_error(packet: Packet, quoted: Flow) -> None:
    """Rewrite an ICMP error in place so that it complains about `quoted` (RFC 5508 section 4.2).

    It then goes to the sender of `quoted`; where the quoted destination is translated, the error's source
    is as well, since whoever sent it is hidden behind the same router.
    """
    old, data, inner = packet.quoted, packet.data, packet.body + 8
    if old is None:
        return
    version = packet.version
    inner_body = inner + (IPV6_HEADER if version == 6 else (data[inner] & 15) * 4)
    _translate(data, version, inner, inner_body, old=old, new=quoted)
    source = slice(12, 16) if version == 4 else slice(8, 24)
    destination = slice(16, 20) if version == 4 else slice(24, 40)
    data[destination] = quoted.source.ip.packed
    if quoted.destination.ip != old.destination.ip:
        data[source] = quoted.destination.ip.packed
    packet.quoted = quoted
    packet.destination = quoted.source.ip.packed
    seal(data, version, packet.body)


def seal(data: bytearray, version: int, body: int) -> None:
    """Compute the checksums of an ICMP packet, and of its IPv4 header, from scratch."""
    data[body + 2 : body + 4] = b"\0\0"
    if version == 4:
        data[10:12] = b"\0\0"
        data[10:12] = checksum(data[:body]).to_bytes(2, "big")
        value = checksum(data[body:])
    else:
        value = checksum(data[8:40] + (len(data) - body).to_bytes(4, "big") + b"\0\0\0\x3a" + data[body:])
    data[body + 2 : body + 4] = value.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class _Wire:
    """A flow as it stands in the headers, with the sums of its 16-bit words."""

    addresses: bytes
    ports: bytes
    address_sum: int
    port_sum: int


@functools.lru_cache(REMEMBERED)
def _wire(flow: Flow) -> _Wire:
    addresses = flow.source.ip.packed + flow.destination.ip.packed
    ports = flow.source.port.to_bytes(2, "big") + flow.destination.port.to_bytes(2, "big")
    return _Wire(addresses, ports, int.from_bytes(addresses, "big") % 0xFFFF, int.from_bytes(ports, "big") % 0xFFFF)


@functools.lru_cache(REMEMBERED)
def _flow(protocol: int, addresses: bytes, ports: bytes) -> Flow:
    half = len(addresses) // 2
    family = IPv4Address if half == 4 else IPv6Address
    source = Endpoint(family(addresses[:half]), int.from_bytes(ports[:2], "big"))
    destination = Endpoint(family(addresses[half:]), int.from_bytes(ports[2:], "big"))
    return Flow(Protocol(protocol), source, destination)


def _flow_at(version: int, protocol: int, addresses: bytes, data: bytearray, body: int) -> Flow | None:
    if protocol in (Protocol.UDP, Protocol.TCP):
        return _flow(protocol, addresses, bytes(data[body : body + 4]))
    if protocol == (Protocol.ICMP if version == 4 else ICMP6):
        identifier = bytes(data[body + 4 : body + 6])
        if data[body] == ECHO_REQUEST[version]:
            return _flow(Protocol.ICMP, addresses, identifier + b"\0\0")
        if data[body] == ECHO_REPLY[version]:
            return _flow(Protocol.ICMP, addresses, b"\0\0" + identifier)
    return None


def _quoted_flow(data: bytearray, at: int) -> Flow | None:
    """The flow of the packet that an ICMP error quotes: its IP header and at least 8 bytes of what followed."""
    version = data[at] >> 4 if at < len(data) else 0
    if version == 4 and len(data) >= at + IPV4_HEADER:
        body, protocol, addresses = at + (data[at] & 15) * 4, data[at + 9], bytes(data[at + 12 : at + 20])
    elif version == 6 and len(data) >= at + IPV6_HEADER:
        body, protocol, addresses = at + IPV6_HEADER, data[at + 6], bytes(data[at + 8 : at + 40])
    else:
        return None
    if len(data) < body + 8 or body < at + IPV4_HEADER or (data[0] >> 4) != version:
        return None
    return _flow_at(version, protocol, addresses, data, body)


def _translate(data: bytearray, version: int, header: int, body: int, *, old: Flow, new: Flow) -> None:
    """Write `new`'s addresses and ports over `old`'s in headers at these offsets; adjust the checksums."""
    before, after = _wire(old), _wire(new)
    addresses, ports = after.address_sum - before.address_sum, after.port_sum - before.port_sum
    if version == 4:
        data[header + 12 : header + 20] = after.addresses
        _adjust(data, header + 10, addresses)
    else:
        data[header + 8 : header + 40] = after.addresses
    if new.protocol is Protocol.ICMP:
        request = data[body] == ECHO_REQUEST[version]
        data[body + 4 : body + 6] = after.ports[:2] if request else after.ports[2:]
        _adjust(data, body + CHECKSUM_AT[Protocol.ICMP], ports if version == 4 else ports + addresses)
        return
    translate_ports(data, body, old=old, new=new)


def translate_ports(data: bytearray, body: int, *, old: Flow, new: Flow) -> None:
    """Write `new`'s ports into a UDP or TCP header at `body`; its checksum is `new`'s then, whatever the families."""
    before, after = _wire(old), _wire(new)
    addresses, ports = after.address_sum - before.address_sum, after.port_sum - before.port_sum
    protocol = new.protocol
    at = body + CHECKSUM_AT[protocol]
    data[body : body + 4] = after.ports
    if at + 2 > len(data):
        return  # quoted TCP headers end before their checksum
    if protocol is Protocol.UDP:
        if data[at] == data[at + 1] == 0:
            return  # RFC 768: "transmitter generated no checksum"
        _adjust(data, at, addresses + ports)
        if data[at] == data[at + 1] == 0:
            data[at] = data[at + 1] = 0xFF
        return
    _adjust(data, at, addresses + ports)


def _adjust(data: bytearray, at: int, delta: int) -> None:
    """RFC 1624: HC' = ~(~HC + ~m + m'), where `delta` is the sum of m' - m."""
    total = (0xFFFF - (data[at] << 8 | data[at + 1]) + delta) % 0xFFFF or 0xFFFF
    value = 0xFFFF - total
    data[at] = value >> 8
    data[at + 1] = value & 0xFF
