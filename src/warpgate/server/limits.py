"""What one key, one network and everybody together may do to a name server, and what "one network" is."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network

from warpgate.lazy_dataclass import dataclass
from warpgate.proto.name_record import MAX_RECORD

# An IPv4 address is a household, or a thousand behind a carrier's NAT; an IPv6 customer gets a /56 (RIPE-690).
IPV4_PREFIX, IPV6_PREFIX = 32, 56

MAX_BODY = MAX_RECORD
# A client that is slower than this with its request is gone, or means harm.
HEAD_SECONDS = 15.0  # also how long an idle connection is kept
BODY_SECONDS = 5.0
# In-flight requests get this long when the server is told to stop.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. Rates are per minute; a whole minute's worth may come at once."""

    # A person has a few devices and a name or two for each.
    names_per_key: int | None = 16
    # Carrier NATs put many people behind one address; a hoarder needs many addresses.
    names_per_network: int | None = 64
    # A node refreshes every few hours, and after each change of its address.
    writes_per_key: int | None = 12
    writes_per_network: int | None = 120
    lookups_per_network: int | None = 600
    connections: int = 4096
    connections_per_network: int | None = 64


@lru_cache(maxsize=4096)  # asked for with each request of a connection, and 20 us otherwise
def network_of(host: str) -> str:
    """The network that limits count for a client's IP address: `192.0.2.1/32`, `2001:db8::/56`.

    Text that is no IP address counts as one network: so does the peer of a Unix socket.
    """
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if ip.version == 6 and ip.ipv4_mapped is not None:  # an IPv4 client of a dual-stack socket
        ip = ip.ipv4_mapped
    prefix = IPV4_PREFIX if ip.version == 4 else IPV6_PREFIX
    return str(ip_network((ip, prefix), strict=False))
