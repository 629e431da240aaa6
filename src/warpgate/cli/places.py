"""Places on this machine and near it, as `listen --forward` and `connect --listen` take them: text to values, no more.

All are argparse types. A bare number is a port of this machine; what has a slash in it is a socket in the file system.
"""

from __future__ import annotations

import argparse
from ipaddress import ip_network

from warpgate.cli.options import port_number
from warpgate.errors import AddressError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.model.scope import IPNetwork
from warpgate.model.wanted import is_service_name

LOCALHOST = "localhost"
# `--listen` takes the IPv4 one alone, as a port that only one address has is what a bare number means to people.
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class TcpPlace:
    """A TCP port. `host`: a name or an address, without brackets; to listen at, an address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class UdpPlace:
    """A UDP port; as `TcpPlace`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"udp:{TcpPlace(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class SocksPlace:
    """Whatever the peer asks a SOCKS proxy for, here: public addresses, or those in `networks`, or any."""

    networks: tuple[IPNetwork, ...] = ()
    anywhere: bool = False

    def __str__(self) -> str:
        limits = "any" if self.anywhere else ",".join(map(str, self.networks))
        return f"socks:{limits}" if limits else "socks"


@dataclass(frozen=True, slots=True)
class SocksEntrance:
    """Where programs of this machine find a SOCKS proxy."""

    place: TcpPlace | UnixPlace

    def __str__(self) -> str:
        return str(self.place)


Service = TcpPlace | UnixPlace | UdpPlace | SocksPlace
Entrance = TcpPlace | UnixPlace | UdpPlace | SocksEntrance


def service_place(text: str) -> Service:
    """Where a program accepts connections: PORT, HOST:PORT, [IPV6]:PORT, /PATH or unix:PATH; udp:PORT, udp:HOST:PORT;
    socks, socks:any, socks:NETWORK[,NETWORK].
    """
    if text == "socks" or text.startswith("socks:"):
        return _socks(text.removeprefix("socks").removeprefix(":"), given=":" in text)
    if text.startswith("udp:"):
        host, port = _host_and_port(text.removeprefix("udp:"))
        return UdpPlace(host or LOCALHOST, port)
    path = _path(text)
    if path is not None:
        return UnixPlace(path)
    host, port = _host_and_port(text)
    return TcpPlace(host or LOCALHOST, port)


def entrance_place(text: str) -> Entrance:
    """Where to accept them ourselves: PORT, ADDRESS:PORT, [IPV6]:PORT, /PATH or unix:PATH; udp:PORT, udp:ADDRESS:PORT.
    A bare port is open to this machine alone.
    """
    if text.startswith("udp:"):
        return UdpPlace(*_own_port(text.removeprefix("udp:")))
    return _stream_entrance(text)


def _stream_entrance(text: str) -> TcpPlace | UnixPlace:
    path = _path(text)
    return TcpPlace(*_own_port(text)) if path is None else UnixPlace(path)


def _own_port(text: str) -> tuple[str, int]:
    host, port = _host_and_port(text)
    if host is None or host == LOCALHOST:
        return LOOPBACK, port
    try:
        return str(Endpoint.of(host, port).ip), port
    except AddressError:
        raise argparse.ArgumentTypeError(f"{host!r} is no address of this machine (an IP address)") from None


def named_service_place(text: str) -> tuple[str, Service]:
    """[NAME=] and the place of a service; "" for the one without a name."""
    name, equals, place = text.partition("=")
    if equals and is_service_name(name):
        return name, service_place(place)
    return "", service_place(text)


def entrance_to_service(text: str) -> tuple[Entrance, str]:
    """The place of an entrance, and [:SERVICE] for a port; "" when none is named."""
    place, service = _split_service(text)
    return entrance_place(place), service


def socks_to_service(text: str) -> tuple[SocksEntrance, str]:
    """As `entrance_to_service`, without UDP."""
    place, service = _split_service(text)
    return SocksEntrance(_stream_entrance(place)), service


def _split_service(text: str) -> tuple[str, str]:
    kind = "udp:" if text.startswith("udp:") else ""
    if not kind and _path(text) is not None:
        return text, ""
    bracket, _, after = text.removeprefix(kind).rpartition("]")
    fields = after.split(":")
    of_the_place = 1 if not bracket and fields[0].isdigit() else 2
    service = ":".join(fields[of_the_place:])
    if len(fields) > of_the_place and not is_service_name(service):
        raise argparse.ArgumentTypeError(f"{service!r} is no name of a service")
    return (text.removesuffix(f":{service}") if service else text), service


def _socks(text: str, *, given: bool) -> SocksPlace:
    if not given or text == "any":
        return SocksPlace(anywhere=given)
    try:
        return SocksPlace(tuple(ip_network(part) for part in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'socks:{text}': {error} (socks:any, or networks as 10.0.0.0/8)") from None


def _path(text: str) -> str | None:
    if text.startswith("unix:"):
        if text == "unix:":
            raise argparse.ArgumentTypeError("'unix:' names no socket")
    elif "/" not in text:
        return None

    from warpgate.platform import SOCKETS  # noqa: PLC0415 - for such places alone

    if not SOCKETS.in_file_system:
        raise argparse.ArgumentTypeError(f"{text!r}: this system has no sockets in the file system")
    return text.removeprefix("unix:")


def _host_and_port(text: str) -> tuple[str | None, int]:
    """None: no host was given."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if bool(bare) != bool(colon) or (":" in bare) != (host != bare) or (not colon and not port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT or HOST:PORT (IPv6 as [ADDRESS]:PORT)")
    return bare or None, port_number(port)
