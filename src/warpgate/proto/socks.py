"""SOCKS5 (RFC 1928), as far as a proxy for TCP without passwords needs it: values and bytes.

A client says its greeting and hears which method is chosen, says its request and hears the reply; after a good one the
connection is that to the host it asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from warpgate.errors import ProtocolError
from warpgate.lazy_dataclass import dataclass

VERSION = 5
NO_AUTHENTICATION = 0
GREETING = bytes((VERSION, 1, NO_AUTHENTICATION))
CHOSEN = bytes((VERSION, NO_AUTHENTICATION))
NONE_ACCEPTABLE = bytes((VERSION, 0xFF))
CONNECT = 1
HEAD = 4  # bytes of a request or reply up to the type of its address, including it
_IPV4, _NAME, _IPV6 = 1, 3, 4
_PORT = 2


class Reply(enum.IntEnum):
    """Section 6."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    EXPIRED = 6
    NO_SUCH_COMMAND = 7
    NO_SUCH_ADDRESS = 8


@dataclass(frozen=True, slots=True)
class Destination:
    """`host`: a name or an address, without brackets."""

    host: str
    port: int


def methods_follow(head: bytes) -> int:
    """How many bytes of methods follow the first two of a greeting. ProtocolError when it is none."""
    if head[0] != VERSION:
        raise ProtocolError(f"it does not begin like SOCKS5 (version {head[0]})")
    return head[1]


def address_follows(head: bytes, first: bytes) -> int:
    """How many bytes follow the head of a request or reply and the `first` one behind it. ProtocolError when it is
    neither.
    """
    if head[0] != VERSION:
        raise ProtocolError(f"it does not begin like SOCKS5 (version {head[0]})")
    match head[3]:
        case 1:
            return 4 - 1 + _PORT
        case 3:
            return first[0] + _PORT
        case 4:
            return 16 - 1 + _PORT
        case other:
            raise ProtocolError(f"there are no addresses of type {other}")


def destination_of(head: bytes, rest: bytes) -> Destination:
    """`rest`: all behind the head. ProtocolError when that names no host."""
    address, port = rest[:-_PORT], int.from_bytes(rest[-_PORT:], "big")
    if head[3] == _IPV4:
        return Destination(str(IPv4Address(address)), port)
    if head[3] == _IPV6:
        return Destination(str(IPv6Address(address)), port)
    try:
        name = address[1:].decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolError("its host name is not ASCII") from None
    if not name or not name.isprintable() or " " in name:
        raise ProtocolError("its host name is none")
    return Destination(name, port)


def request(destination: Destination) -> bytes:
    """CONNECT to there. ProtocolError for a name that is too long."""
    return bytes((VERSION, CONNECT, 0)) + _address(destination.host) + destination.port.to_bytes(2, "big")


def reply(code: Reply) -> bytes:
    """With no address: clients of CONNECT have no use for the one that the proxy has."""
    return bytes((VERSION, code, 0, _IPV4)) + bytes(4 + _PORT)


def acceptable(methods: Sequence[int]) -> bool:
    return NO_AUTHENTICATION in methods


def _address(host: str) -> bytes:
    try:
        ip = ip_address(host)
    except ValueError:
        name = host.encode("ascii", "replace")
        if len(name) > 255:
            raise ProtocolError("the host name is too long") from None
        return bytes((_NAME, len(name))) + name
    return bytes((_IPV4 if ip.version == 4 else _IPV6,)) + ip.packed
