"""`Lab`: hosts, routers and addresses, put together and taken apart.

    async with Lab() as lab:
        server = lab.add_host("server")
        a = lab.add_host("a", behind="eim-apdf+rst")
        b = lab.add_host("b", behind="edm-block", ipv6=1, link=Quality(loss=0.1))
        done = await a.run(["python", "-m", "something", str(server.ipv4)])

With the default line (10 ms each way) any two hosts are 40 ms apart, there and back. From a host the first
router costs one TTL hop, a carrier's NAT another, then come three hops to the core and three to the other
side's router.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import TracebackType
from typing import Final, Self, TypedDict, TypeVar, Unpack

from warpgate.errors import ConfigError
from warpgate.lab.host import Attached, Host
from warpgate.lab.internet import Access, Internet
from warpgate.lab.kinds import Kind, Layer, kind_of
from warpgate.lab.line import Deliver, Quality
from warpgate.lab.namespace import acquire_privileges
from warpgate.lab.nat import Nat
from warpgate.lab.nat64 import Nat64Router
from warpgate.lab.router import Router
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress
from warpgate.model.translation import WELL_KNOWN_ADDRESSES, WELL_KNOWN_NAME, Nat64Prefix

PUBLIC_HOSTS: Final = IPv4Network("198.51.100.0/24")  # RFC 5737 TEST-NET-2
ROUTERS: Final = IPv4Network("203.0.113.0/24")  # RFC 5737 TEST-NET-3
HOMES: Final = IPv4Network("192.168.0.0/16")
CARRIERS: Final = IPv4Network("100.64.0.0/10")  # RFC 6598
IPV6: Final = IPv6Network("2001:db8::/33")  # RFC 3849; the core's own addresses are in the other half


_T = TypeVar("_T")


class AddressPlan:
    """Hands out addresses that look like the real ones, in order."""

    def __init__(self) -> None:
        self.public = PUBLIC_HOSTS.hosts()
        self.routers = ROUTERS.hosts()
        self._carriers = CARRIERS.subnets(new_prefix=24)
        self._homes = HOMES.subnets(new_prefix=24)
        self._networks6 = IPV6.subnets(new_prefix=64)
        next(self._homes)  # homes begin at 192.168.1.0, IPv6 sites at 2001:db8:0:1::
        next(self._networks6)

    def home(self) -> IPv4Network:
        return _taken(self._homes, "home networks")

    def carrier(self) -> IPv4Network:
        return _taken(self._carriers, "carrier networks")

    def network6(self) -> Iterator[IPv6Address]:
        return _taken(self._networks6, "IPv6 networks").hosts()


@dataclass(frozen=True, slots=True)
class Segment:
    """Where hosts and inner routers are plugged in: the free addresses, and the IPv4 gateway (None: a public one)."""

    addresses: Iterator[IPv4Address]
    prefix: int
    gateway: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Site:
    """Routers from the inside out, with one line to the core; hosts may be added behind the innermost."""

    name: str
    kind: Kind
    routers: tuple[Router, ...]
    access: Access
    segment: Segment
    addresses6: Iterator[IPv6Address]

    @property
    def nat64(self) -> Nat64Prefix | None:
        """The prefix of its translator; None where IPv4 is IPv4."""
        inmost = self.routers[0] if self.routers else None
        return inmost.prefix if isinstance(inmost, Nat64Router) else None


class Wanted(TypedDict, total=False):
    """`ipv4` and `ipv6` say how many addresses of each family an interface gets; one of IPv4 when they do not, behind a
    NAT64 one of IPv6. `link` is the new site's line.
    """

    ipv4: int | None
    ipv6: int | None
    link: Quality | None


class Lab:
    """An internet with hosts. `seed` decides ports, losses and jitter; `link` is the line of every site by default.

    `unreachable`: packets for nobody are answered with ICMP host unreachable instead of silence. Make it
    in a running event loop; raises ConfigError where namespaces cannot be had.
    """

    def __init__(self, *, seed: int = 0, link: Quality | None = None, unreachable: bool = False) -> None:
        acquire_privileges()
        self.link = link or Quality()
        self._rng = random.Random(seed)
        self.internet = Internet(self._rng, unreachable=unreachable)
        self._plan = AddressPlan()
        self._hosts: dict[str, Host] = {}
        self._sites: dict[str, Site] = {}
        self._names: dict[str, tuple[IPAddress, ...]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await asyncio.gather(*(host.close() for host in self._hosts.values()))
        finally:
            self.internet.close()

    def host(self, name: str) -> Host:
        """Raises ConfigError for a name that was not added."""
        if name not in self._hosts:
            raise ConfigError(f"no host {name!r} in this lab; there are {', '.join(self._hosts) or 'none'}")
        return self._hosts[name]

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(self._hosts.values())

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self._sites.values())

    def add_host(
        self,
        name: str,
        behind: str | Sequence[str] | Site = "public",
        **wanted: Unpack[Wanted],
    ) -> Host:
        """A host behind a new site of this kind (several: from the inside out), or behind one that exists.

        Raises ConfigError.
        """
        if name in self._hosts:
            raise ConfigError(f"there is a host {name!r} already")
        host = Host(name)
        try:
            self.add_uplink(host, behind, **wanted)
        except BaseException:
            host.namespace.close()
            raise
        self._hosts[name] = host
        return host

    def add_uplink(
        self,
        host: Host,
        behind: str | Sequence[str] | Site = "public",
        *,
        ipv4: int | None = None,
        ipv6: int | None = None,
        link: Quality | None = None,
        source_routed: bool = True,
        preferred: bool = False,
    ) -> Attached:
        """A further interface of a host; arguments as for `add_host`.

        The system prefers the first one, unless this one is `preferred`. With `source_routed` what is sent from this
        one's addresses leaves by it; most machines have no such rules.
        """
        site = behind
        if not isinstance(site, Site):
            site = self.add_site(f"{host.name}-{host.namespace.tuns}", site, link=link)
        elif link is not None:
            raise ConfigError(f"host {host.name} shares the line of site {site.name}: set its quality there")
        segment, nat64 = site.segment, site.nat64
        ipv4 = (0 if nat64 else 1) if ipv4 is None else ipv4
        ipv6 = (1 if nat64 else 0) if ipv6 is None else ipv6
        if ipv4 and nat64 is not None:
            raise ConfigError(f"site {site.name} has no IPv4 inside, only a NAT64")
        addresses: tuple[tuple[IPAddress, int], ...] = (
            *((_taken(segment.addresses, "IPv4 addresses"), segment.prefix) for _ in range(ipv4)),
            *((_taken(site.addresses6, "IPv6 addresses"), 64) for _ in range(ipv6)),
        )
        uplink = self.internet.attach(host.namespace.add_tun(addresses, segment.gateway, source_routed, preferred))
        if site.routers:
            uplink.up = site.routers[0].from_below
        else:
            uplink.up = site.access.up.send
            site.access.plug(uplink.deliver)
        for ip, _ in addresses:
            self._announce(ip, uplink.deliver, site.routers, site.access)
        attached = Attached(tuple(ip for ip, _ in addresses), uplink, site.routers, site.access)
        host.attached += (attached,)
        if nat64 is not None:
            host.know(WELL_KNOWN_NAME, [*WELL_KNOWN_ADDRESSES, *map(nat64.embed, WELL_KNOWN_ADDRESSES)])
        for name, known in self._names.items():
            host.know(name, _answers(known, host))
        return attached

    def remove_uplink(self, host: Host, attached: Attached) -> None:
        """Take an interface away from a host, as when a cable is pulled or a phone leaves."""
        host.attached = tuple(other for other in host.attached if other is not attached)
        self.internet.withdraw(*attached.addresses)
        self.internet.detach(attached.uplink)

    def move(
        self,
        host: Host,
        behind: str | Sequence[str] | Site = "public",
        **wanted: Unpack[Wanted],
    ) -> Attached:
        """Take all interfaces of a host away and give it one elsewhere, as when a laptop changes its Wi-Fi.

        Arguments as for `add_host`.
        """
        for attached in host.attached:
            self.remove_uplink(host, attached)
        return self.add_uplink(host, behind, **wanted)

    def renumber(self, attached: Attached) -> None:
        """Give the outermost router other public addresses, and no mappings: hosts behind it are told nothing."""
        router = attached.routers[-1] if attached.routers else None
        if router is None or router.nat is None:
            raise ConfigError("no router that has public addresses")
        before = router.nat.external
        router.renumber(*(_taken(self._plan.routers, "router addresses") for _ in before))
        self.internet.withdraw(*before)
        self.internet.route(router.nat.external, attached.access)

    def add_name(self, name: str, *addresses: IPAddress) -> None:
        """Let programs that are started from now on, in any host, resolve this name.

        Behind a NAT64 the network's DNS64 is played as well: names without an IPv6 address get one (RFC 6147).
        """
        self._names[name] = addresses
        for host in self._hosts.values():
            host.know(name, _answers(addresses, host))

    def add_site(self, name: str, kind: str | Sequence[str], *, link: Quality | None = None) -> Site:
        """Routers of this kind with a line to the core, to put hosts behind (one, when public). Raises ConfigError."""
        if name in self._sites:
            raise ConfigError(f"there is a site {name!r} already")
        names = (kind,) if isinstance(kind, str) else tuple(kind)
        layers = tuple(layer for text in names for layer in kind_of(text).layers)
        access = self.internet.connect(link or self.link)
        addresses6 = self._plan.network6()
        gateway6 = _taken(addresses6, "IPv6 addresses")
        segment = Segment(self._plan.public, 32, None)
        routers: tuple[Router, ...] = ()
        for number, layer in reversed(tuple(enumerate(layers))):
            label = f"{name}/{number}" if number else name
            router, segment = self._add_router(label, layer, segment, gateway6, inmost=number == 0)
            router.up = routers[0].from_below if routers else access.up.send
            if not routers:
                access.plug(router.from_above)
            for ip in router.nat.external if router.nat is not None else ():
                self._announce(ip, router.from_above, routers, access)
            routers = (router, *routers)
        site = Site(name, Kind("+".join(names), layers), routers, access, segment, addresses6)
        self._sites[name] = site
        return site

    def _add_router(
        self, label: str, layer: Layer, outer: Segment, gateway6: IPv6Address, *, inmost: bool
    ) -> tuple[Router, Segment]:
        """A router and the segment on its inside; its outside addresses come from `outer`."""
        spec = layer.nat
        source = self._plan.routers if outer.gateway is None else outer.addresses
        own = tuple(_taken(source, "router addresses") for _ in range(spec.pool_size))
        inner = outer
        if spec.translates:
            network = self._plan.home() if inmost else self._plan.carrier()
            inside = network.hosts()
            inner = Segment(inside, network.prefixlen, next(inside))
        make = Nat64Router if layer.nat64 else Router
        router = make(
            label,
            nat=Nat(spec, own if spec.translates else (), self._rng),
            firewall=None if layer.firewall is None else Nat(layer.firewall, (), self._rng),
            inside=(inner.gateway or own[0], gateway6),
            outside=(own[0], gateway6),
            clock=self.internet.scheduler.now,
        )
        return router, inner

    def _announce(self, ip: IPAddress, deliver: Deliver, routers: tuple[Router, ...], access: Access) -> None:
        """Make an address known to the routers from the inside out, up to the first that hides it."""
        for router in routers:
            router.below[ip.packed] = deliver
            deliver = router.from_above
            if ip.version == 4 and router.nat is not None and router.nat.spec.translates:
                return
        self.internet.route((ip,), access)


def _answers(addresses: Sequence[IPAddress], host: Host) -> tuple[IPAddress, ...]:
    """What the resolver of this host's network says."""
    routers = (router for attached in host.attached for router in attached.routers)
    prefix = next((router.prefix for router in routers if isinstance(router, Nat64Router)), None)
    if prefix is None or any(ip.version == 6 for ip in addresses):
        return tuple(addresses)
    return (*addresses, *(prefix.embed(ip) for ip in addresses if isinstance(ip, IPv4Address)))


def _taken(addresses: Iterator[_T], what: str) -> _T:
    for address in addresses:
        return address
    raise ConfigError(f"the lab has run out of {what}")
