"""Places on this machine and near it, as `listen --forward` and `connect --listen` take them: text to values, no more.

All are argparse types. A bare number is a port of this machine; what has a slash in it is a socket in the file system.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from warpgate.cli.options import port_number
from warpgate.errors import AddressError
from warpgate.model.endpoint import Endpoint
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


Place = TcpPlace | UnixPlace


def service_place(text: str) -> Place:
    """Where a program accepts connections: PORT, HOST:PORT, [IPV6]:PORT, /PATH or unix:PATH."""
    path = _path(text)
    if path is not None:
        return UnixPlace(path)
    host, port = _host_and_port(text)
    return TcpPlace(host or LOCALHOST, port)


def entrance_place(text: str) -> Place:
    """Where to accept them ourselves: PORT, ADDRESS:PORT, [IPV6]:PORT, /PATH or unix:PATH. A bare port is open to this
    machine alone.
    """
    path = _path(text)
    if path is not None:
        return UnixPlace(path)
    host, port = _host_and_port(text)
    if host in (None, LOCALHOST):
        return TcpPlace(LOOPBACK, port)
    try:
        return TcpPlace(str(Endpoint.of(host, port).ip), port)
    except AddressError:
        raise argparse.ArgumentTypeError(f"{host!r} is no address of this machine (an IP address)") from None


def named_service_place(text: str) -> tuple[str, Place]:
    """[NAME=] and the place of a service; "" for the one without a name."""
    name, equals, place = text.partition("=")
    if equals and is_service_name(name):
        return name, service_place(place)
    return "", service_place(text)


def entrance_to_service(text: str) -> tuple[Place, str]:
    """The place of an entrance, and [:SERVICE] for a TCP port; "" when none is named."""
    if _path(text) is not None:
        return entrance_place(text), ""
    bracket, _, after = text.rpartition("]")
    fields = after.split(":")
    of_the_place = 1 if not bracket and fields[0].isdigit() else 2
    service = ":".join(fields[of_the_place:])
    if len(fields) > of_the_place and not is_service_name(service):
        raise argparse.ArgumentTypeError(f"{service!r} is no name of a service")
    return entrance_place(text.removesuffix(f":{service}") if service else text), service


def _path(text: str) -> str | None:
    if text.startswith("unix:"):
        if text == "unix:":
            raise argparse.ArgumentTypeError("'unix:' names no socket")
        return text.removeprefix("unix:")
    return text if "/" in text else None


def _host_and_port(text: str) -> tuple[str | None, int]:
    """None: no host was given."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if bool(bare) != bool(colon) or (":" in bare) != (host != bare) or (not colon and not port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT or HOST:PORT (IPv6 as [ADDRESS]:PORT)")
    return bare or None, port_number(port)
