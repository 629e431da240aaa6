"""A NAT64 router (RFC 6146): hosts with IPv6 alone reach IPv4 ones through it. IPv6 itself passes as at any router.

Mappings, filters and timers are a `Nat`'s, whose inside endpoints are IPv6 here. What is added is the translation of
packets (RFC 7915), between flows of either family: headers, checksums, hop limits and ICMP errors. Fragments are lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from warpgate.lab.answers import Complaint, complain, ip_header, ip_length
from warpgate.lab.flow import Flow, Forward, Protocol, Side
from warpgate.lab.line import Deliver
from warpgate.lab.namespace import MTU
from warpgate.lab.nat import Nat
from warpgate.lab.packet import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP6,
    IPV4_HEADER,
    IPV6_HEADER,
    Packet,
    parse,
    seal,
    spend_hops,
    translate_ports,
)
from warpgate.lab.router import Router
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.scope import carries
from warpgate.model.translation import WELL_KNOWN_PREFIX, Nat64Prefix

LAB_PREFIX: Final = Nat64Prefix(WELL_KNOWN_PREFIX)

GROWTH: Final = IPV6_HEADER - IPV4_HEADER
# RFC 7915 sections 4.2 and 5.2: (type, code) of errors, from IPv4 to IPv6; all others are silently dropped.
_ERRORS_TO_6: Final = {
    (3, 0): (1, 0),
    (3, 1): (1, 0),
    (3, 3): (1, 4),
    (3, 4): (2, 0),
    (3, 13): (1, 1),
    (11, 0): (3, 0),
}
_ERRORS_TO_4: Final = {
    (1, 0): (3, 1),
    (1, 1): (3, 13),
    (1, 3): (3, 1),
    (1, 4): (3, 3),
    (2, 0): (3, 4),
    (3, 0): (11, 0),
}


def translate(packet: Packet, flow: Flow) -> Packet | None:
    """The packet as one of `flow`, whose family may be another; None for what cannot be told there.

    The hop limit is copied: the router has spent its hop already.
    """
    old = packet.flow
    if old is None or packet.fragment is not None:
        return None
    payload = packet.data[packet.body : ip_length(packet)]
    if flow.protocol is Protocol.ICMP:
        return _echo(packet, payload, flow)
    if flow.protocol is Protocol.UDP and payload[6:8] == b"\0\0":
        return None  # RFC 7915 section 4.5: without a checksum, which IPv6 demands, it may be dropped
    header = ip_header(flow.source.ip, flow.destination.ip, int(flow.protocol), len(payload), packet.hops)
    data = header + payload
    translate_ports(data, len(header), old=old, new=flow)
    return parse(data)


def _echo(packet: Packet, payload: bytearray, flow: Flow) -> Packet:
    version = flow.source.ip.version
    request = payload[0] == ECHO_REQUEST[packet.version]
    payload[0] = (ECHO_REQUEST if request else ECHO_REPLY)[version]
    payload[4:6] = (flow.source if request else flow.destination).port.to_bytes(2, "big")
    return _icmp(flow.source.ip, flow.destination.ip, payload, packet.hops)


def translate_complaint(packet: Packet, quoted: Flow, source: IPAddress) -> Packet | None:
    """An ICMP error, so that it complains about `quoted`, to whoever sent that; `source` is who complains."""
    data, body, version = packet.data, packet.body, packet.version
    known = (_ERRORS_TO_6 if version == 4 else _ERRORS_TO_4).get((data[body], data[body + 1]))
    if known is None or packet.quoted is None:
        return None
    inner = body + 8
    inner_body = inner + (IPV6_HEADER if version == 6 else (data[inner] & 15) * 4)
    transport = data[inner_body : ip_length(packet)]
    if quoted.protocol is not Protocol.ICMP:
        translate_ports(transport, 0, old=packet.quoted, new=quoted)
    protocol = int(quoted.protocol)
    if quoted.protocol is Protocol.ICMP and quoted.source.ip.version == 6:
        protocol = ICMP6
    mtu = 0
    if known in ((2, 0), (3, 4)):
        told = data[body + 6] << 8 | data[body + 7]
        mtu = told + GROWTH if version == 4 else told - GROWTH
    quote = ip_header(quoted.source.ip, quoted.destination.ip, protocol, len(transport)) + transport
    message = bytearray((*known, 0, 0, 0, 0)) + max(0, mtu).to_bytes(2, "big") + quote
    return _icmp(source, quoted.source.ip, message, packet.hops)


def _icmp(source: IPAddress, destination: IPAddress, message: bytearray, hops: int) -> Packet:
    protocol = int(Protocol.ICMP) if source.version == 4 else ICMP6
    header = ip_header(source, destination, protocol, len(message), hops)
    data = header + message
    seal(data, source.version, len(header))
    return parse(data)


class Nat64Router(Router):
    """IPv6 for the prefix goes through `nat` to IPv4; the rest of IPv6 through the firewall, as usual."""

    def __init__(
        self,
        name: str,
        *,
        nat: Nat,
        firewall: Nat | None,
        inside: tuple[IPAddress, ...],
        outside: tuple[IPAddress, ...],
        clock: Callable[[], float],
        prefix: Nat64Prefix = LAB_PREFIX,
    ) -> None:
        super().__init__(name, nat=nat, firewall=firewall, inside=inside, outside=outside, clock=clock)
        self.prefix = prefix
        self._translator = nat

    def from_below(self, packet: Packet) -> None:
        destination = packet.destination_ip
        ip = self.prefix.extract(destination) if isinstance(destination, IPv6Address) else None
        if ip is None:
            super().from_below(packet)
            return
        self._packets_out += 1
        if not spend_hops(packet, 1):
            self._complain(packet, Complaint.TIME_EXCEEDED, self.inside, self._to_inside)
        elif not carries(self.prefix, ip):
            self._complain(packet, Complaint.NO_ROUTE, self.inside, self._to_inside)
        elif packet.quoted is not None:
            self._error_from_below(packet, packet.quoted)
        elif packet.flow is None:
            self._dropped["no flow to translate"] += 1
        else:
            flow = replace(packet.flow, destination=Endpoint(ip, packet.flow.destination.port))
            verdict = self._translator.outbound(flow, self._clock(), packet.flags)
            if isinstance(verdict, Forward):
                self._pass(packet, verdict)
            else:
                self._refuse(packet, verdict, self.inside, self._to_inside)

    def from_above(self, packet: Packet) -> None:
        if packet.version == 6:
            super().from_above(packet)
            return
        self._packets_in += 1
        if packet.quoted is not None:
            verdict = self._translator.error_inbound(packet.quoted, self._clock())
            if isinstance(verdict, Forward):
                quoted = replace(verdict.flow, destination=self._in_six(verdict.flow.destination))
                self._send(translate_complaint(packet, quoted, self._six(packet.source_ip)), self._to_inside)
        elif packet.flow is None:
            self._dropped["no flow to translate"] += 1
        elif ip_length(packet) + GROWTH > MTU:
            self._tell_mtu(packet)
        else:
            verdict = self._translator.inbound(packet.flow, self._clock(), packet.flags)
            if not isinstance(verdict, Forward):
                self._refuse(packet, verdict, self.outside, self.up)
            elif self._may_enter(packet):
                self._pass(packet, verdict)

    def _pass(self, packet: Packet, verdict: Forward) -> None:
        """The `Nat` knows hosts inside by IPv6 endpoints, all others by IPv4 ones."""
        if verdict.side is Side.OUTSIDE:
            self._send(translate(packet, verdict.flow), self.up)
        else:
            flow = replace(verdict.flow, source=self._in_six(verdict.flow.source))
            self._send(translate(packet, flow), self._to_inside)

    def _error_from_below(self, packet: Packet, quoted: Flow) -> None:
        """What it quotes came from outside: its source stands for an IPv4 host."""
        source = quoted.source.ip
        ip = self.prefix.extract(source) if isinstance(source, IPv6Address) else None
        if ip is None:
            return
        heard = replace(quoted, source=Endpoint(ip, quoted.source.port))
        verdict = self._translator.error_outbound(heard, self._clock())
        if isinstance(verdict, Forward) and verdict.side is Side.OUTSIDE:
            self._send(translate_complaint(packet, verdict.flow, self._own(4)), self.up)

    def _tell_mtu(self, packet: Packet) -> None:
        """IPv6 routers do not fragment, and we do not for them: the sender has to (RFC 7915 section 4.4)."""
        self._dropped["too big for IPv6"] += 1
        error = complain(packet, Complaint.TOO_BIG, self._own(4), MTU - GROWTH)
        self._send(error, self.up)

    def _own(self, version: int) -> IPAddress:
        return next(ip for ip in self.outside if ip.version == version)

    def _six(self, ip: IPAddress) -> IPAddress:
        return self.prefix.embed(ip) if isinstance(ip, IPv4Address) else ip

    def _in_six(self, endpoint: Endpoint) -> Endpoint:
        return Endpoint(self._six(endpoint.ip), endpoint.port)

    def _send(self, packet: Packet | None, to: Deliver) -> None:
        if packet is None:
            self._dropped["not to be translated"] += 1
        else:
            to(packet)
