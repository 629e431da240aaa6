"""What routers send back: TCP resets and ICMP errors about packets that they did not pass on, built whole."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address
from typing import Final

from warpgate.lab.flow import ACK, FIN, RST, SYN, Protocol
from warpgate.lab.packet import ICMP6, IPV6_HEADER, Packet, checksum, parse, seal
from warpgate.model.endpoint import IPAddress

HOPS: Final = 64
# RFC 1812 section 4.3.2.3: "SHOULD contain as much of the original datagram as possible without the length
# exceeding 576 bytes"; RFC 4443 section 2.4 (c): not exceeding the minimum IPv6 MTU of 1280.
QUOTE_LIMIT: Final = {4: 576 - 28, 6: 1280 - 48}


class Complaint(enum.Enum):
    """ICMP errors: ((IPv4 type, code), (IPv6 type, code)) from RFC 792, RFC 1812 and RFC 4443."""

    NO_ROUTE = ((3, 0), (1, 0))
    HOST_UNREACHABLE = ((3, 1), (1, 3))
    PORT_UNREACHABLE = ((3, 3), (1, 4))
    PROHIBITED = ((3, 13), (1, 1))
    TIME_EXCEEDED = ((11, 0), (3, 0))
    TOO_BIG = ((3, 4), (2, 0))


def complain(packet: Packet, complaint: Complaint, source: IPAddress, mtu: int = 0) -> Packet | None:
    """An ICMP error about `packet`, to its sender. None where RFC 1122 section 3.2.2 forbids one.

    `mtu`: what TOO_BIG tells in octets (RFC 1191 section 4, RFC 4443 section 3.2: where both have it last).
    """
    if packet.flow is None or packet.destination_ip.is_multicast or source.version != packet.version:
        return None
    kind, code = complaint.value[0 if packet.version == 4 else 1]
    quote = packet.data[: QUOTE_LIMIT[packet.version]]
    message = bytearray((kind, code, 0, 0, 0, 0)) + mtu.to_bytes(2, "big") + quote
    protocol = int(Protocol.ICMP) if packet.version == 4 else ICMP6
    header = ip_header(source, packet.source_ip, protocol, len(message))
    data = header + message
    seal(data, packet.version, len(header))
    return parse(data)


def reset(packet: Packet) -> Packet | None:
    """The RST that a closed port answers a TCP segment with (RFC 9293 section 3.10.7.1); None for a RST or no TCP."""
    flow = packet.flow
    if flow is None or flow.protocol is not Protocol.TCP or packet.flags & RST:
        return None
    data, at = packet.data, packet.body
    if packet.flags & ACK:
        sequence, acknowledgment, flags = bytes(data[at + 8 : at + 12]), bytes(4), RST
    else:
        length = ip_length(packet) - at - (data[at + 12] >> 4) * 4
        taken = length + bool(packet.flags & SYN) + bool(packet.flags & FIN)
        heard = int.from_bytes(data[at + 4 : at + 8], "big")
        sequence, acknowledgment, flags = (
            bytes(4),
            ((heard + taken) & 0xFFFFFFFF).to_bytes(4, "big"),
            RST | ACK,
        )
    ports = flow.destination.port.to_bytes(2, "big") + flow.source.port.to_bytes(2, "big")
    segment = bytearray(ports + sequence + acknowledgment + bytes((5 << 4, flags)) + bytes(6))
    source, destination = flow.destination.ip, flow.source.ip
    pseudo = source.packed + destination.packed + bytes((0, int(Protocol.TCP))) + len(segment).to_bytes(2, "big")
    segment[16:18] = checksum(pseudo + segment).to_bytes(2, "big")
    return parse(ip_header(source, destination, int(Protocol.TCP), len(segment)) + segment)


def ip_length(packet: Packet) -> int:
    """Octets of the whole packet, as its header says."""
    data = packet.data
    return data[2] << 8 | data[3] if packet.version == 4 else IPV6_HEADER + (data[4] << 8 | data[5])


def ip_header(source: IPAddress, destination: IPAddress, protocol: int, length: int, hops: int = HOPS) -> bytearray:
    """For `length` octets after it; both addresses of one family."""
    if not isinstance(source, IPv4Address):
        fixed = b"\x60\0\0\0" + length.to_bytes(2, "big") + bytes((protocol, hops))
        return bytearray(fixed + source.packed + destination.packed)
    fixed = b"\x45\0" + (20 + length).to_bytes(2, "big") + bytes((0, 0, 0, 0, hops, protocol, 0, 0))
    header = bytearray(fixed + source.packed + destination.packed)
    header[10:12] = checksum(header).to_bytes(2, "big")
    return header
