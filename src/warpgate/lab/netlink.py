"""Addresses, routes and rules of the current network namespace through rtnetlink (rtnetlink(7)), without `ip`."""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType
from typing import Final, Self

from warpgate.errors import NetworkError
from warpgate.lab import linux
from warpgate.model.endpoint import IPAddress

RTM_NEWLINK: Final = 16
RTM_NEWADDR: Final = 20
RTM_NEWROUTE: Final = 24
RTM_NEWRULE: Final = 32
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_CREATE: Final = 0x400
IFF_UP: Final = 0x1
IFLA_MTU: Final = 4
IFLA_AF_SPEC: Final = 26
IFLA_INET6_ADDR_GEN_MODE: Final = 8
ADDR_GEN_MODE_NONE: Final = 1
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_TABLE: Final = 15
FRA_SRC: Final = 2
FRA_PRIORITY: Final = 6
FR_ACT_TO_TBL: Final = 1
RT_TABLE_MAIN: Final = 254
RTPROT_STATIC: Final = 4
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RTN_UNICAST: Final = 1


class Netlink:
    """A route socket of the namespace in which it was opened. NetworkError when the kernel refuses."""

    def __init__(self) -> None:
        self._socket = socket.socket(linux.AF_NETLINK, socket.SOCK_RAW, linux.NETLINK_ROUTE)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def set_up(self, index: int) -> None:
        header = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP)
        self._request(RTM_NEWLINK, header, "bring the interface up")

    def prepare(self, index: int, mtu: int) -> None:
        """Before `set_up`: set the MTU, and keep the kernel from making (and announcing) a link-local address."""
        mode = _attribute(IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", ADDR_GEN_MODE_NONE))
        attributes = _attribute(IFLA_AF_SPEC, _attribute(socket.AF_INET6, mode))
        attributes += _attribute(IFLA_MTU, struct.pack("=I", mtu))
        header = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
        self._request(RTM_NEWLINK, header + attributes, "configure the interface")

    def add_address(self, index: int, ip: IPAddress, prefix: int) -> None:
        """IPv6 addresses are usable at once: no duplicate address detection."""
        header = struct.pack("=BBBBI", _family(ip), prefix, IFA_F_NODAD if ip.version == 6 else 0, 0, index)
        attributes = _attribute(IFA_LOCAL, ip.packed) + _attribute(IFA_ADDRESS, ip.packed)
        if ip.version == 6:
            attributes += _attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NODAD))
        self._request(RTM_NEWADDR, header + attributes, f"add the address {ip}/{prefix}", NLM_F_CREATE)

    def add_default_route(
        self, index: int, version: int, gateway: IPAddress | None, metric: int, table: int = RT_TABLE_MAIN
    ) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        scope = RT_SCOPE_LINK if gateway is None and version == 4 else RT_SCOPE_UNIVERSE
        kind = table if table < 256 else 0
        header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, kind, RTPROT_STATIC, scope, RTN_UNICAST, 0)
        attributes = _attribute(RTA_OIF, struct.pack("=i", index))
        attributes += _attribute(RTA_TABLE, struct.pack("=I", table))
        attributes += _attribute(RTA_PRIORITY, struct.pack("=I", metric))
        if gateway is not None:
            attributes += _attribute(RTA_GATEWAY, gateway.packed)
        self._request(RTM_NEWROUTE, header + attributes, "add a default route", NLM_F_CREATE)

    def add_source_rule(self, source: IPAddress, table: int, priority: int) -> None:
        """Packets from `source` are routed by `table`: how a host with two uplinks answers on the right one."""
        header = struct.pack("=BBBBBBBBI", _family(source), 0, source.max_prefixlen, 0, table, 0, 0, FR_ACT_TO_TBL, 0)
        attributes = _attribute(FRA_SRC, source.packed) + _attribute(RTA_TABLE, struct.pack("=I", table))
        attributes += _attribute(FRA_PRIORITY, struct.pack("=I", priority))
        self._request(RTM_NEWRULE, header + attributes, f"add a rule for {source}", NLM_F_CREATE)

    def _request(self, kind: int, payload: bytes, purpose: str, flags: int = 0) -> None:
        self._sequence += 1
        flags |= NLM_F_REQUEST | NLM_F_ACK
        self._socket.send(struct.pack("=IHHII", 16 + len(payload), kind, flags, self._sequence, 0) + payload)
        answer = self._socket.recv(65536)
        _, answer_kind, _, _, _, error = struct.unpack_from("=IHHIIi", answer)
        if answer_kind == NLMSG_ERROR and error:
            raise NetworkError(f"could not {purpose}: the kernel answered {os.strerror(-error)}")


def _family(ip: IPAddress) -> int:
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def _attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr and its value, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
