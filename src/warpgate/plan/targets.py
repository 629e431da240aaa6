"""Which of a peer's endpoints may be tried, and in which order: pure policy over two addresses.

An address is a claim by somebody we may not know. So a private endpoint is tried only when it can be ours as well
(same public address, or on a link of ours), our own machine only where our user asked for a peer that listens there,
and some endpoints are never tried at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_network
from itertools import groupby

from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, LearntBy, NodeAddress
from warpgate.model.alternating import alternating
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.nat import Mapping
from warpgate.model.scope import IPNetwork, Scope, carried_by, is_private, scope_of, site_of
from warpgate.model.translation import Nat64Prefix

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


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What policy knows of this machine: its on-link prefixes, all of its addresses (also of interfaces that the node
    does not use), and the prefix of the network's NAT64.
    """

    links: tuple[IPNetwork, ...] = ()
    machine: frozenset[IPAddress] = frozenset()
    nat64: Nat64Prefix | None = None

    def __hash__(self) -> int:
        return hash(self.machine)  # which keeps it

    @classmethod
    def of(cls, own: NodeAddress) -> Surroundings:
        """What an address says of its own: the usual prefixes around its hosts."""
        return cls(networks_of(own.attachments), frozenset(at.host for at in own.attachments))


def facing_outside(address: NodeAddress) -> list[Attachment]:
    """Attachments by which the internet is reached: bridges and idle interfaces have no reflexive address."""
    usable = [at for at in address.attachments if at.reflexive is not None or not is_private(at.host)]
    return usable or list(address.attachments)


def networks_of(attachments: Iterable[Attachment]) -> tuple[IPNetwork, ...]:
    """The usual on-link prefixes around host addresses, for when the interfaces' own are not at hand."""
    return tuple(ip_network((at.host, 24 if at.host.version == 4 else 64), strict=False) for at in attachments)


def refusal(
    endpoint: Endpoint,
    own: NodeAddress,
    peer: NodeAddress,
    around: Surroundings | None = None,
    invited: bool = True,
) -> str | None:
    """Why nothing may be sent to `endpoint` on this peer's word, or None when it may.

    `around`: where we are; None: what can be told from `own`. `invited`: our user asked for this peer; an offer from
    anybody else must show that it shares our public address before anything of our LAN is touched.
    """
    ip = endpoint.ip
    around = Surroundings.of(own) if around is None else around
    if (kind := _no_host(ip, around)) is not None:
        return f"{endpoint} is {kind}"
    if endpoint.port < WELL_KNOWN_PORTS and endpoint.port not in _listening_ports(peer):
        return f"{endpoint}: ports below 1024 are tried only where the peer itself listens"
    if scope_of(ip) is Scope.LOOPBACK:
        at_home = any(at.host.is_loopback for at in own.attachments)
        return None if at_home and _listens(peer, endpoint) else f"{endpoint} is a loopback address"
    if around.machine & {ip, *carried_by(ip, around.nat64)}:
        # Services of this machine trust it more than others. Another node on it can be called, but not have us call.
        called = invited and _listens(peer, endpoint)
        return None if called else f"{endpoint} is this machine's own address"
    if is_private(ip) and not _within_reach(ip, own, peer, around.links, invited):
        return f"{endpoint} is private, and the peer shares neither our public address nor a network of ours"
    return None


def broker_refusal(endpoint: Endpoint, around: Surroundings) -> str | None:
    """Why no broker is called at `endpoint` when it is somebody else's address that names it, or None when it may be.

    Whoever made the address may be a stranger, and MQTT is spoken to whatever listens there. So this machine is never
    called, and a private host only on a link of ours; our own settings may name any. `endpoint` is what a name
    resolved to, or its owner could name one host and mean another.
    """
    ip = endpoint.ip
    if (kind := _no_host(ip, around)) is not None:
        return f"{endpoint} is {kind}"
    if scope_of(ip) is Scope.LOOPBACK or around.machine & {ip, *carried_by(ip, around.nat64)}:
        return f"{endpoint} is this machine's own address"
    if not is_private(ip):
        return None
    if endpoint.port < WELL_KNOWN_PORTS:
        return f"{endpoint} is private, and no broker's port"
    if not any(ip.version == network.version and ip in network for network in around.links):
        return f"{endpoint} is private, and not on a network of ours"
    return None


def _no_host(ip: IPAddress, around: Surroundings) -> str | None:
    """What kind of address this is, if it is none of a host beyond our links."""
    for inside in carried_by(ip, around.nat64):
        if scope_of(inside) is not Scope.GLOBAL:
            return f"{inside} inside an IPv6 address, and that is {scope_of(inside).value}"
    if any(ip == link.broadcast_address and link.num_addresses > 2 for link in around.links if ip.version == 4):
        return "a broadcast address"
    scope = scope_of(ip, around.nat64)
    return scope.value if scope in (Scope.NOBODY, Scope.LINK, Scope.TRANSLATOR) else None


@lru_cache(maxsize=64)  # each strategy asks, and more than once
def pairs(
    own: NodeAddress,
    peer: NodeAddress,
    transport: Transport,
    around: Surroundings | None = None,
    invited: bool = True,
) -> tuple[Pair, ...]:
    """All pairs worth trying, nearby first, then IPv6, then the rest; at most 24, on a stranger's word 8.

    Where there are more, each of these kinds keeps its share.
    """
    around = Surroundings.of(own) if around is None else around
    found: dict[tuple[Endpoint, Endpoint], Pair] = {}
    for mine in own.attachments:
        base = mine.host_endpoint(transport)
        if base is None:
            continue
        for theirs in peer.attachments:
            if theirs.family is mine.family and theirs.host.is_loopback == mine.host.is_loopback:
                for pair in _attachment_pairs(base, mine, theirs, transport):
                    if refusal(pair.remote, own, peer, around, invited) is None:
                        found.setdefault((pair.base, pair.remote), pair)
    pools = {ip for theirs in peer.attachments for ip in theirs.pool}
    ordered = sorted(
        found.values(),
        key=lambda pair: (not pair.nearby, pair.remote.ip in pools, pair.remote.ip.version != 6),
    )
    most = MAX_PAIRS if invited else MAX_PAIRS_UNINVITED
    if len(ordered) <= most:
        return tuple(ordered)
    by_kind = groupby(ordered, key=lambda pair: (pair.nearby, pair.remote.ip in pools, pair.remote.ip.version))
    kept = frozenset(alternating([_crosswise(tuple(alike)) for _, alike in by_kind])[:most])
    return tuple(pair for pair in ordered if pair in kept)


def _crosswise(alike: Sequence[Pair]) -> list[Pair]:
    """Those of the first of our sockets and of the peer's first endpoint first, so that a limit leaves some of each."""
    bases = list(dict.fromkeys(pair.base for pair in alike))
    remotes = list(dict.fromkeys(pair.remote for pair in alike))
    return sorted(alike, key=lambda pair: bases.index(pair.base) + remotes.index(pair.remote))


def refusals(own: NodeAddress, peer: NodeAddress, around: Surroundings | None = None) -> tuple[str, ...]:
    """Why endpoints of the address of a peer that came are left out, one sentence each: for reports."""
    reasons: dict[str, None] = {}
    for theirs in peer.attachments:
        for transport in Transport:
            for endpoint in (theirs.host_endpoint(transport), theirs.reflexive_endpoint(transport)):
                reason = None if endpoint is None else refusal(endpoint, own, peer, around, invited=False)
                if reason is not None:
                    reasons.setdefault(reason)
    return tuple(reasons)


def names_a_stranger(endpoint: Endpoint, peer: NodeAddress) -> bool:
    """Whether its IP address is not one of the peer's own, as its sealed address gives them."""
    return all(endpoint.ip not in (at.host, *at.outside) for at in peer.attachments)


def _attachment_pairs(base: Endpoint, mine: Attachment, theirs: Attachment, transport: Transport) -> list[Pair]:
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
    if theirs.pool and theirs.nat.mapping.endpoint_dependent:
        # Its packets will come from any of these, which a filter of ours by address must know; the port is any.
        port = theirs.listening(transport).local
        known = {pair.remote.ip for pair in found}
        opened = [Endpoint(ip, port) for ip in theirs.outside if port and ip not in known]
        found += [Pair(base, endpoint, nearby=False, open=False) for endpoint in opened]
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
    ours = {at.reflexive for at in own.attachments if at.reflexive is not None and at.host.version == ip.version}
    theirs = {at.reflexive for at in peer.attachments if at.reflexive is not None and at.host.version == ip.version}
    on_link = any(ip.version == network.version and ip in network for network in links)
    if ours & theirs:
        return invited or on_link  # our public address is in our own address: anybody can claim to share it
    if ours and theirs:
        # A whole private internet (a company's, a test bed's): where our own reflexive address is private, so may
        # the peer's be, in the same one and beyond our NAT. Else that network number is just another site's.
        shared = site_of(ip) in {site_of(our) for our in ours if is_private(our)}
        return shared and ip in theirs and (invited or not on_link)
    return on_link and (invited or not (ours or theirs))


def _listens(peer: NodeAddress, endpoint: Endpoint) -> bool:
    """Whether the peer's address says that it has a socket of its own there."""
    return any(at.host == endpoint.ip and endpoint.port in (at.udp.local, at.tcp.local) for at in peer.attachments)


def _listening_ports(peer: NodeAddress) -> set[int]:
    ports: set[int] = set()
    for attachment in peer.attachments:
        for listening in (attachment.udp, attachment.tcp):
            ports |= {listening.local, listening.mapped or 0}
    return ports - {0}
