"""IP packets made from scratch, with checksums as RFC 1071 words them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from warpgate.lab.flow import ACK, Flow, Protocol
from warpgate.lab.packet import ICMP6
from warpgate.model.endpoint import Endpoint

ports = st.integers(0, 65535)
payloads = st.binary(max_size=64)
flags = st.integers(0, 0x3F)
addresses4 = st.integers(0, 2**32 - 1).map(IPv4Address)
addresses6 = st.integers(0, 2**128 - 1).map(IPv6Address)
protocols = st.sampled_from([Protocol.UDP, Protocol.TCP, Protocol.ICMP])


def slow_checksum(data: bytes) -> int:
    """RFC 1071 as it is written: add 16-bit words, fold the carries."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def build(flow: Flow, payload: bytes = b"", bits: int = ACK, hops: int = 64, udp_sum: bool = True) -> bytearray:
    """A packet of this flow with right checksums, from scratch."""
    source, destination = flow.source, flow.destination
    version = source.ip.version
    pair = source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
    number, at = int(flow.protocol), {Protocol.UDP: 6, Protocol.TCP: 16, Protocol.ICMP: 2}[flow.protocol]
    if flow.protocol is Protocol.UDP:
        body = pair + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    elif flow.protocol is Protocol.TCP:
        body = pair + bytes((1, 2, 3, 4, 5, 6, 7, 8, 0x50, bits, 9, 9, 0, 0, 0, 0)) + payload
    else:
        number = number if version == 4 else ICMP6
        request = destination.port == 0
        kind = (8 if request else 0) if version == 4 else (128 if request else 129)
        body = bytes((kind, 0, 0, 0)) + (pair[:2] if request else pair[2:]) + b"\0\x01" + payload
    pseudo = source.ip.packed + destination.ip.packed + len(body).to_bytes(4, "big") + number.to_bytes(4, "big")
    value = slow_checksum(body if (version, flow.protocol) == (4, Protocol.ICMP) else pseudo + body)
    if flow.protocol is Protocol.UDP:
        value = (value or 0xFFFF) if udp_sum else 0
    body = body[:at] + value.to_bytes(2, "big") + body[at + 2 :]
    if version == 6:
        fixed = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes((number, hops))
        return bytearray(fixed + source.ip.packed + destination.ip.packed + body)
    fixed = b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + bytes((0, 7, 0x40, 0, hops, number))
    tail = source.ip.packed + destination.ip.packed
    return bytearray(fixed + slow_checksum(fixed + b"\0\0" + tail).to_bytes(2, "big") + tail + body)


@st.composite
def flows(draw: st.DrawFn, protocol: Protocol | None = None, version: int | None = None) -> Flow:
    kind = protocol or draw(protocols)
    addresses = addresses4 if (version or draw(st.sampled_from([4, 6]))) == 4 else addresses6
    source, destination = draw(addresses), draw(addresses)
    if kind is Protocol.ICMP:
        return Flow(kind, Endpoint(source, draw(st.integers(1, 65535))), Endpoint(destination, 0))
    return Flow(kind, Endpoint(source, draw(ports)), Endpoint(destination, draw(ports)))
