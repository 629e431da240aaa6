"""Looking for a UPnP gateway (SSDP, UPnP Device Architecture 1.1 section 1.3): what is asked, and whose answer counts.

The question goes to the multicast group, as the architecture wants it, and to the gateway itself (section 1.3.2 allows
that since 1.1): some networks drop multicast. Only the gateway's own answers are believed. A machine
(`proto/machine.py`) with packets to send from the first `handle_timeout` on; `Over` is its last event.
"""

from __future__ import annotations

from collections import deque
from ipaddress import ip_address

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.servers import bracketed
from warpgate.proto.machine import Outputs, Transmit

PORT = 1900
GROUPS = {4: "239.255.255.250", 6: "ff02::c"}  # sections 1.3.2 and A.3
# Devices answer within MX seconds; datagrams are lost, so ask twice, and wait a little after the second one's second.
MX = 1
ASK_AT = (0.0, 1.0)
OVER_AT = 2.5
TARGETS = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2))
# Some answer to nothing more special; the gateway alone is asked that, since others would answer too.
ANY_DEVICE = "upnp:rootdevice"
# A router may be several devices (a media server beside the gateway), each at a place of its own.
MOST_LOCATIONS = 4
LARGEST_ANSWER = 2048
LONGEST_LOCATION = 512


@dataclass(frozen=True, slots=True)
class Found:
    """The gateway has a device that is described at this URL; which may say anything, and be anywhere."""

    location: str


@dataclass(frozen=True, slots=True)
class Over:
    """Whoever has not answered by now will not."""


def encode_search(host: str, target: str, mx: int | None) -> bytes:
    """M-SEARCH (section 1.3.2); `mx` None where one device alone is asked."""
    lines = ["M-SEARCH * HTTP/1.1", f"HOST: {bracketed(host)}:{PORT}", 'MAN: "ssdp:discover"']
    lines += [] if mx is None else [f"MX: {mx}"]
    lines += [f"ST: {target}", "", ""]
    return "\r\n".join(lines).encode()


def decode_answer(data: bytes) -> str:
    """The LOCATION of an answer to M-SEARCH (section 1.3.3). DecodeError for anything else."""
    if len(data) > LARGEST_ANSWER:
        raise DecodeError(f"an SSDP answer of {len(data)} bytes")
    first, *lines = data.decode("latin-1").splitlines() or [""]
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or rest.split(" ")[0] != "200":
        raise DecodeError("no answer to an SSDP search")
    for line in lines:
        name, _, value = line.partition(":")
        location = value.strip()
        if name.strip().lower() == "location":
            if not location or len(location) > LONGEST_LOCATION or not _is_visible(location):
                break
            return location
    raise DecodeError("an SSDP answer without a LOCATION")


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


class Search(Outputs[Found | Over, Transmit]):
    """`gateway` as `Network.gateways` names it: a link-local one with its scope, which the group then has as well."""

    def __init__(self, base: Endpoint, gateway: IPAddress, now: float) -> None:
        super().__init__()
        self._base = base
        self._gateway = Endpoint.of(gateway, PORT).ip
        scope = str(gateway).partition("%")[2]
        group = GROUPS[gateway.version]
        self._group = Endpoint(ip_address(f"{group}%{scope}" if scope else group), PORT)
        self._direct = Endpoint(gateway, PORT)
        self._asks = deque(now + at for at in ASK_AT)
        self._over_at: float | None = now + OVER_AT
        self._seen: set[str] = set()

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """A datagram from `source`, whose port is the device's choice; what is not the gateway's is ignored."""
        if source.ip != self._gateway or self._over_at is None:
            return
        try:
            location = decode_answer(data)
        except DecodeError:
            return
        if location not in self._seen and len(self._seen) < MOST_LOCATIONS:
            self._seen.add(location)
            self._events.append(Found(location))

    def handle_timeout(self, now: float) -> None:
        while self._asks and self._asks[0] <= now:
            self._asks.popleft()
            self._ask(last=not self._asks)
        if self._over_at is not None and self._over_at <= now:
            self._over_at = None
            self._events.append(Over())

    def _ask(self, *, last: bool) -> None:
        host = str(self._group.ip).partition("%")[0]
        for target in TARGETS:
            self._send(self._group, encode_search(host, target, MX))
        for target in (*TARGETS, ANY_DEVICE) if last else TARGETS:
            self._send(self._direct, encode_search(str(self._gateway), target, None))

    def _send(self, remote: Endpoint, data: bytes) -> None:
        self._outbox.append(Transmit(data, self._base, remote))

    def poll_timeout(self) -> float | None:
        return self._asks[0] if self._asks else self._over_at
