"""A reference to an MQTT broker, as an address carries it. Bits are counted from the least significant.

broker = flags(1)  host  [port(2)]  [round trip(2), ms]
         flags: 0-1 host is 0 IPv4(4), 1 IPv6(16), 2 name(1 + n); 2 TLS; 3 port follows (else 1883,
         with TLS 8883); 4 round trip follows
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from warpgate.errors import AddressError
from warpgate.model.endpoint import Endpoint
from warpgate.model.wire import Reader, pack_number, pick

_DEFAULT_PORTS = {False: 1883, True: 8883}  # IANA: mqtt, secure-mqtt
_BROKER_URL = re.compile(
    r"mqtt(?P<tls>s?)://(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<host>[a-z0-9._-]{1,253}))(?::(?P<port>[1-9][0-9]{0,4}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class BrokerRef:
    """A broker's canonical URL (`mqtt[s]://host:port`) and its measured round trip (seconds, None: unknown).

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
        return cls(_canonical_url(url.lower()), rtt)

    @property
    def tls(self) -> bool:
        return self.url.startswith("mqtts:")

    @property
    def host(self) -> str:
        """A name or a literal address without brackets."""
        return self._authority[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self._authority[1])

    @property
    def _authority(self) -> tuple[str, str]:
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host, port


def _canonical_url(url: str) -> str:
    match = _BROKER_URL.fullmatch(url)
    if match is None:
        raise AddressError(f"{url[:80]!r} is not a broker URL (mqtt://host:port or mqtts://host:port)")
    port = int(match["port"] or _DEFAULT_PORTS[bool(match["tls"])])
    host = match["host"] or match["v6"]
    numeric = match["host"] is None or host.rpartition(".")[2].isdigit()
    if (
        numeric
    ):  # a name cannot end in digits (RFC 1123 section 2.1): what looks like an IP address must be one
        host = str(Endpoint.of(host, port).ip)
    if port > 65535:
        raise AddressError(f"port {port} is outside 0..65535")
    return f"mqtt{match['tls']}://{f'[{host}]' if ':' in host else host}:{port}"


def encode_broker(broker: BrokerRef) -> bytes:
    host, port = broker.host, broker.port
    if ":" in host:
        kind, packed = 1, IPv6Address(host).packed
    elif host.rpartition(".")[2].isdigit():
        kind, packed = 0, IPv4Address(host).packed
    else:
        kind, packed = 2, bytes((len(host),)) + host.encode("ascii")
    default = port == _DEFAULT_PORTS[broker.tls]
    flags = kind | broker.tls << 2 | (not default) << 3 | (broker.rtt is not None) << 4
    out = bytes((flags,)) + packed
    if not default:
        out += pack_number(port, 2)
    if broker.rtt is not None:
        out += pack_number(round(min(broker.rtt * 1000, 65535)), 2)
    return out


def decode_broker(reader: Reader) -> BrokerRef:
    flags = reader.number(1)
    tls = bool(flags & 4)
    if flags & 3 == 2:
        host = reader.take(reader.number(1)).decode("latin-1")  # anything but ASCII fails as a URL below
    else:
        ip = reader.ip(pick((False, True), flags & 3))
        host = f"[{ip}]" if ip.version == 6 else str(ip)
    port = reader.number(2) if flags & 8 else _DEFAULT_PORTS[tls]
    rtt = reader.number(2) / 1000 if flags & 16 else None
    return BrokerRef(f"mqtt{'s' if tls else ''}://{host}:{port}", rtt)
