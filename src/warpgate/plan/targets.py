"""Which of a peer's endpoints may be tried, and in which order: pure policy over two addresses.

An address is a claim by somebody we may not know. A private endpoint is therefore tried only when it can be
ours as well (same public address, or on a link of ours), and some endpoints are never tried at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

from warpgate.model.address import Attachment, LearntBy, NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.nat import Mapping
from warpgate.model.translation import SERVICE_CONTINUITY

IPNetwork = IPv4Network | IPv6Network

# RFC 1918, RFC 6598 (carrier NAT), RFC 7335 (a host's own translator), RFC 4193. Not `is_private`: that also counts
# documentation and test networks.
PRIVATE_NETWORKS: tuple[IPNetwork, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),
    SERVICE_CONTINUITY,
    IPv6Network("fc00::/7"),
)
WELL_KNOWN_PORTS = 1024
MAX_PAIRS = 24
# Two interfaces in both families have so many; each costs a dozen small packets to whoever is named.
MAX_PAIRS_UNINVITED = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """One of our sockets (`base`) and one endpoint of the peer's to try from it."""

    base: Endpoint
    remote: Endpoint
    nearby: bool  # on the same LAN (or the same machine)
    open: bool  # expected to accept a stranger's first packet, as far as is known


def is_private(ip: IPAddress) -> bool:
    """Whether `ip` means something only inside one site."""
    return any(ip.version == network.version and ip in network for network in PRIVATE_NETWORKS)


def facing_outside(address: NodeAddress) -> list[Attachment]:
    """Attachments by which the internet is reached: bridges and idle interfaces have no reflexive address."""
    usable = [at for at in address.attachments if at.reflexive is not None or not is_private(at.host)]
    return usable or list(address.attachments)


def networks_of(attachments: Iterable[Attachment]) -> tuple[IPNetwork, ...]:
    """The usual on-link prefixes around host addresses, for when the interfaces' own are not at hand."""
    return tuple(
        ip_network((at.host, 24 if at.host.version == 4 else 64), strict=False) for at in attachments
    )


def refusal(
    endpoint: Endpoint,
    own: NodeAddress,
    peer: NodeAddress,
    networks: Sequence[IPNetwork] | None = None,
    invited: bool = True,
) -> str | None:
    """Why nothing may be sent to `endpoint` on this peer's word, or None when it may.

    `networks` are the on-link prefixes of our interfaces. `invited`: our user asked for this peer; an offer from
    anybody else must show that it shares our public address before anything of our LAN is touched.
    """
    ip = endpoint.ip
    links = networks_of(own.attachments) if networks is None else networks
    if (kind := _no_host(ip, links)) is not None:
        return f"{endpoint} is {kind}"
    if ip.is_loopback:
        at_home = any(at.host.is_loopback for at in own.attachments)
        return None if at_home else f"{endpoint} is a loopback address"
    if endpoint.port < WELL_KNOWN_PORTS and endpoint.port not in _listening_ports(peer):
        return f"{endpoint}: ports below 1024 are tried only where the peer itself listens"
    if is_private(ip) and not _within_reach(ip, own, peer, links, invited):
        return f"{endpoint} is private, and the peer shares neither our public address nor a network of ours"
    return None


def _no_host(ip: IPAddress, links: Sequence[IPNetwork]) -> str | None:
    """What kind of address this is, if it is none of a host beyond our links."""
    if ip.is_multicast or ip.is_unspecified or ip == IPv4Address("255.255.255.255"):
        return "no unicast address"
    if any(ip == link.broadcast_address and link.num_addresses > 2 for link in links if ip.version == 4):
        return "a broadcast address"
    if ip.version == 4 and ip in SERVICE_CONTINUITY:
        return "an address that a translator gives its own host"
    return "link-local" if ip.is_link_local else None


def pairs(
    own: NodeAddress,
    peer: NodeAddress,
    transport: Transport,
    networks: Sequence[IPNetwork] | None = None,
    invited: bool = True,
) -> tuple[Pair, ...]:
    """All pairs worth trying, nearby first, then IPv6, then the rest; at most 24, on a stranger's word 8."""
    found: dict[tuple[Endpoint, Endpoint], Pair] = {}
    for mine in own.attachments:
        base = mine.host_endpoint(transport)
        if base is None:
            continue
        for theirs in peer.attachments:
            if theirs.family is mine.family and theirs.host.is_loopback == mine.host.is_loopback:
                for pair in _attachment_pairs(base, mine, theirs, transport):
                    if refusal(pair.remote, own, peer, networks, invited) is None:
                        found.setdefault((pair.base, pair.remote), pair)
    ordered = sorted(found.values(), key=lambda pair: (not pair.nearby, pair.remote.ip.version != 6))
    return tuple(ordered[: MAX_PAIRS if invited else MAX_PAIRS_UNINVITED])


def refusals(
    own: NodeAddress, peer: NodeAddress, networks: Sequence[IPNetwork] | None = None, invited: bool = True
) -> tuple[str, ...]:
    """Why endpoints of the peer's address are left out, one sentence each: for reports."""
    reasons: dict[str, None] = {}
    for theirs in peer.attachments:
        for transport in Transport:
            for endpoint in (theirs.host_endpoint(transport), theirs.reflexive_endpoint(transport)):
                reason = None if endpoint is None else refusal(endpoint, own, peer, networks, invited)
                if reason is not None:
                    reasons.setdefault(reason)
    return tuple(reasons)


def names_a_stranger(endpoints: Iterable[Endpoint], peer: NodeAddress) -> Endpoint | None:
    """The first endpoint whose IP address is not one of the peer's own, as its sealed address gives them."""
    theirs = {at.host for at in peer.attachments} | {at.reflexive for at in peer.attachments}
    return next((endpoint for endpoint in endpoints if endpoint.ip not in theirs), None)


def _attachment_pairs(
    base: Endpoint, mine: Attachment, theirs: Attachment, transport: Transport
) -> list[Pair]:
    host, reflexive = theirs.host_endpoint(transport), theirs.reflexive_endpoint(transport)
    same_site = mine.reflexive is not None and mine.reflexive == theirs.reflexive
    found = []
    if host is not None:
        local = same_site or mine.host == theirs.host or is_private(host.ip) or host.ip.is_loopback
        public = not is_private(host.ip) and not host.ip.is_loopback
        if local or public:
            found.append(Pair(base, host, nearby=local, open=local or _untranslated(theirs)))
    if reflexive is None:
        reflexive = _likely(theirs, transport)
    if reflexive is not None and reflexive != host:
        mapped = (theirs.udp if transport is Transport.UDP else theirs.tcp).learnt is LearntBy.PORT_MAP
        found.append(Pair(base, reflexive, nearby=False, open=mapped or theirs.nat.accepts_anyone))
    return found


def _likely(theirs: Attachment, transport: Transport) -> Endpoint | None:
    """A mapped port not measured yet: most NATs preserve the port where they can (RFC 4787 section 4.2.1)."""
    listening, other = (theirs.udp, theirs.tcp) if transport is Transport.UDP else (theirs.tcp, theirs.udp)
    if theirs.reflexive is None or not listening.local or other.mapped not in (None, other.local):
        return None
    return Endpoint(theirs.reflexive, listening.local)


def _untranslated(attachment: Attachment) -> bool:
    return attachment.nat.mapping in (Mapping.NONE, Mapping.UNKNOWN) and attachment.reflexive in (
        None,
        attachment.host,
    )


def _within_reach(
    ip: IPAddress, own: NodeAddress, peer: NodeAddress, links: Sequence[IPNetwork], invited: bool
) -> bool:
    ours = {
        at.reflexive for at in own.attachments if at.reflexive is not None and at.host.version == ip.version
    }
    theirs = {
        at.reflexive for at in peer.attachments if at.reflexive is not None and at.host.version == ip.version
    }
    on_link = any(ip.version == network.version and ip in network for network in links)
    if ours & theirs:
        return invited or on_link  # our public address is in our own address: anybody can claim to share it
    if ours and theirs:
        # A whole private internet (a company's, a test bed's): where our own reflexive address is private, so may
        # the peer's be. Otherwise the same private network number is just another site's.
        return any(map(is_private, ours)) and any(ip == at.reflexive for at in peer.attachments)
    return on_link and (invited or not (ours or theirs))


def _listening_ports(peer: NodeAddress) -> set[int]:
    ports: set[int] = set()
    for attachment in peer.attachments:
        for listening in (attachment.udp, attachment.tcp):
            ports |= {listening.local, listening.mapped or 0}
    return ports - {0}
