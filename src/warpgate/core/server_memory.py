"""Which outside servers were good where: their addresses for when DNS is missing, and the order to try brokers in.

It goes by what servers have done, as events tell: a broker that took our subscription, a STUN answer, an allocation.
What it knows is kept by network, as one that blocks a port or lies about names says nothing about another; the public
addresses of servers are the same everywhere, and so help out elsewhere, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import field
from ipaddress import ip_network
from typing import TypeVar

from warpgate.config import Config
from warpgate.core.disk.store import Store
from warpgate.errors import ConfigError
from warpgate.events import BrokerConnected, Event, MappingLearnt, NameFound, RelayAllocated, ServerFailed
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress
from warpgate.model.scope import Scope, scope_of
from warpgate.model.servers import BrokerUrl, NameServerUrl, StunServer
from warpgate.model.turn_server import TurnServer
from warpgate.net.network import Gateway, Interface

T = TypeVar("T")

# Networks of one machine: home, work, two telephones, some trains. The one that was left first makes room.
MOST_NETWORKS = 16
MOST_HOSTS = 32
MOST_ADDRESSES = 4
MOST_BROKERS = 16
# Operators renumber rarely and announce it for weeks; what blocks a port today may be gone tomorrow.
GOOD_FOR = 30 * 86400.0
BAD_FOR = 86400.0
KEY_SIZE = 8


@dataclass(frozen=True, slots=True)
class KnownHost:
    """Where a name has led: `seen` in Unix seconds."""

    ips: tuple[IPAddress, ...]
    seen: float


@dataclass(frozen=True, slots=True)
class KnownBroker:
    """`rtt` in seconds; None: it failed where others did not."""

    rtt: float | None
    seen: float


@dataclass(slots=True)
class KnownNetwork:
    """What was learnt at one network, by host and by broker URL."""

    hosts: dict[str, KnownHost] = field(default_factory=dict)
    brokers: dict[str, KnownBroker] = field(default_factory=dict)


# By the key of the network, the newest last.
Networks = dict[bytes, KnownNetwork]


class ServerMemory:
    """Life: made; `moved` at the start and with each change of networks; `save` now and then and at the end.

    `ours` are the servers of the settings, in the texts that events have: nobody else makes it remember anything, since
    the brokers that peers name could push ours out.
    """

    def __init__(self, store: Store[Networks], wall_clock: Callable[[], float], ours: Collection[str]) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self.follow(ours)
        self._networks = store.load()
        self._key = bytes(KEY_SIZE)
        self._heard: dict[str, tuple[IPAddress, ...]] = {}  # where names lead now, of our servers alone
        self._failed: dict[str, float] = {}  # since the last move
        self._since = wall_clock()  # when we came to this network
        self._dirty = False

    def follow(self, ours: Collection[str]) -> None:
        """These are ours from now on."""
        self._ours = frozenset(ours)
        self._hosts = frozenset(filter(None, map(host_of, ours)))

    # -- what happens --------------------------------------------------------------------------------------------

    def moved(self, interfaces: Iterable[Interface], gateways: Iterable[Gateway]) -> None:
        """The network is told by its routers and the numbers of its links; kept as a hash, which names no place."""
        links = {str(ip_network((interface.ip, interface.prefix), strict=False)) for interface in interfaces}
        routers = {f"{gateway.interface} {gateway.ip}" for gateway in gateways}
        words = "\n".join(sorted(links) + sorted(routers))
        key = hashlib.sha256(words.encode()).digest()[:KEY_SIZE]
        if key != self._key:
            self.save()
            self._key = key
            self._since = self._wall_clock()
            self._heard.clear()
            self._failed.clear()

    def heard(self, host: str, ips: tuple[IPAddress, ...]) -> None:
        """Where this name leads now; worth nothing before the server has done its part."""
        if host in self._hosts:
            self._heard[host] = ips[:MOST_ADDRESSES]

    def observe(self, event: Event) -> None:
        """Of the node's own events."""
        match event:
            case BrokerConnected(url=url, rtt=rtt) if url in self._ours:
                self._failed.pop(url, None)
                self._rate(url, rtt)
                self._good(host_of(url))
            case ServerFailed(service="broker", server=url) if url in self._ours:
                self._failed[url] = self._wall_clock()
            case RelayAllocated(server=server) | NameFound(server=server) if server in self._ours:
                self._good(host_of(server))
            case MappingLearnt(server=server):
                ip = server.rpartition(":")[0].strip("[]")
                for host, ips in self._heard.items():
                    if ip in map(str, ips):
                        self._good(host)
                        break

    # -- what is asked -------------------------------------------------------------------------------------------

    def recall(self, host: str) -> tuple[IPAddress, ...]:
        """The addresses that this name had when it was good: here first, then elsewhere, the newest first."""
        if host not in self._hosts:
            return ()
        here = self._networks.get(self._key)
        found = [] if here is None else [known for name, known in here.hosts.items() if name == host]
        others = [
            KnownHost(tuple(ip for ip in known.ips if scope_of(ip) is Scope.GLOBAL), known.seen)
            for network in self._networks.values()
            if network is not here and (known := network.hosts.get(host)) is not None
        ]
        found += sorted(others, key=lambda known: -known.seen)
        ips = dict.fromkeys(ip for known in found if self._fresh(known.seen, GOOD_FOR) for ip in known.ips)
        return tuple(ips)[:MOST_ADDRESSES]

    def ranked(self, urls: Sequence[str]) -> tuple[str, ...]:
        """Those that were good here first, by their round trips; last those that failed while others did not."""
        here = self._networks.get(self._key, KnownNetwork()).brokers

        def rank(url: str) -> tuple[int, float]:
            known = here.get(url)
            if known is None or not self._fresh(known.seen, BAD_FOR if known.rtt is None else GOOD_FOR):
                return 1, 0.0
            return (2, 0.0) if known.rtt is None else (0, known.rtt)

        return tuple(sorted(urls, key=rank))

    def good_here(self) -> tuple[tuple[str, float], ...]:
        """When each server was good at this network last, in Unix seconds: a broker by its URL, others by host."""
        here = self._networks.get(self._key, KnownNetwork())
        brokers = ((url, known.seen) for url, known in here.brokers.items() if known.rtt is not None)
        return (*brokers, *((host, known.seen) for host, known in here.hosts.items()))

    def save(self) -> None:
        """If there is news. Other processes may have saved theirs meanwhile: only this network's part is replaced."""
        here = self._networks.get(self._key)
        if not self._dirty or here is None:
            return
        self._dirty = False
        for url, seen in self._failed.items():
            known = here.brokers.get(url)
            if known is None or known.seen < self._since:  # what was good here is only gone with the network
                here.brokers[url] = KnownBroker(None, seen)
        networks = self._store.load()
        networks[self._key] = _merged(networks.pop(self._key, KnownNetwork()), here)
        while len(networks) > MOST_NETWORKS:
            del networks[next(iter(networks))]
        self._store.save(networks)

    def _good(self, host: str | None) -> None:
        ips = self._heard.get(host or "", ())
        kept = tuple(ip for ip in ips if scope_of(ip) in (Scope.GLOBAL, Scope.SITE))
        if host is not None and kept:
            self._here.hosts[host] = KnownHost(kept, self._wall_clock())
            self._dirty = True

    def _fresh(self, seen: float, life: float) -> bool:
        """A clock that was set back makes nothing last for ever."""
        return -BAD_FOR <= self._wall_clock() - seen <= life

    def _rate(self, url: str, rtt: float) -> None:
        self._here.brokers[url] = KnownBroker(rtt, self._wall_clock())
        self._dirty = True

    @property
    def _here(self) -> KnownNetwork:
        return self._networks.setdefault(self._key, KnownNetwork())


def host_of(server: str) -> str | None:
    """The host in the text of a server of any kind; None when there is none to look up."""
    text = server.removeprefix("turn:").partition("?")[0]
    for parse in (BrokerUrl.parse, NameServerUrl.parse, StunServer.parse):
        try:
            host = parse(text).host
        except ConfigError:
            continue
        return None if ":" in host or host.rpartition(".")[2].isdigit() else host
    return None


def servers_of(config: Config) -> tuple[str, ...]:
    """All that the settings name, as events write it. ConfigError."""
    brokers = () if config.brokers is None else tuple(map(BrokerUrl.parse, config.brokers))
    stun = () if config.stun is None else tuple(map(StunServer.parse, config.stun))
    others = *map(TurnServer.parse, config.turn), *map(NameServerUrl.parse, config.names)
    return tuple(map(str, (*brokers, *stun, *others)))


def _merged(stored: KnownNetwork, ours: KnownNetwork) -> KnownNetwork:
    """The newer of each; the oldest make room."""
    hosts = sorted((*stored.hosts.items(), *ours.hosts.items()), key=lambda item: item[1].seen)
    brokers = sorted((*stored.brokers.items(), *ours.brokers.items()), key=lambda item: item[1].seen)
    return KnownNetwork(_last(hosts, MOST_HOSTS), _last(brokers, MOST_BROKERS))


def _last(items: list[tuple[str, T]], most: int) -> dict[str, T]:
    newest = dict(items)
    return dict(list({name: newest[name] for name, _ in reversed(items)}.items())[:most])
