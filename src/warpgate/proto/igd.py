"""What a UPnP gateway says of itself: its services, and where each is controlled.

A description (UPnP Device Architecture 1.1 section 2.3) is somebody's word, and an URL in it may lead anywhere. So an
URL becomes a `Place`, a port and a path at the gateway, or nothing: no name is ever resolved, and no host is kept that
one could connect to. What the services can do is known from their specifications; their own descriptions (SCPD), which
many routers do not have, are not read.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.servers import HTTP_PORT
from warpgate.proto.device_xml import LONGEST_TEXT, Path, read_elements

# Best first: version 2 has AddAnyPortMapping; PPP is what DSL routers of version 1 call it.
IP_CONNECTION_2, IP_CONNECTION_1, PPP_CONNECTION_1, IPV6_FIREWALL_1 = (
    f"urn:schemas-upnp-org:service:{name}"
    for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1", "WANIPv6FirewallControl:1")
)
CONNECTION_SERVICES = (IP_CONNECTION_2, IP_CONNECTION_1, PPP_CONNECTION_1)
# One for each line that a router has; real ones have up to three.
MOST_SERVICES = 8

_VISIBLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where at the gateway: `target` is the path and query of a request."""

    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Service:
    """`type` is one of the URNs above."""

    type: str
    control: Place


def place_at(url: str, gateway: IPAddress) -> Place:
    """DecodeError unless it is plain HTTP to the gateway's own address, written as such.

    A gateway that is known by its link-local address gives its global ones. Those cannot be told from another host's;
    but the request goes to the address that is known in any case, so only the port and the path are believed.
    """
    if _VISIBLE.fullmatch(url) is None or len(url) > LONGEST_TEXT:
        raise DecodeError("not an URL")
    try:
        parts = urlsplit(url)
        host, port = ip_address(parts.hostname or ""), parts.port
    except ValueError:
        raise DecodeError(f"{url} does not lead to an IP address") from None
    if parts.scheme != "http" or parts.username is not None or port == 0:
        raise DecodeError(f"{url} is not an URL of plain HTTP")
    own = Endpoint.of(gateway, 0).ip
    claimed = own.is_link_local and host.version == 6 and not (host.is_loopback or host.is_multicast)
    if Endpoint.of(host, 0).ip != own and not claimed:
        raise DecodeError(f"{url} leads to another host than the gateway")
    path = parts.path or "/"
    return Place(port or HTTP_PORT, f"{path}?{parts.query}" if parts.query else path)


def decode_description(document: bytes, location: str, gateway: IPAddress) -> tuple[Service, ...]:
    """The services that can make this gateway's hosts reachable, connections best first.

    `location` is where the description is, which relative URLs begin from unless it names another place at the gateway
    (URLBase, section 2.3; routers of the field have a wrong one). DecodeError when it is no description, and when
    there are such services, but none at the gateway.
    """
    reader = _Description()
    read_elements(document, reader.visit)
    base = location
    if reader.base:
        try:
            place_at(reader.base, gateway)
            base = reader.base
        except DecodeError:
            pass
    found, elsewhere = [], None
    for kind, control in reader.services:
        try:
            found.append(Service(kind, place_at(_joined(base, control), gateway)))
        except DecodeError as error:
            elsewhere = error
    if elsewhere is not None and not found:
        raise elsewhere
    order = (*CONNECTION_SERVICES, IPV6_FIREWALL_1)
    return tuple(sorted(dict.fromkeys(found), key=lambda service: order.index(service.type)))


def _joined(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:
        raise DecodeError("not an URL") from None


class _Description:
    """Collects `serviceType` and `controlURL` of each `service`, wherever it is: routers nest devices as they like."""

    def __init__(self) -> None:
        self.base = ""
        self.services: list[tuple[str, str]] = []
        self._kind = self._control = ""

    def visit(self, path: Path, text: str) -> None:
        match path:
            case ("root", "URLBase"):
                self.base = text
            case (*_, "service", "serviceType"):
                self._kind = text
            case (*_, "service", "controlURL"):
                self._control = text
            case (*_, "service"):
                wanted = self._kind in CONNECTION_SERVICES or self._kind == IPV6_FIREWALL_1
                if wanted and self._control and len(self.services) < MOST_SERVICES:
                    self.services.append((self._kind, self._control))
                self._kind = self._control = ""
