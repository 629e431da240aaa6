"""IPv4 addresses inside IPv6 ones (RFC 6052), and how a host learns where its network puts them (RFC 7050).

A NAT64 takes packets for such addresses, and gives them to the IPv4 host inside. The prefix (32 to 96 bits) is the
network's choice; bits 64 to 71 are always zero, so that the IPv4 address goes around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from warpgate.errors import AddressError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress

# RFC 6052 section 2.2, figure 1: for each prefix length the octets that hold the IPv4 address.
_OCTETS = {
    32: (4, 5, 6, 7),
    40: (5, 6, 7, 9),
    48: (6, 7, 9, 10),
    56: (7, 9, 10, 11),
    64: (9, 10, 11, 12),
    96: (12, 13, 14, 15),
}
_RESERVED_OCTET = 8

WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
# RFC 7050 section 8.2: a name that has these two IPv4 addresses and no IPv6 one, except where a DNS64 makes them.
WELL_KNOWN_NAME = "ipv4only.arpa"
WELL_KNOWN_ADDRESSES = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
# RFC 7335: what a host may call itself on the IPv4 side of its own translator. Nobody else can reach it there.
SERVICE_CONTINUITY = IPv4Network("192.0.0.0/29")


@dataclass(frozen=True, slots=True)
class Nat64Prefix:
    """Where a network's NAT64 expects IPv4 addresses. AddressError for a prefix that RFC 6052 does not allow."""

    network: IPv6Network

    def __post_init__(self) -> None:
        if self.network.prefixlen not in _OCTETS:
            lengths = ", ".join(map(str, _OCTETS))
            raise AddressError(f"{self.network}: a NAT64 prefix has {lengths} bits (RFC 6052 section 2.2)")
        if self.network.network_address.packed[_RESERVED_OCTET]:
            raise AddressError(f"{self.network}: bits 64 to 71 must be zero (RFC 6052 section 2.2)")

    def __str__(self) -> str:
        return str(self.network)

    def embed(self, ip: IPv4Address) -> IPv6Address:
        """The IPv6 address that stands for `ip` here; the bits after it are zero."""
        octets = bytearray(self.network.network_address.packed)
        for place, octet in zip(_OCTETS[self.network.prefixlen], ip.packed, strict=True):
            octets[place] = octet
        return IPv6Address(bytes(octets))

    def extract(self, ip: IPv6Address) -> IPv4Address | None:
        """The IPv4 address that `ip` stands for; None when it stands for itself."""
        if ip not in self.network:
            return None
        packed = ip.packed
        if packed[_RESERVED_OCTET]:
            return None
        return IPv4Address(bytes(packed[place] for place in _OCTETS[self.network.prefixlen]))


def prefixes_in(answers: Iterable[IPv6Address]) -> tuple[Nat64Prefix, ...]:
    """The prefixes that the IPv6 addresses of `ipv4only.arpa` tell of, most often told first; () without any.

    RFC 7050 section 3: an answer in which a well-known address stands in several places decides nothing by itself;
    a place counts for it if the other well-known address stands there in another answer.
    """
    seen = [_places(ip, WELL_KNOWN_ADDRESSES) for ip in dict.fromkeys(answers)]
    told = [place for places in seen for place in places]
    found: Counter[Nat64Prefix] = Counter()
    for places in seen:
        for prefix, _ in places:
            both = {address for other, address in told if other == prefix} == set(WELL_KNOWN_ADDRESSES)
            found[prefix] += both or len(places) == 1
    return tuple(prefix for prefix, count in found.most_common() if count)


def prefixes_shared(owners: Iterable[Collection[IPAddress]]) -> tuple[Nat64Prefix, ...]:
    """The same from the addresses of any hosts: prefixes behind which their own IPv4 ones stand, the commonest first.

    Some hosts write their IPv4 address into an IPv6 one by habit, so that two owners of hosts have to agree; except on
    the prefix that stands for a NAT64 everywhere.
    """
    met: Counter[Nat64Prefix] = Counter()
    for addresses in owners:
        own = [ip for ip in addresses if isinstance(ip, IPv4Address)]
        ipv6 = [ip for ip in addresses if isinstance(ip, IPv6Address)]
        met.update({prefix for ip in ipv6 for prefix, _ in _places(ip, own)})
    return tuple(prefix for prefix, count in met.most_common() if count > 1 or prefix.network == WELL_KNOWN_PREFIX)


def _places(ip: IPv6Address, wanted: Collection[IPv4Address]) -> list[tuple[Nat64Prefix, IPv4Address]]:
    """Where one of the wanted addresses stands: the prefix before it, and which it is."""
    if ip.packed[_RESERVED_OCTET]:
        return []
    candidates = [Nat64Prefix(IPv6Network((ip, length), strict=False)) for length in _OCTETS]
    stands = [(prefix, prefix.extract(ip)) for prefix in candidates]
    return [(prefix, address) for prefix, address in stands if address is not None and address in wanted]
