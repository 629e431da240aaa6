"""Which brokers and STUN servers a node goes by now: those of its settings, and where these name none, those of a list.

This is the one place that says which list that is: the package's, or a newer one that was fetched, before the start or
while the node runs (`take`). Numbers only rise here: no list is followed by an older one.

Two questions have two answers. *Whom to ask* is the present list alone; who keeps connections to servers (discovery,
the signal channel) is told when it changes. *What a name means*, its log-in, where it may lead and whether it is
remembered, goes by all lists of this run: a home broker that has left the list is in addresses that people hold, and
is still dialled.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from warpgate.config import Config
from warpgate.core.server_memory import host_of, servers_of
from warpgate.model.endpoint import Endpoint
from warpgate.model.server_list import ServerList
from warpgate.model.servers import BrokerUrl
from warpgate.net.reach import on_the_internet
from warpgate.net.remembered import Resolve
from warpgate.services.defaults import public_login, public_servers

# What transparent proxies give every name, and nobody's own network (RFC 2544).
MADE_UP = ip_network("198.18.0.0/15")


class ServersInUse:
    """Life: made before the node; `take` whenever there is a newer list. Everything is asked for anew each time."""

    def __init__(self, config: Config, fetched: ServerList | None) -> None:
        """`fetched`: the list to begin with, None for the package's. ConfigError for settings that name no servers."""
        self._brokers = None if config.brokers is None else tuple(map(BrokerUrl.parse, config.brokers))
        self._stun = config.stun
        own = servers_of(config)
        self._own_hosts = frozenset(map(host_of, own))
        self._fetched = fetched
        self._known = frozenset(own)
        # Of fetched lists, and so on a stranger's word: hosts, and log-ins by URL.
        self._fetched_hosts: frozenset[str] = frozenset()
        self._logins = {} if self._brokers is None else {str(broker): broker.login for broker in self._brokers}
        if self.by_list:
            self._learn(self.listed)

    # -- which list holds ----------------------------------------------------------------------------------------

    @property
    def by_list(self) -> bool:
        """Whether the settings leave anything to a list."""
        return self._brokers is None or self._stun is None

    @property
    def listed(self) -> ServerList:
        """That holds now."""
        return public_servers() if self._fetched is None else self._fetched

    def take(self, fetched: ServerList) -> bool:
        """From now on this list holds; False, and nothing happens, unless it is newer and the settings leave it room.

        That it is signed and its last day is not over is for the caller to know (`core/server_lists.py`).
        """
        if not self.by_list or fetched.sequence <= self.listed.sequence:
            return False
        self._fetched = fetched
        self._learn(fetched)
        return True

    def _learn(self, listed: ServerList) -> None:
        brokers = listed.brokers if self._brokers is None else ()
        stun = listed.stun if self._stun is None else ()
        self._known = self._known.union(map(str, brokers), map(str, stun))
        if listed is self._fetched:
            hosts = *(broker.host for broker in brokers), *(server.host for server in stun)
            self._fetched_hosts = self._fetched_hosts.union(hosts)
            self._logins = {**self._logins, **{str(broker): broker.login for broker in brokers}}

    # -- whom to ask ---------------------------------------------------------------------------------------------

    @property
    def brokers(self) -> tuple[str, ...]:
        """Canonical URLs in order of preference, without what they may hold of log-ins."""
        return tuple(map(str, self.listed.brokers if self._brokers is None else self._brokers))

    @property
    def stun(self) -> tuple[str, ...]:
        return tuple(map(str, self.listed.stun)) if self._stun is None else self._stun

    def hosts(self) -> Iterable[str]:
        """The names of both, without those that are addresses."""
        return dict.fromkeys(host for text in (*self.stun, *self.brokers) if (host := host_of(text)) is not None)

    # -- what a name means ---------------------------------------------------------------------------------------

    @property
    def known(self) -> frozenset[str]:
        """All servers of this run and of every kind, as events write them."""
        return self._known

    def login(self, url: str) -> tuple[str, str] | None:
        """What the broker at this canonical URL asks for. Addresses name brokers without: what is secret must not be in
        there, and what is public everybody has. Safe to call in any thread.
        """
        return self._logins.get(url) or public_login(url)

    def guarded(self, resolve: Resolve) -> Resolve:
        """`resolve` as it is, but that a fetched list leads nobody to this machine, or into its networks."""

        async def outside(host: str, port: int) -> tuple[Endpoint, ...]:
            found = await resolve(host, port)
            if host not in self._fetched_hosts or host in self._own_hosts:
                return found
            made_up = tuple(endpoint for endpoint in found if endpoint.ip in MADE_UP)
            return made_up or on_the_internet(found, "a fetched list's")

        return outside
