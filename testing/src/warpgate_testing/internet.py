"""A whole internet in memory, for tests in virtual time (`clock`): hosts, routers, paths, faults.

    internet = MemoryInternet(seed=7)
    server = internet.host("server", "203.0.113.1")
    router = internet.router("home", "198.51.100.7", NatSpec())
    laptop = internet.host("laptop", "192.168.1.2", behind=router)
    internet.set_path(laptop, server, PathSpec(delay=0.03))

Each host is a `Network`. Packets need time only where the public internet is crossed, unless a path says
otherwise.
"""

from __future__ import annotations

import random
from ipaddress import ip_address

import warpgate.core.launch
import warpgate.services.http_connection  # noqa: F401 - both for the same reason as the QUIC library below
from warpgate.core.connection import quic_library
from warpgate.errors import ConfigError
from warpgate.lab.kinds import kind_of
from warpgate.lab.nat import Nat, NatCounters, NatSpec
from warpgate.lab.spec import Pooling
from warpgate.model.endpoint import Family, IPAddress
from warpgate.model.nat import Filtering, Mapping
from warpgate_testing.network import MemoryNetwork, OpenSocket
from warpgate_testing.wire import (
    LAN,
    Captured,
    Host,
    Member,
    Packet,
    PathSpec,
    Realm,
    Router,
    Wire,
    common_realm,
)

__all__ = [
    "LAN",
    "Captured",
    "MemoryInternet",
    "MemoryNetwork",
    "MemoryRouter",
    "OpenSocket",
    "Packet",
    "PathSpec",
]


class MemoryRouter:
    """A router and the realm behind it."""

    def __init__(self, router: Router, wire: Wire) -> None:
        self.router = router
        self._wire = wire

    @property
    def name(self) -> str:
        return self.router.name

    def renumber(self, *external: str) -> None:
        """Another public address, as after a new dial-in: all mappings are gone, and nobody inside is told."""
        self.router.nats[Family.V4] = self._anew(tuple(ip_address(address) for address in external))

    def forget(self) -> None:
        """All mappings are gone, as after a restart."""
        self.router.nats[Family.V4] = self._anew(self.router.nats[Family.V4].external)

    def _anew(self, external: tuple[IPAddress, ...]) -> Nat:
        return Nat(self.router.nats[Family.V4].spec, external, random.Random(self.router.name))

    def counters(self, family: Family = Family.V4) -> NatCounters:
        """What its NAT or firewall did so far; ConfigError where that family is simply routed."""
        if family not in self.router.nats:
            raise ConfigError(f"{self.name} does nothing to IPv{family}")
        return self.router.nats[family].counters(self._wire.now())


class MemoryInternet:
    """One per test; belongs to the loop it is first used in. Everything random comes from `seed`."""

    def __init__(self, seed: int = 0, path: PathSpec | None = None) -> None:
        """`path` is the default between any two members of the public internet."""
        quic_library.load()  # nodes would wait for a thread, and virtual time does not
        self._rng = random.Random(seed)
        self._wire = Wire(random.Random(self._rng.getrandbits(64)))
        self._public = Realm(PathSpec() if path is None else path)
        self._networks: list[MemoryNetwork] = []
        self._names: dict[str, tuple[IPAddress, ...]] = {}

    # -- topology --------------------------------------------------------------------------------------------

    def host(self, name: str, *addresses: str, behind: MemoryRouter | None = None) -> MemoryNetwork:
        """A host with these addresses, of either family, on the public internet or behind a router."""
        realm = self._public if behind is None else behind.router.inside
        ips = tuple(ip_address(address) for address in addresses)
        for ip in ips:
            if any(ip in member.addresses for member in realm.members if isinstance(member, Host)):
                raise ConfigError(f"{ip} is taken")
        rng = random.Random(self._rng.getrandbits(64))
        network = MemoryNetwork(name, ips, realm, self._wire, rng, self._names)
        self._networks.append(network)
        return network

    def router(
        self,
        name: str,
        external: str | tuple[str, ...],
        spec: NatSpec | None = None,
        *,
        v6: NatSpec | None = None,
        behind: MemoryRouter | None = None,
        lan: PathSpec = LAN,
    ) -> MemoryRouter:
        """A NAT for IPv4 with `external` addresses of its own (() with a spec that does not translate), and a
        firewall for IPv6 (None: IPv6 is simply routed). `behind` another one it is a double NAT. `lan`: the
        paths inside.
        """
        addresses = (external,) if isinstance(external, str) else external
        rng = random.Random(self._rng.getrandbits(64))
        nat = Nat(NatSpec() if spec is None else spec, [ip_address(address) for address in addresses], rng)
        nats = {Family.V4: nat}
        if v6 is not None:
            nats[Family.V6] = Nat(v6, (), rng)
        realm = self._public if behind is None else behind.router.inside
        router = Router(name, realm, nats)
        router.inside.path = lan
        realm.members.append(router)
        return MemoryRouter(router, self._wire)

    def name(self, host: str, *addresses: str) -> None:
        """Let `resolve` know a name, everywhere."""
        self._names[host] = tuple(ip_address(address) for address in addresses)

    def site(self, name: str, kind: str, number: int, *, v6: bool = False) -> tuple[MemoryNetwork, MemoryRouter | None]:
        """A host behind routers of a kind (`lab.kinds`), and the innermost of them. `number` makes its addresses:
        198.51.100.N outside, 192.168.N.2 inside, with `v6` 2001:db8:N::2 as well.
        """
        public, private = f"198.51.100.{number}", f"192.168.{number}.2"
        layers = kind_of(kind).layers
        router: MemoryRouter | None = None
        for depth, layer in enumerate(reversed(layers)):
            external: tuple[str, ...] = (public if depth == 0 else f"100.64.{number}.1",)
            if layer.nat.pooling is not Pooling.PAIRED:
                external += tuple(f"198.51.100.{number + 10 * more}" for more in range(1, layer.nat.pool_size))
            if not layer.nat.translates:
                external, private = (), public
            firewall = layer.firewall if v6 else None
            router = self.router(f"{name}{depth}", external, layer.nat, v6=firewall, behind=router)
        addresses = [private if layers else public, *([f"2001:db8:{number}::2"] if v6 else [])]
        return self.host(name, *addresses, behind=router), router

    # -- paths and faults ------------------------------------------------------------------------------------

    def set_path(
        self,
        a: MemoryNetwork | MemoryRouter,
        b: MemoryNetwork | MemoryRouter,
        path: PathSpec,
        back: PathSpec | None = None,
    ) -> None:
        """How packets fare from a to b, and `back` from b to a (the same unless given).

        It holds where the two meet: between the outermost routers of two sites, it holds for all hosts behind
        them.
        """
        realm, one, other = common_realm(_member(a), _member(b))
        realm.paths[one, other] = path
        realm.paths[other, one] = path if back is None else back

    def partition(self, a: MemoryNetwork | MemoryRouter, b: MemoryNetwork | MemoryRouter) -> None:
        """Lose everything between the two from now on (like `set_path`, for their sites)."""
        realm, one, other = common_realm(_member(a), _member(b))
        realm.cut.add(frozenset((one, other)))

    def heal(self, a: MemoryNetwork | MemoryRouter, b: MemoryNetwork | MemoryRouter) -> None:
        """End a partition."""
        realm, one, other = common_realm(_member(a), _member(b))
        realm.cut.discard(frozenset((one, other)))

    def move(self, host: MemoryNetwork, *addresses: str, behind: MemoryRouter | None = None) -> None:
        """Plug a host in elsewhere, with these addresses; its programs notice at once."""
        realm = self._public if behind is None else behind.router.inside
        host.move(realm, *(ip_address(address) for address in addresses))

    # -- observation -----------------------------------------------------------------------------------------

    def open_sockets(self) -> tuple[OpenSocket, ...]:
        """Everything programs have opened and not closed; empty at the end of a clean test."""
        return tuple(entry for network in self._networks for entry in network.open_sockets())

    def capture(self) -> list[Captured]:
        """A list that grows from now on with every packet a host sends or receives."""
        packets: list[Captured] = []
        self._wire.captures.append(packets)
        return packets

    def drops(self, reason: str) -> int:
        """How many packets were lost so: "loss", "ttl", "partition", "host is down", "no such address", or a
        router's reason (`lab.nat`).
        """
        return self._wire.drops[reason]


def _member(place: MemoryNetwork | MemoryRouter) -> Member:
    return place.host if isinstance(place, MemoryNetwork) else place.router


def firewall(filtering: Filtering = Filtering.APDF) -> NatSpec:
    """A stateful firewall without translation: what IPv6 home routers have (RFC 6092)."""
    return NatSpec(mapping=Mapping.NONE, filtering=filtering)
