"""A reference to an MQTT broker, as an address carries it. Bits are counted from the least significant.

broker = flags(1)  host  [port(2)]  [round trip(2), ms]  [path(1 + n)]
         flags: 0-1 host is 0 IPv4(4), 1 IPv6(16), 2 name(1 + n); 2 TLS; 3 port follows (else 1883,
         with TLS 8883, of a WebSocket 80 and 443); 4 round trip follows; 5 in a WebSocket; 6 its path
         follows (else /mqtt)
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from warpgate.errors import AddressError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.model.servers import USUAL_PATH
from warpgate.model.wire import Reader, pack_number, pick

# IANA: mqtt, secure-mqtt, http, https.
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_BROKER_URL = re.compile(
    r"(?P<scheme>mqtts?|wss?)://(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<host>[a-z0-9._-]{1,253}))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>(?=.{0,64}\Z)(?:/(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+)*/?)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class BrokerRef:
    """A broker's canonical URL (`mqtt[s]://host:port`, `ws[s]://host:port/path`) and its measured round trip (seconds,
    None: unknown).

    The round trip is carried in whole milliseconds up to 65.535 s. Use `BrokerRef.of` for URLs people write.
    """

    url: str
    rtt: float | None = None

    def __post_init__(self) -> None:
        if _canonical_url(self.url) != self.url:
            raise AddressError(f"broker URL {self.url!r} is not canonical: {_canonical_url(self.url)!r} is")
        if self.rtt is not None and not self.rtt >= 0:
            raise AddressError(f"a round trip cannot be {self.rtt} s")

    @classmethod
    def of(cls, url: str, rtt: float | None = None) -> BrokerRef:
        """From a URL whose port may be missing and whose host may be in capitals; raises AddressError."""
        scheme, separator, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        return cls(_canonical_url((scheme + separator + authority).lower() + slash + path), rtt)

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @property
    def tls(self) -> bool:
        return self.scheme in ("mqtts", "wss")

    @property
    def path(self) -> str | None:
        """Of the WebSocket; None for MQTT itself."""
        _, slash, path = self.url.partition("://")[2].partition("/")
        return slash + path if slash else None

    @property
    def host(self) -> str:
        """A name or a literal address without brackets."""
        return self._authority[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self._authority[1])

    @property
    def _authority(self) -> tuple[str, str]:
        host, _, port = self.url.partition("://")[2].partition("/")[0].rpartition(":")
        return host, port


@lru_cache(maxsize=64)  # the same few are named by each address that is made or read
def _canonical_url(url: str) -> str:
    match = _BROKER_URL.fullmatch(url)
    if match is None or (match["path"] and not match["scheme"].startswith("ws")):
        raise AddressError(f"{url[:80]!r} is not a broker URL (mqtt://host:port or mqtts://host:port, wss://host/path)")
    scheme = match["scheme"]
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    host = match["host"] or match["v6"]
    numeric = match["host"] is None or host.rpartition(".")[2].isdigit()
    if numeric:  # a name cannot end in digits (RFC 1123 section 2.1): what looks like an IP address must be one
        host = str(Endpoint.of(host, port).ip)
    if port > 65535:
        raise AddressError(f"port {port} is outside 0..65535")
    path = match["path"] or (USUAL_PATH if scheme.startswith("ws") else "")
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def encode_broker(broker: BrokerRef) -> bytes:
    host, port, path = broker.host, broker.port, broker.path
    if ":" in host:
        kind, packed = 1, IPv6Address(host).packed
    elif host.rpartition(".")[2].isdigit():
        kind, packed = 0, IPv4Address(host).packed
    else:
        kind, packed = 2, bytes((len(host),)) + host.encode("ascii")
    default = port == _DEFAULT_PORTS[broker.scheme]
    flags = kind | broker.tls << 2 | (not default) << 3 | (broker.rtt is not None) << 4
    flags |= (path is not None) << 5 | (path not in (None, USUAL_PATH)) << 6
    out = bytes((flags,)) + packed
    if not default:
        out += pack_number(port)
    if broker.rtt is not None:
        out += pack_number(round(min(broker.rtt * 1000, 65535)))
    if path is not None and path != USUAL_PATH:
        out += bytes((len(path),)) + path.encode("ascii")
    return out


def decode_broker(reader: Reader) -> BrokerRef:
    """Names and paths that are not ASCII fail as URLs; a path that could be left out is not canonical."""
    flags = reader.number(1)
    web = bool(flags & 32)
    scheme = f"{'ws' if web else 'mqtt'}{'s' if flags & 4 else ''}"
    if flags & 3 == 2:
        host = reader.take(reader.number(1)).decode("latin-1")
    else:
        ip = reader.ip(pick((False, True), flags & 3))
        host = f"[{ip}]" if ip.version == 6 else str(ip)
    port = reader.number(2) if flags & 8 else _DEFAULT_PORTS[scheme]
    rtt = reader.number(2) / 1000 if flags & 16 else None
    path = USUAL_PATH if web else ""
    if flags & 64:
        path = reader.take(reader.number(1)).decode("latin-1")
    return BrokerRef(f"{scheme}://{host}:{port}{path}", rtt)
