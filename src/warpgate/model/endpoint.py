"""Transport addresses (RFC 8445 section 2: "IP address and port"), and the two small enums that go with them."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from warpgate.errors import AddressError, ConfigError
from warpgate.lazy_dataclass import dataclass

IPAddress = IPv4Address | IPv6Address
_E = TypeVar("_E", bound=enum.Enum)
SockAddr = tuple[str, int] | tuple[str, int, int, int]


class Transport(enum.Enum):
    """What a link runs over."""

    TCP = "tcp"
    UDP = "udp"

    @classmethod
    def of(cls, value: Transport | str) -> Transport:
        """Itself or its word ("tcp"); ConfigError for anything else."""
        return _member(cls, "transport", value)


PROTOCOL_NUMBERS = {Transport.TCP: 6, Transport.UDP: 17}  # IANA's, of what is carried in IP


class Mode(enum.Enum):
    """What a pipe promises: reliable ordered bytes, or datagrams as UDP gives them.

    PATH is no pipe's: a session of that mode finds one more path for a connection that durable pipes share.
    """

    STREAM = "stream"
    DATAGRAM = "datagram"
    PATH = "path"

    @classmethod
    def of(cls, value: Mode | str) -> Mode:
        """Itself or its word ("stream"); ConfigError for anything else."""
        return _member(cls, "mode", value, cls.PATH)


def _member(kind: type[_E], what: str, value: object, *internal: _E) -> _E:
    try:
        member = kind(value)
        if member in internal:
            raise ValueError(member)
        return member
    except ValueError:
        words = " or ".join(repr(member.value) for member in kind if member not in internal)
        raise ConfigError(f"{what} must be {words} (or a member of warpgate.{kind.__name__}), not {value!r}") from None


class Family(enum.IntEnum):
    """IP version; the value is the version number."""

    V4 = 4
    V6 = 6


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a port in 0..65535 (0: any free port, for binding only)."""

    ip: IPAddress
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise AddressError(f"port {self.port} is outside 0..65535")

    def __hash__(self) -> int:
        return hash((int(self.ip), self.port))  # an address's own hash is that of a text made each time

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"

    @property
    def family(self) -> Family:
        return Family(self.ip.version)

    @property
    def sockaddr(self) -> tuple[str, int]:
        """What the socket module takes; for IPv6 the two-element form (no flow label, no scope)."""
        return (str(self.ip), self.port)

    @classmethod
    def of(cls, host: str | IPAddress, port: int) -> Endpoint:
        """From a literal IP address; raises AddressError for anything else (names are not resolved here)."""
        try:
            ip = ip_address(host)
        except ValueError:
            raise AddressError(f"{host!r} is not an IP address") from None
        if isinstance(ip, IPv6Address):
            if ip.ipv4_mapped is not None:
                ip = ip.ipv4_mapped
            elif ip.scope_id is not None:
                ip = IPv6Address(int(ip))
        return cls(ip, port)

    @classmethod
    def from_sockaddr(cls, sockaddr: SockAddr) -> Endpoint:
        """From what recvfrom, getsockname and getpeername return."""
        return cls.of(sockaddr[0], sockaddr[1])

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From `192.0.2.1:80` or `[2001:db8::1]:80`; raises AddressError."""
        host, separator, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise AddressError(f"{text!r}: write IPv6 endpoints as [address]:port")
        if not separator or not (port.isascii() and port.isdigit()):
            raise AddressError(f"{text!r} is not an endpoint (address:port)")
        return cls.of(host, int(port))
